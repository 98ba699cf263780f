"""The same run on any mesh, and parameters cut where the rules say."""

import dataclasses
import functools
import pathlib

import jax
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec as P

from mimjax import config, gradients, meshes, objectives, sharding, train
from mimjax.meshes import Mesh
from mimjax.run import setup

# The batch is shared over data and fsdp alike, parameters are cut over fsdp and tensor.
MESHES = {"8": (1, 8, 1), "2 x 2 x 2": (2, 2, 2)}
# Of every objective, and what it does on another encoder.
RUNS = [*objectives.names(), "simmim_swin"]
DRAWING = [n for n in objectives.names() if hasattr(objectives.load(n), "draw")]


@functools.cache
def first_state(objective):
    """Where the runs begin, on the host."""
    given = tiny.resolve(objective)
    return jax.device_get(tiny.start(given, tiny.mesh_of()))


@functools.cache
def ten_steps(objective, shape=(1, 1, 1)):
    """What ten updates report, and the run after them."""
    given, mesh = tiny.resolve(objective), tiny.mesh_of(*shape)
    host = first_state(objective)
    state = jax.device_put(host, sharding.shardings(host, mesh))
    run = tiny.Run(given, mesh, state)
    return [run.step() for _ in range(10)], run


def flat(tree):
    """All numbers of a tree."""
    leaves = jax.tree.leaves(jax.device_get(tree))
    return np.concatenate([np.zeros(0), *(leaf.ravel() for leaf in leaves)])


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("objective", RUNS)
def test_losses_agree_on_every_mesh(objective, mesh):
    (found, one), (wanted, other) = (
        ten_steps(objective, shape) for shape in (MESHES[mesh], (1, 1, 1))
    )
    # Where SimMIM's error changes its sign its gradient jumps.
    for name, relative in (("loss", 1e-5), ("grad_norm", 1e-3)):
        ours, theirs = ([values[name] for values in run] for run in (found, wanted))
        np.testing.assert_allclose(ours, theirs, rtol=relative)
    for kind in ("params", "ema"):
        runs = first_state(objective), one.state, other.state
        before, ours, theirs = (flat(getattr(state, kind)) for state in runs)
        moved = np.linalg.norm(theirs - before)
        assert moved > 0 or not len(before), "there is training"
        assert np.linalg.norm(ours - theirs) <= 1e-2 * moved


@pytest.mark.parametrize("objective", RUNS)
def test_a_run_goes_on_from_what_is_saved_of_it(objective):
    """State, seed and data alone decide: from a copy of the fifth state the same."""
    wanted, run = ten_steps(objective)
    host, found = first_state(objective), []
    for step in range(10):
        if step in (0, 5):
            state = jax.device_put(host, sharding.shardings(host, run.mesh))
        state, values = run.update(state, run.batch(step))
        found.append({name: float(value) for name, value in values.items()})
        if step == 4:
            host = jax.device_get(state)
    assert found == wanted


@pytest.mark.parametrize("objective", DRAWING)
def test_masks_are_the_same_bits_on_every_mesh(objective):
    given = tiny.resolve(objective)
    params = {"params": first_state(objective).params}

    def draw(step):
        rngs = train.streams(0, step)
        return given.objective.apply(params, 8, method="draw", rngs=rngs)

    found = []
    for shape in [(1, 1, 1), *MESHES.values()]:
        cut = sharding.batch(tiny.mesh_of(*shape))
        drawn = jax.jit(draw, out_shardings=cut)(3)
        found.append(tiny.bits(drawn))
    assert found[1:] == found[:1] * 2
    assert found[0] != tiny.bits(jax.jit(draw)(4)), "another step, another mask"


def test_parameters_start_the_same_on_every_mesh():
    given = tiny.resolve("mae")
    cut, alone = (
        jax.tree.leaves(train.start_state(given, tiny.mesh_of(*shape)))
        for shape in [(2, 2, 2), (1, 1, 1)]
    )
    for ours, theirs in zip(cut, alone, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)


def test_parameters_and_moments_are_cut_alike_and_stay_so():
    _, run = ten_steps("simmim", (2, 2, 2))
    layer = run.state.params["encoder"]["blocks"]["layers"]
    cuts = {
        "attn/qkv/kernel": P(None, "fsdp", None, "tensor", None),
        "attn/qkv/bias": P(None, None, "tensor", None),
        "attn/out/kernel": P(None, "tensor", None, None),
        "mlp/up/kernel": P(None, "fsdp", "tensor"),
        "mlp/up/bias": P(None, "tensor"),
        "mlp/down/kernel": P(None, "tensor", "fsdp"),
        "norm1/scale": P(None, None),
    }
    for path, cut in cuts.items():
        array = functools.reduce(lambda tree, key: tree[key], path.split("/"), layer)
        wanted = jax.sharding.NamedSharding(run.mesh, cut)
        assert array.sharding.is_equivalent_to(wanted, array.ndim), path
        pieces = np.prod([2 for axis in cut if axis])
        assert array.addressable_shards[0].data.size * pieces == array.size, path
    adam, _ = run.state.opt
    for moment in (adam.mu, adam.nu):
        same = jax.tree.map(
            lambda m, p: m.sharding.is_equivalent_to(p.sharding, m.ndim),
            moment,
            run.state.params,
        )
        assert all(jax.tree.leaves(same))


