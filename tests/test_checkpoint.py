"""Checkpoints: what comes back is what was saved, or nothing."""

import dataclasses
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mimjax import sharding
from mimjax.checkpoint import Checkpoints, StorageError, plain
from mimjax.train import State
from mimjax.trees import fingerprint


def state_of(step, mesh=None, ema=True):
    """A state without a model: noise that depends on the step, placed by the rules."""
    noise = np.random.default_rng(step)

    def normal(*shape):
        return noise.normal(size=shape).astype(np.float32)

    def params():
        layers = {"up": {"kernel": normal(2, 64, 256), "bias": normal(2, 256)}}
        encoder = {"blocks": {"layers": layers}, "cls_token": normal(1, 1, 64)}
        return {"encoder": encoder, "head": {"kernel": normal(64, 5)}}

    state = State(
        params=params(),
        frozen={},
        opt=({"mu": params()}, np.int32(step)),
        ema=params() if ema else {},
        step=np.int32(step),
        bad_streak=np.int32(0),
        bad_total=np.int32(7),
    )
    return jax.device_put(state, sharding.shardings(state, mesh or tiny.mesh_of()))


def like(state, mesh=None):
    """What a state looks like, on another mesh if one is given."""
    placed = jax.tree.map(lambda x: x.sharding, state)
    if mesh is not None:
        placed = sharding.shardings(state, mesh)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, placed
    )


def save(workdir, *steps, keep_last=9, keep_every=0, **kind):
    """Saves the states of those steps; returns the last."""
    checkpoints = Checkpoints(workdir, keep_last, keep_every)
    for step in steps:
        checkpoints.save(state := state_of(step, **kind), step)
    checkpoints.close()
    return state


def restore(workdir, abstract):
    """What a new process would find, with its remarks."""
    checkpoints = Checkpoints(workdir, 9, 0)
    try:
        return checkpoints.restore(abstract)
    finally:
        checkpoints.close()


def test_nothing_is_found_in_a_new_workdir(tmp_path):
    assert restore(tmp_path, like(state_of(0))) == (None, [])


def test_only_what_is_large_is_cut_where_many_devices_hold_it(tmp_path):
    """Every cut is a program to compile, and a part of a MiB or more is worth it."""
    mesh = tiny.mesh_of(data=8)
    state = state_of(0, mesh)
    large = np.random.default_rng(0).random((8, 2**18 + 8), np.float32)
    large = jax.device_put(large, sharding.replicated(mesh))
    state = dataclasses.replace(state, frozen={"a": large})
    fingerprint(plain(state))
    checkpoints = Checkpoints(tmp_path, 1, 0)
    with tiny.compilations() as compiled:
        checkpoints.save(state, 0)
        checkpoints.close()
    # Of the eight parts of one array.
    assert len(compiled) == 8
    found, remarks = restore(tmp_path, like(state))
    assert not remarks
    assert tiny.bits(found) == tiny.bits(state)


@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 2, 2)])
def test_every_bit_comes_back_on_any_mesh(tmp_path_factory, shape):
    saved = state_of(3, tiny.mesh_of(1, 4, 2))
    workdir = tmp_path_factory.getbasetemp() / "any_mesh"
    if not workdir.exists():
        save(workdir, 3, mesh=tiny.mesh_of(1, 4, 2))
    wanted = like(saved, tiny.mesh_of(*shape))
    found, remarks = restore(workdir, wanted)
    assert remarks == []
    assert tiny.bits(found) == tiny.bits(saved)
    for ours, asked in zip(
        jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True
    ):
        assert ours.sharding.is_equivalent_to(asked.sharding, ours.ndim)


def test_the_newest_and_every_nth_are_kept(tmp_path):
    save(tmp_path, 1, 2, 3, 4, 5, 6, 7, keep_last=2, keep_every=3)
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert kept == [3, 6, 7]


def test_a_step_is_saved_once(tmp_path):
    save(tmp_path, 4)
    there = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    checkpoints = Checkpoints(tmp_path, 9, 0)
    checkpoints.save(state_of(4), 4)
    checkpoints.close()
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == there


def flip(path, bit):
    """Changes one bit of a file."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A workdir with the checkpoints 10 and 20, and what 20 looks like."""
    workdir = tmp_path_factory.mktemp("two")
    return workdir, like(save(workdir, 10, 20))


