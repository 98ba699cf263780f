"""What steps cost: formulas against counts, and what is measured and told."""

import itertools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mimjax import config, flops, gradients, train
from mimjax.bench import __main__ as bench
from mimjax.bench import child, given, grow, pages, rows, step, work
from mimjax.objectives import mae
from mimjax.run import endings, setup
from mimjax.tokenizers.dvae import Encoder

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"

# GFLOP of a training step an image, counted by hand with the same conventions from the
# sizes in the papers, to the digits given.
KNOWN = {
    "mae_b16": (58.7, {}),
    "mae_l16": (124.5, {}),
    "mae_h14": (291.4, {}),
    "simmim_b16": (106, {}),
    "simmim_b16 L": (370, {"encoder.size": "L"}),
    "beit_b16": (108, {}),
    "beit_l16": (373, {}),
    "aim_600m": (1074, {"objective.head": "none"}),
    "aim_1b": (1896, {"objective.head": "none"}),
    "aim_7b": (10002, {"objective.head": "none"}),
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_formulas_give_what_is_known(name):
    wanted, changes = KNOWN[name]
    path = str(CONFIGS / f"{name.split()[0]}.py")
    found = config.resolve(path, changes.items(), None, with_data=False)
    total = work.training(found)
    if "objective.head" in changes:
        # The trunk alone.
        total -= work.PASSES * work.parts(found)["head"]
    # Half of the last digit given.
    assert abs(total / 1e9 - wanted) <= 0.5 * (
        0.1 if wanted < 300 and wanted % 1 else 1
    )


# One of each part that a formula has.
FIELDS = {
    "mae": {"encoder__registers": 2},
    "mae whole": {"objective__mask_in_encoder": True},
    "simmim": {"encoder__image_size": "16,32"},
    "simmim_swin": {"encoder__image_size": "32,32", "encoder__window": 4},
    "beit": {},
    "aim": {},
    "aim looking": {"objective__head": "transformer", "objective__head_heads": 4},
    "classify": {"objective__representation": 24, "encoder__swiglu": True},
}


def resolved(name, **more):
    """A tiny config of those; the tokenizer is what stands in for one."""
    fields = {**FIELDS[name], **more}
    changes = [(field.replace("__", "."), str(x)) for field, x in fields.items()]
    spec = step.spec_of(f"{tiny.CONFIG}:{name.split()[0]}", changes, 0.0)
    return given.resolved(spec, [])


def traced(given):
    """What the program of a step has for each image.

    It differs from the formulas in the patch embedding alone: MAE embeds the patches
    kept, and no image has a gradient, which is one product less.
    """
    found, objective = work.parts(given), given.objective
    count = objective.encoder.num_tokens
    kept = objective.num_kept if isinstance(objective, mae.Objective) else count
    rest = sum(found.values()) - found["patches"]
    return work.PASSES * rest + (work.PASSES - 1) * found["patches"] * kept // count


@pytest.mark.parametrize("name", FIELDS)
def test_the_formulas_are_the_count_of_the_trace(name):
    """But for the patch embedding, as is said, and the tokenizer."""
    found, mesh = resolved(name), tiny.mesh_of()
    plan = setup.make_plan(found, 1000)
    apart = 0
    if name == "beit":
        state, batch = (
            train.abstract_state(found, mesh),
            train.abstract_batch(found, mesh),
        )

        def tokens(variables, pixels):
            return found.objective.apply(
                variables, {"pixels": pixels, "view": pixels}, method="tokens"
            )

        shape = (found.run.batch_size, *found.view_size, 3)
        assert any(found.view_size) and batch["view"].shape == shape
        pixels = jax.ShapeDtypeStruct(shape, "float32")
        variables = {"params": state.params, **state.frozen}
        apart = flops.matmul_flops(tokens, variables, pixels, whole=True)
        assert apart > flops.matmul_flops(tokens, variables, pixels) == 0
    counted = setup.step_flops(found, plan, mesh)
    assert setup.step_flops(found, plan, mesh, whole=True) == counted + apart
    assert counted == traced(found) * found.run.batch_size
    whole = work.training(found) * found.run.batch_size
    assert whole >= counted
    assert whole - counted <= work.PASSES * work.parts(found)["patches"] * 8


def test_without_a_formula_there_is_none():
    assert work.training(tiny.resolve("mpp")) is None


# What is no matrix product is some 5 to 10 % of layers 64 wide, as XLA counts it.
MORE = 1.15


def test_the_compiler_counts_little_more():
    mesh = tiny.mesh_of()
    # It does not count how often a loop is run.
    found = resolved("mae", encoder__unroll=12, encoder__image_size="32,32")
    plan = setup.make_plan(found, 1000)
    gradient = gradients.make(found, plan.mean, plan.std)
    state = train.abstract_state(found, mesh)
    keys = jax.eval_shape(lambda: train.streams(0, 0))
    batch = train.abstract_batch(found, mesh)
    lowered = jax.jit(gradient).lower(
        state.params, state.frozen, state.step, batch, keys, {}
    )
    wanted = setup.step_flops(found, plan, mesh)
    for counted in (lowered.cost_analysis(), lowered.compile().cost_analysis()):
        assert wanted <= counted["flops"] <= MORE * wanted


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_some_updates_are_under_way_but_none_on_a_cpu(platform):
    started, ended, most = itertools.count(), [], []

    def wait(number):
        most.append(next(started) - len(ended))
        ended.append(number)

    numbers = itertools.count()

    def update():
        next(started)
        return next(numbers)

    found = child.paced(update, wait, 0.0, platform)
    assert found["updates"] == child.LEAST
    assert ended == list(range(child.LEAST))
    assert 0 < found["fastest"] <= found["median"]


def test_parts_of_a_start_are_told_apart():
    laps = child.Laps(spawned=0.0)
    laps.end("first")
    laps.end("second")
    assert list(laps.seconds) == ["process", "first", "second"]
    assert laps.seconds["process"] > 1e9 > laps.seconds["first"] >= 0


def test_the_commands_of_the_page_can_be_started():
    text = (CONFIGS.parent / "docs" / "bench.md").read_text(encoding="utf-8")
    lines = text.replace("\\\n", " ").splitlines()
    found = [x.split() for x in map(str.strip, lines) if x.startswith("python -m")]
    assert len(found) == 7
    for words in found:
        flags, changes = bench.parse(words[3:])
        if flags.what == "step":
            spec = step.spec_of(str(CONFIGS.parent / flags.config), changes, 0.0)
            assert given.resolved(spec, [])


def answer(median, **more):
    """What a process says that has measured."""
    found = {"median": median, "memory": 2**30, "probe": 4e12, "losses": [1.0, 2.0]}
    start = {"process": 0.5, "trace": 0.5, "compile": 1.0}
    found |= {"batch": 8, "flops": 8e12, "peak": 1e13, "apart": 0, "dtype": "float32"}
    return {**found, "start": start, **more}


def test_a_row_comes_to_medians_of_processes():
    found = {
        "ours": [answer(2.0), answer(4.0), answer(2.5)],
        "peer": [answer(4.0, probe=5e12, losses=[1.0, 2.5]), answer(5.0), answer(5.0)],
    }
    found |= step.summary(found)
    ours = found["ours_found"]
    assert ours["images"] == 8 / 2.5 and ours["best"] == 4.0
    assert ours["spread"] == 2.0 / 2.5
    # The better of both probes is the limit of both sides.
    assert found["limit"] == 5.0 and ours["of_probe"] == 8e12 / 2.5 / 5e12
    assert ours["mfu"] == 0.32
    assert found["ratio"] == (2.0, 1.25, 2.0)
    assert found["loss_difference"] == 0.2


def test_our_process_needs_no_tensorflow(tmp_path):
    """One of its own, where there is none: what this one has imported says nothing."""
    for name in ("tensorflow", "sklearn"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not installed')\n")
    spec = step.spec_of(f"{tiny.CONFIG}:mae", [], 0.0)
    found = step.ask("ours", spec, PYTHONPATH=f"{tmp_path}:{CONFIGS.parent}")
    assert len(found["losses"]) == step.CHECKED
    assert found["losses"][0] > found["losses"][-1] > 0


def test_the_last_words_are_the_error_s():
    """Not the note that JAX leaves below it."""
    said = "Traceback\n  File x\njax.errors.JaxRuntimeError: RESOURCE: much\n"
    note = "---------\nFor simplicity, JAX has removed its internal frames\n"
    assert step.last_words(said + note) == "jax.errors.JaxRuntimeError: RESOURCE: much"
    assert step.last_words("killed\n\n") == "killed"
    assert step.last_words("") == ""


def test_ours_is_compiled_with_the_options_asked_for():
    options = {"xla_no_such_option": "1"}
    spec = step.spec_of(f"{tiny.CONFIG}:mae", [], 0.0, options=options)
    with pytest.raises(config.ConfigError) as told:
        step.ask("ours", spec, PYTHONPATH=str(CONFIGS.parent))
    (line,) = told.value.problems
    assert line.startswith("--xla: ") and "xla_no_such_option" in line


def test_the_options_of_the_rows_are_options():
    function = jax.jit(lambda x: x + 1).lower(1.0)
    for row in rows.on_gpu():
        function.compile(compiler_options=step.options_of(row.options))
    text = (CONFIGS.parent / "docs" / "bench.md").read_text(encoding="utf-8")
    (said,) = re.findall(r"--xla=(\w+)=(\w+)", text)
    function.compile(compiler_options=step.options_of(dict([said])))


def test_problems_of_a_config_are_told_by_the_process_that_finds_them(tmp_path, capsys):
    """As main tells them; and a row that fails is a line of the table."""
    flags = ["step", f"--config={tiny.CONFIG}:mae", "--config.encoder.depth=0"]
    assert bench.main(flags) == endings.BAD_CONFIG
    told = capsys.readouterr().err
    assert told.startswith("config.encoder.depth: 0"), told


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["step"], "step needs --config"),
        (["all"], "all takes no --config, and needs --out"),
        (["step", "--config=x", "--ways=slow"], "--ways: 'slow' is none of"),
        (["step", "--config=x", "--rounds=0"], "--rounds must be at least 1"),
        (["step", "--config=x", "--xla=fast"], "--xla must be NAME=VALUE"),
        (["growth", "--out=x", "--xla=a=1"], "growth takes no --xla"),
        (["step", "--config=x", "--config.a"], "--config.a needs a value"),
        (["walk"], "invalid choice"),
    ],
)
def test_wrong_flags_are_a_line(capsys, flags, told):
    assert bench.main(flags) == endings.BAD_CONFIG
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_what_no_formula_counts_is_traced():
    """A frozen part has no way back, a hybrid has convolutions first."""
    assert work.training(resolved("classify"))
    assert work.training(resolved("classify", optim__frozen=("encoder/patch",))) is None
    hybrid = {"encoder__name": "hybrid", "encoder__stages": "1,"}
    assert work.training(resolved("classify", **hybrid, encoder__swiglu=False)) is None