# The tokenizer of DALL-E has no scanned layers.
@pytest.mark.parametrize("objective", sorted({*objectives.names()} - {"dvae"}))
def test_the_axis_of_scanned_layers_is_never_cut(objective, monkeypatch):
    monkeypatch.setattr(meshes, "SMALLEST_CUT", 1)
    given = tiny.resolve(objective, encoder__depth=8, encoder__width=36)
    mesh = tiny.mesh_of(1, 8, 1)
    cut = 0
    for path, array in jax.tree.leaves_with_path(train.abstract_state(given, mesh)):
        spec = array.sharding.spec
        if "/layers/" in sharding.name_of(path):
            assert spec[0] is None, sharding.name_of(path)
        cut += any(spec)
    assert cut, "something is cut"


def test_a_state_is_given_up_to_the_step_and_nothing_compiles_again():
    _, run = ten_steps("classify", (1, 8, 1))
    before = run.state
    with tiny.compilations() as compiled:
        run.step()
        assert compiled == []
        jax.jit(lambda x: x - 12345.0)(1.0)
        assert compiled, "the listener hears"
    assert all(x.is_deleted() for x in jax.tree.leaves(before))


def test_a_batch_in_two_parts_is_the_same_update():
    """Where nothing is drawn."""
    off = {f"objective__{name}": 0 for name in ("mixup", "cutmix", "erasing")}
    found = []
    for parts in (1, 2):
        given = tiny.resolve("classify", optim__accumulate=parts, **off)
        run = tiny.Run(given, tiny.mesh_of(parts))
        found.append([run.step() for _ in range(5)])
    for name in ("loss", "grad_norm", "accuracy"):
        ours, theirs = ([step[name] for step in steps] for steps in found)
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)


def test_parts_of_a_batch_draw_their_own_masks():
    """Part j holds the rows j, j + 2, ...; each has keys of its own."""
    mesh = tiny.mesh_of()
    seen = []

    def gradient(batch, keys):
        jax.debug.callback(lambda *values: seen.append(values), *batch.values(), *keys)
        return batch["row"].sum()

    def call():
        keys = {"mask": jax.random.key(0)}
        batch = {"row": jax.numpy.arange(8.0)}
        return gradients.accumulate(
            lambda part, rngs, moving: (
                gradient(part, [jax.random.key_data(rngs["mask"])]),
                2 * moving + part["row"][0],
            ),
            batch,
            keys,
            jax.numpy.ones(()),
            2,
            mesh,
        )

    found, moved = jax.jit(call)()
    assert float(found) == 14.0
    # From 1 to 2 * 1 + 0, and then to 2 * 2 + 1.
    assert float(moved) == 5.0
    jax.effects_barrier()
    (rows, key), (others, other) = sorted((r.tolist(), k.tolist()) for r, k in seen)
    assert (rows, others) == ([0, 2, 4, 6], [1, 3, 5, 7])
    assert key != other


def test_each_process_supplies_the_rows_of_its_devices():
    for shape in MESHES.values():
        rows = sharding.local_rows(tiny.mesh_of(*shape), 16)
        np.testing.assert_array_equal(rows, np.arange(16))
    np.testing.assert_array_equal(sharding.local_rows(tiny.mesh_of(), 3), [0, 1, 2])


@pytest.mark.parametrize(
    ("mesh", "state_bytes", "chosen"),
    [
        (Mesh(), 0, Mesh(8, 1, 1)),
        (Mesh(), 2**40, Mesh(1, 8, 1)),
        (Mesh(tensor=2), 0, Mesh(4, 1, 2)),
        (Mesh(data=2), 0, Mesh(2, 4, 1)),
        (Mesh(fsdp=2), 2**40, Mesh(4, 2, 1)),
        (Mesh(2, 2, 2), 2**40, Mesh(2, 2, 2)),
    ],
)
def test_axes_left_open_are_filled_in(mesh, state_bytes, chosen):
    assert meshes.problems(mesh, 8) == []
    assert meshes.choose(mesh, 8, state_bytes, {}) == chosen


L, B = [(24, 1024, 4096)], [(12, 768, 3072)]