def restored_after(damage, two, tmp_path):
    """The step restored after some damage to checkpoint 20; every bit is checked."""
    source, abstract = two
    workdir = tmp_path / "damaged"
    shutil.copytree(source, workdir)
    damage(workdir / "checkpoints" / "20")
    found, remarks = restore(workdir, abstract)
    step = int(found.step)
    assert tiny.bits(found) == tiny.bits(state_of(step)), "never a wrong value"
    aside = workdir / "bad_checkpoints" / "20"
    for remark in remarks:
        assert remark.startswith("checkpoint 20 is not usable: ")
        assert "\n" not in remark
    assert aside.exists() == (len(remarks) == 1)
    assert step == (10 if remarks else 20)
    shutil.rmtree(workdir)
    return step


def test_a_flipped_bit_is_never_restored(two, tmp_path):
    """In data files one flip each at random places; in the largest, twenty more."""
    folder = two[0] / "checkpoints" / "20"
    files = [p.relative_to(folder) for p in folder.rglob("*") if p.is_file()]
    data = [p for p in files if p.parent.name == "d" and (folder / p).stat().st_size]
    largest = max(data, key=lambda p: (folder / p).stat().st_size)
    chance = np.random.default_rng(0)
    steps = []
    for file in [*data, *[largest] * 20]:
        bit = int(chance.integers(8 * (folder / file).stat().st_size))
        steps.append(
            restored_after(
                lambda top, file=file, bit=bit: flip(top / file, bit), two, tmp_path
            )
        )
    assert set(steps[-20:]) == {10}, "array data: always noticed"