@pytest.mark.parametrize(
    ("path", "changes", "warmup"),
    [
        ("mae_b16.py", {"epochs": 100}, 100),
        ("mae_b16.py", {"epochs": 3, "optim.warmup_epochs": 1}, 100),
        ("mae_b16.py", {"steps": 50}, 100),
        ("mae_b16.py", {"optim.warmup_epochs": 0}, 100),
        ("mae_b16.py", {"optim.warmup_steps": 0}, 0),
        ("quickstart.py", {"steps": 20, "optim.warmup_steps": 5}, 5),
        ("aim_600m.py", {"steps": 100_000, "optim.warmup_steps": 20_000}, 20_000),
    ],
)
def test_updates_are_the_first_of_a_long_run_whatever_length_is_told(
    path, changes, warmup
):
    """There are no images to count epochs by."""
    told = [(name, str(value)) for name, value in changes.items()]
    found = given.resolved(step.spec_of(str(CONFIGS / path), told, 0.0), [])
    assert setup.make_plan(found, 1).warmup == warmup


@pytest.mark.parametrize("ways", [("eager-sdpa",), step.WAYS])
def test_where_no_way_runs_ours_is_what_a_run_has(monkeypatch, ways):
    """Nothing is off, and nothing is said to be."""
    seen = []

    def ask(what, spec, **_):
        seen.append((what, spec["alike"]))
        if what == "peer":
            raise step.FailedError("ModuleNotFoundError: No module named 'torch'")
        return {"alike": {"optim.ema": 0.9}} if what == "prepare" else answer(1.0)

    monkeypatch.setattr(step, "ask", ask)
    given = {"against": "torch", "rounds": 2, "seconds": 0.0}
    row = step.measure("x.py", [], ways=ways, options={}, **given)
    assert "pip install torch" in row["no_peer"] and "way" not in row
    assert len(row["ours"]) == 2 and row["peer"] == []
    assert seen[-2:] == [("ours", False)] * 2
    assert [what for what, _ in seen[:-2]] == ["prepare", *["peer" for _ in ways]]
    assert not any("Off on both sides" in line for line in pages.remarks(row))