@pytest.mark.parametrize(
    ("shapes", "devices", "fsdp"),
    [
        *[(L, 6, 2), (L, 12, 4), (L, 24, 8), (L, 48, 16), (L, 256, 256), (L, 3, 3)],
        *[(B, 6, 6), (B, 24, 24), (B + L, 24, 8), (9 * B + L, 6, 6)],
    ],
)
def test_large_parameters_are_cut_so_that_a_device_holds_least(shapes, devices, fsdp):
    """By 24 nothing of ViT-L can be divided, and nothing would be cut."""
    size = 2 * meshes.AUTO_FSDP_BYTES
    named = {f"{i}/layers/mlp/up/kernel": shape for i, shape in enumerate(shapes)}
    found = meshes.choose(Mesh(), devices, size, named)
    assert found == Mesh(devices // fsdp, fsdp, 1)


def test_fsdp_is_chosen_by_what_is_really_cut():
    """MAE-H is 1,280 wide, its decoder 512: 512 divides few arrays, 256 nearly all."""
    path = str(pathlib.Path(__file__).parents[1] / "configs" / "mae_h14.py")
    given = config.resolve(path, [], None, with_data=False)
    shapes = sharding.shapes_of(train.shapes_of(given).params)
    found = meshes.choose(Mesh(), 512, 2 * meshes.AUTO_FSDP_BYTES, shapes)
    assert found == Mesh(2, 256, 1)
    assert 4 * meshes.held(shapes, 512, 1) > 0.75 * 2**30
    assert 4 * meshes.held(shapes, 256, 1) < 0.02 * 2**30
    # Heads are cut over tensor first, and only the rest over fsdp.
    shape = (1024, 3, 16, 64)
    name = "blocks/attn/qkv/kernel"
    assert meshes.cuts(name, shape, 16, 16) == ["fsdp", None, "tensor", None]
    assert meshes.held({name: shape}, 16, 16) == 3 * 64 * 1024 // 16


@pytest.mark.parametrize("objective", ["classify", "vqkd", "simmim_swin"])
def test_parameters_are_cut_when_a_device_cannot_hold_them_all(objective, monkeypatch):
    """With their gradients and moments, a frozen teacher and a moving average."""
    given = tiny.resolve(objective)
    state = train.shapes_of(given)
    assert bool(train.count(state.frozen)) == (objective == "vqkd")
    assert bool(state.ema) == (objective == "simmim_swin")
    size = 4 * (train.count(state) + train.count(state.params))
    monkeypatch.setattr(meshes, "AUTO_FSDP_BYTES", size)
    assert setup.place(given)[1].shape == {"data": 8, "fsdp": 1, "tensor": 1}
    monkeypatch.setattr(meshes, "AUTO_FSDP_BYTES", size - 1)
    assert setup.place(given)[1].shape == {"data": 1, "fsdp": 8, "tensor": 1}


def placed(mesh, objective, **changes):
    """The mesh of a tiny run that asks for this one."""
    given = dataclasses.replace(tiny.resolve(objective, **changes), mesh=mesh)
    return setup.place(given)[1]


def test_what_tensor_does_not_divide_is_refused_of_all_stacks():
    """None of them would be shared, the decoder of MAE no more than the encoder."""
    six = {"encoder__width": 72, "encoder__heads": 6, "encoder__mlp_ratio": 4.0}
    decoder = {"objective__decoder_width": 32, "objective__decoder_heads": 4}
    with pytest.raises(config.ConfigError) as told:
        placed(Mesh(tensor=3), "mae", **six, **decoder)
    assert told.value.problems == [
        "config.mesh.tensor: 3 does not divide the 4 heads of decoder, nor the 128 "
        "numbers inside the MLP of decoder"
    ]
    for objective in ("aim", "simmim_swin"):
        assert placed(Mesh(tensor=2), objective).shape["tensor"] == 2
    with pytest.raises(config.ConfigError, match="8 does not divide the 4 heads of"):
        placed(Mesh(tensor=8), "aim")


def test_an_fsdp_that_cuts_little_is_told(capsys, monkeypatch):
    monkeypatch.setattr(meshes, "SMALLEST_CUT", 64)
    odd = {"encoder__width": 36, "encoder__mlp_ratio": 3.5, "encoder__channels": 1}
    told = "config.mesh.fsdp: 8 divides few widths, a device holds "
    for fsdp in (4, 1):
        placed(Mesh(fsdp=fsdp), "classify", **odd)
        assert capsys.readouterr().err == ""
    placed(Mesh(fsdp=8), "classify", **odd)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(told) and "; with 4 it would be " in line


@pytest.mark.parametrize(
    ("shape", "hint"),
    [((24, 1024, 4096), "; with 8 it would be 12.5%"), ((24, 1021, 4093), "")],
)
def test_a_better_fsdp_is_named_where_there_is_one(shape, hint):
    (line,) = meshes.wasted(Mesh(1, 24, 1), {"layers/up/kernel": shape})
    told = "fsdp: 24 divides few widths, a device holds 100.0% of what it would hold"
    assert line == f"{told} without{hint}"
    small = {"bias": (7,), "table": (24, 2**12)}
    assert meshes.wasted(Mesh(1, 24, 1), small) == []


@pytest.mark.parametrize(
    ("mesh", "field", "told"),
    [
        (Mesh(data=-1), "data", "-1"),
        (Mesh(tensor=0), "tensor", "at least 1"),
        (Mesh(tensor=3), "tensor", "8 device(s)"),
        (Mesh(2, 2, 1), "data", "8 device(s)"),
        (Mesh(data=16), "data", "8 device(s)"),
    ],
)
def test_a_mesh_that_does_not_fit_is_one_line(mesh, field, told):
    (problem,) = meshes.problems(mesh, 8)
    assert problem.startswith(f"{field}: ")
    assert told in problem