def test_a_truncated_or_missing_file_is_never_restored(two, tmp_path):
    folder = two[0] / "checkpoints" / "20"
    files = [p.relative_to(folder) for p in folder.rglob("*") if p.is_file()]
    cut = [p for p in files if p.parent.name == "d" or p.name == "manifest.ocdbt"]
    steps = []
    for file in cut:
        size = (folder / file).stat().st_size

        def truncate(top, file=file, size=size):
            with (top / file).open("r+b") as end:
                end.truncate(size // 2)

        steps.append(restored_after(truncate, two, tmp_path))
    assert 10 in steps, "one of them was needed"
    for file in files:
        restored_after(lambda top, file=file: (top / file).unlink(), two, tmp_path)


def test_a_bad_one_is_set_aside_once_and_its_step_can_be_saved_again(two, tmp_path):
    source, abstract = two
    workdir = tmp_path / "damaged"
    shutil.copytree(source, workdir)
    for again in ("20", "20_"):
        (workdir / "checkpoints" / "20" / "meta" / "metadata").write_text("{}")
        found, remarks = restore(workdir, abstract)
        assert (int(found.step), len(remarks)) == (10, 1)
        assert (workdir / "bad_checkpoints" / again).exists()
        save(workdir, 20)
        found, remarks = restore(workdir, abstract)
        assert (int(found.step), remarks) == (20, [])


def test_when_all_are_bad_they_stay_and_one_line_says_why(two, tmp_path):
    source, abstract = two
    workdir = tmp_path / "damaged"
    shutil.copytree(source, workdir)
    for meta in workdir.rglob("meta/metadata"):
        meta.write_text("{}")
    for _ in range(2):
        with pytest.raises(StorageError) as error:
            restore(workdir, abstract)
        told = str(error.value)
        assert "checkpoint 20 is not usable" in told
        assert "checkpoint 10 is not usable" in told
        assert "\n" not in told
    assert not (workdir / "bad_checkpoints").exists()


def test_what_is_not_whole_is_neither_restored_nor_in_the_way(two, tmp_path):
    source, abstract = two
    workdir = tmp_path / "unfinished"
    shutil.copytree(source, workdir)
    folder = workdir / "checkpoints"
    shutil.copytree(folder / "20", folder / "30")
    data = [p for p in (folder / "30").rglob("d/*") if p.is_file()]
    largest = max(data, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    (folder / "30" / "commit_success.txt").unlink()
    shutil.copytree(folder / "20", folder / "40.orbax-checkpoint-tmp")
    (folder / "notes").mkdir()
    found, (remark,) = restore(workdir, abstract)
    assert remark.startswith("checkpoint 30 is not usable: ")
    assert tiny.bits(found) == tiny.bits(state_of(20))
    assert not [*folder.glob("40*")], "at once: the next save is called so too"
    save(workdir, 40)
    assert tiny.bits(restore(workdir, abstract)[0]) == tiny.bits(state_of(40))


def test_a_fingerprint_knows_every_value_and_its_place_but_not_the_mesh():
    x = np.random.default_rng(0).normal(size=(4, 6, 8)).astype(np.float32)
    (sums,) = fingerprint([x])
    words = x.view(np.uint32).reshape(-1).astype(object)
    total = sum(words) % 2**32
    weighted = sum(w * (2 * i + 1) for i, w in enumerate(words)) % 2**32
    assert sums.tolist() == [total, weighted]
    swapped = x.copy()
    swapped[0, 0, 0], swapped[3, 5, 7] = x[3, 5, 7], x[0, 0, 0]
    negative = x.copy()
    negative[2, 2, 2] *= -1
    others = [swapped, negative, x.reshape(8, 6, 4), x.astype(jnp.bfloat16)]
    found = [fingerprint([other])[0].tolist() for other in others]
    assert found[2] == sums.tolist()
    assert sums.tolist() not in (found[0], found[1], found[3])
    cut = jax.NamedSharding(tiny.mesh_of(2, 2, 2), jax.P("data", "fsdp", "tensor"))
    assert fingerprint([jax.device_put(x, cut)])[0].tolist() == sums.tolist()


def fresh(**heads):
    """A state to start from another's parameters; its head may have another shape."""
    state = state_of(0)
    head = {"kernel": jnp.zeros((64, 5)), **heads}
    return dataclasses.replace(state, params={**state.params, "head": head})


@pytest.mark.parametrize("scope", ["encoder", "all"])
def test_a_new_run_starts_from_another(tmp_path, scope):
    there = save(tmp_path, 5, 9)
    state = fresh()
    found, report = tiny.warm_start(state, tmp_path, scope)
    encoder = ["blocks/layers/up/bias", "blocks/layers/up/kernel", "cls_token"]
    names = {f"encoder/{name}" for name in encoder}
    assert set(report["matched"]) == names | (
        {"head/kernel"} - {scope} if scope == "all" else set()
    )
    assert (report["missing"], report["shape"], report["unexpected"]) == ([], [], [])
    source = there.ema
    assert tiny.bits(found.params["encoder"]) == tiny.bits(source["encoder"])
    head = source["head"] if scope == "all" else state.params["head"]
    assert tiny.bits(found.params["head"]) == tiny.bits(head)
    assert tiny.bits(found.ema) == tiny.bits(found.params)
    assert tiny.bits((found.opt, found.step)) == tiny.bits((state.opt, state.step))
    buffers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(found)]
    assert len(set(buffers)) == len(buffers), "a donated buffer stands in one place"


def test_what_does_not_fit_keeps_its_start_and_is_named(tmp_path):
    there = save(tmp_path, 5, ema=False)
    state = fresh(kernel=jnp.ones((64, 7)), bias=jnp.ones(7))
    layers = {
        "up": {"kernel": state.params["encoder"]["blocks"]["layers"]["up"]["kernel"]}
    }
    params = {**state.params, "encoder": {"blocks": {"layers": layers}}}
    state = dataclasses.replace(state, params=params, ema={})
    found, report = tiny.warm_start(state, tmp_path, "all")
    assert report == {
        "matched": ["encoder/blocks/layers/up/kernel"],
        "resized": [],
        "missing": ["head/bias"],
        "shape": ["head/kernel"],
        "unexpected": ["encoder/blocks/layers/up/bias", "encoder/cls_token"],
    }
    assert tiny.bits(found.params["head"]) == tiny.bits(params["head"])
    up = there.params["encoder"]["blocks"]["layers"]["up"]
    kernel = found.params["encoder"]["blocks"]["layers"]["up"]["kernel"]
    assert tiny.bits(kernel) == tiny.bits(up["kernel"])
    assert found.ema == {}


def test_a_run_to_start_from_that_is_not_there_or_damaged_is_one_line(tmp_path):
    state = state_of(0)
    with pytest.raises(StorageError, match="holds no checkpoint"):
        tiny.warm_start(state, tmp_path / "nowhere", "all")
    save(tmp_path, 5)
    other = {"encoder": {"kernel": jnp.zeros(3)}}
    with pytest.raises(StorageError, match="fits this model"):
        tiny.warm_start(dataclasses.replace(state, params=other), tmp_path, "all")
    data = [p for p in (tmp_path / "checkpoints").rglob("d/*") if p.is_file()]
    # Which file holds the parameters, and where, differs from save to save.
    for file in data:
        damaged = bytearray(file.read_bytes())
        damaged[40::40] = bytes(byte ^ 1 for byte in damaged[40::40])
        file.write_bytes(damaged)
    with pytest.raises(StorageError) as error:
        tiny.warm_start(state, tmp_path, "all")
    assert str(pathlib.Path("checkpoints", "5")) in str(error.value)
    assert "\n" not in str(error.value)
    for name in ("_METADATA", "manifest.ocdbt"):
        (tmp_path / "checkpoints" / "5" / "state" / name).unlink()
        with pytest.raises(StorageError):
            tiny.warm_start(state, tmp_path, "all")