def test_one_way_is_tried_like_many(monkeypatch):
    def ask(what, spec, **_):
        return answer(1.0) if what != "prepare" else {"kind": "x", "alike": {}}

    monkeypatch.setattr(step, "ask", ask)
    given = {"against": "torch", "rounds": 2, "seconds": 0.0}
    row = step.measure("x.py", [], ways=("eager-sdpa",), options={}, **given)
    assert row["way"] == "eager-sdpa" and list(row["ways"]) == ["eager-sdpa"]
    assert len(row["peer"]) == 2 and row["ratio"] == (1.0, 1.0, 1.0)


def test_without_a_peer_ours_is_what_a_run_has(monkeypatch):
    """Nothing is off: there is nobody to be like."""
    seen = []

    def ask(what, spec, **_):
        seen.append((what, spec["alike"]))
        return {"no_peer": "none has it"} if what == "prepare" else answer(1.0)

    monkeypatch.setattr(step, "ask", ask)
    row = step.measure("x.py", [], against="torch", rounds=1, seconds=0.0)
    assert row["no_peer"] == "none has it"
    assert seen == [("prepare", True), ("ours", False)]


def test_a_folder_that_cannot_be_made_is_told_before_measuring(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    flags = ["step", f"--config={tiny.CONFIG}", f"--out={tmp_path / 'file'}"]
    assert bench.main(flags) == endings.STORAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("--out: ") and "File exists" in line


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_the_rows_are_of_configs_that_are_fine(platform):
    listed = rows.on_cpu() if platform == "cpu" else rows.on_gpu()
    variants = [row for found in rows.growth(platform).values() for row in found]
    assert len({row.name for row in listed}) == len(listed)
    for row in [*listed, *variants]:
        spec = step.spec_of(row.path, row.changes, 1.0, row.against)
        found = given.resolved(spec, [])
        assert found.run.batch_size == row.batch_size
        assert work.training(found), row.name


def test_growth_is_told_beside_that_of_flops(monkeypatch):
    ask = iter([answer(1.0), answer(3.0, flops=16e12)])
    monkeypatch.setattr(step, "ask", lambda *_, **__: next(ask))
    variants = rows.growth("cpu")["hidden patches"]
    one, two = grow.measure(variants, rounds=1, seconds=0.0)
    assert one["share"] == 1 and two["times_flops"] == 2 and two["share"] == 1.5
    machine = {"platform": "cpu", "device": "cpu", "cpu": "x", "cores": 2}
    machine |= {"memory": 2**30, "versions": {"jax": "1"}}
    text = pages.of_growth({"hidden patches": [one, two], "size": "no"}, machine)
    assert "3.00 | 2.00 | 150% |" in text and "size: failed: no" in text
    assert json.dumps([one, two])


def test_tokens_that_take_no_time():
    """They are of the vocabulary, differ, and are the same however they are asked."""
    encoder = Encoder(width=4, groups=1, blocks=1, num_codes=512, image_size=(16, 16))
    tokenizer = given.Instant(encoder)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    image = jnp.asarray(pixels) / 255
    found = tokenizer.apply({}, image, method="tokens")
    assert found.shape == (2, encoder.num_tokens)
    assert ((found >= 0) & (found < 512)).all() and len(np.unique(found)) > 4
    again = jax.jit(lambda x: tokenizer.apply({}, x, method="tokens"))(image)
    np.testing.assert_array_equal(found, again)
