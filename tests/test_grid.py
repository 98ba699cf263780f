"""Several rates at once are the runs one by one, and one of them is handed on."""

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest
import tiny

from mimjax import checkpoint, models, sharding, train
from mimjax.export import program
from mimjax.report.progress import Progress
from mimjax.run import setup, start
from mimjax.run.judge import Judge
from mimjax.trainable import trained

RATES = (1e-3, 3e-3, 1e-2)
CHANGES = {
    "linear": {"optim__name": "lars", "optim__ema": 0.5},
    "attentive": {"optim__clip": 0.5, "optim__accumulate": 2},
}
# Under LARS a rate is of another kind.
TRIED = {"linear": tuple(100 * rate for rate in RATES), "attentive": RATES}


def resolve(objective, rates=(), **changes):
    """The tiny config of a probe."""
    changes = {**CHANGES[objective], **changes}
    return tiny.resolve(objective, optim__rates=rates, **changes)


@functools.cache
def first_state(objective):
    """Of one member, on the host."""
    state = jax.device_get(tiny.start(resolve(objective), tiny.mesh_of()))
    return dataclasses.replace(state, ema=state.ema and state.params)


def started(given, mesh):
    """A run of a grid, or without one, from there."""
    host = first_state(given.values["objective"]["name"])
    state = jax.device_put(host, sharding.shardings(host, mesh))
    return tiny.Run(given, mesh, train.spread_state(given, state, mesh))


@functools.cache
def four_steps(objective, rates=(), base_lr=0.0):
    """What four updates report, and the run after them."""
    changes = {"optim__base_lr": base_lr} if base_lr else {}
    run = started(resolve(objective, rates, **changes), tiny.mesh_of())
    return [run.step() for _ in range(4)], run


def learned(run):
    """What is trained, with its average and its moments."""
    state, given = run.state, run.config.optim
    return [trained(given, state.params), trained(given, state.ema), state.opt]


@pytest.mark.parametrize("objective", CHANGES)
def test_a_grid_is_its_runs_one_by_one(objective):
    rates = TRIED[objective]
    told, run = four_steps(objective, rates)
    alone = [four_steps(objective, (), rate) for rate in rates]
    for number, (_, single) in enumerate(alone):
        for ours, theirs in zip(
            *map(jax.tree.leaves, (learned(run), learned(single))), strict=True
        ):
            np.testing.assert_allclose(ours[number], theirs, rtol=2e-5, atol=1e-7)
        assert tiny.bits(single.state.frozen) == tiny.bits(run.state.frozen)
    for step, values in enumerate(told):
        singles = [values_of[step] for values_of, _ in alone]
        lowest = min(singles, key=lambda values: values["loss"])
        for name, value in lowest.items():
            np.testing.assert_allclose(values[name], value, rtol=2e-5, err_msg=name)
    heads = run.state.params["head"]["kernel"]
    assert len({x.tobytes() for x in np.asarray(heads)}) == len(rates)
    encoder = first_state(objective).params["encoder"]
    assert tiny.bits(run.state.params["encoder"]) == tiny.bits(encoder)


def test_a_member_that_is_not_finite_spoils_no_other():
    """It stays as it was; an update counts as bad where no member is finite."""
    told, run = four_steps("attentive", (RATES[0], 1e30, *RATES[1:]))
    _, wanted = four_steps("attentive", RATES)
    others = np.asarray([0, 2, 3])
    for ours, theirs in zip(
        jax.tree.leaves((run.state.params, run.state.opt)),
        jax.tree.leaves((wanted.state.params, wanted.state.opt)),
        strict=True,
    ):
        same = np.asarray(ours)[others] if len(ours) == 4 else ours
        np.testing.assert_allclose(same, theirs, rtol=2e-5, atol=1e-7)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(run.state.params))
    assert [values["skipped"] for values in told] == [0, 0, 0, 0]
    counts = np.asarray(run.state.opt[1].count)
    assert counts[1] < 4 and counts[others].tolist() == [4, 4, 4]


def test_where_no_member_is_finite_nothing_changes():
    _, run = four_steps("linear", TRIED["linear"])
    head = jax.tree.map(lambda x: x * np.nan, run.state.params["head"])
    params = {**run.state.params, "head": head}
    before = jax.tree.map(np.array, dataclasses.replace(run.state, params=params))
    placed = jax.tree.map(lambda x: x.sharding, run.state)
    after, values = run.update(jax.device_put(before, placed), run.batch(0))
    assert (after.bad_streak, after.bad_total, values["skipped"]) == (1, 1, 1)
    for name in ("opt", "ema", "frozen"):
        assert tiny.bits(getattr(after, name)) == tiny.bits(getattr(before, name))


def test_the_encoder_runs_once_for_all_members():
    """What is multiplied more is, of each member, its scores and their gradient."""
    flops = []
    for rates in ((), (1e-3, 2e-3, 3e-3, 4e-3)):
        given = resolve("linear", rates)
        plan = setup.make_plan(given, 100)
        flops.append(setup.step_flops(given, plan, tiny.mesh_of()))
    scores = 2 * 8 * 64 * 1000
    assert flops[1] - flops[0] == 3 * 2 * scores


def test_the_whole_update_of_four_members_costs_little_more():
    """As the compiler counts it, which sees a scanned layer once."""
    found, mesh = [], tiny.mesh_of()
    for rates in ((), (1e-3, 2e-3, 3e-3, 4e-3)):
        size = {"encoder__image_size": (32, 32), "encoder__unroll": 2}
        given = resolve("linear", rates, **size)
        step = train.make_step(given, setup.make_plan(given, 100), mesh)
        state, batch = (
            make(given, mesh) for make in (train.abstract_state, train.abstract_batch)
        )
        found.append(
            jax.jit(step).lower(state, batch, np.uint32(0)).cost_analysis()["flops"]
        )
    assert found[1] < 1.2 * found[0]


def test_a_grid_is_the_same_on_eight_devices_and_goes_on_where_it_was(tmp_path):
    wanted, run = four_steps("linear", TRIED["linear"])
    spread = started(run.config, tiny.mesh_of(2, 2, 2))
    found = [spread.step() for _ in range(2)]
    saved = checkpoint.Checkpoints(tmp_path, 1, 0)
    saved.save(spread.state, 2)
    found += [spread.step() for _ in range(2)]
    for name in ("loss", "grad_norm"):
        ours, theirs = ([values[name] for values in told] for told in (found, wanted))
        np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    last = tiny.bits(spread.state)
    saved.wait()
    abstract = train.abstract_state(run.config, spread.mesh)
    spread.state, _ = saved.restore(abstract)
    saved.close()
    assert [spread.step(), spread.step()] == found[2:]
    assert tiny.bits(spread.state) == last


def test_each_member_is_judged_and_the_best_told_with_its_rate(tmp_path):
    rates = TRIED["linear"]
    runs = [four_steps("linear", rates), *(four_steps("linear", (), r) for r in rates)]
    # The rate is nothing to a judge: one is enough for all single runs.
    whole, single = (
        Judge(run.config, run.plan, run.mesh, tmp_path, lambda: False)
        for _, run in runs[:2]
    )
    found = whole.held_out(runs[0][1].state)
    alone = [single.held_out(run.state) for _, run in runs[1:]]
    best = max(alone, key=lambda values: values["accuracy"])
    each = [values["accuracy"] for values in alone]
    assert [found[f"accuracy@{rate}"] for rate in rates] == each
    assert found["accuracy"] == best["accuracy"]
    assert found["loss"] == pytest.approx(best["loss"], rel=1e-5)
    assert found["rate"] == rates[each.index(best["accuracy"])]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Of a grid, as a run leaves it: judged, its second rate the best."""
    folder = tmp_path_factory.mktemp("grid")
    _, run = four_steps("linear", TRIED["linear"])
    tiny.save_workdir(folder, run.config, run.state)
    records = [
        {"step": s, "eval/rate": TRIED["linear"][n]} for s, n in ((1, 1), (9, 2))
    ]
    text = "\n".join(map(json.dumps, records))
    (folder / "metrics.jsonl").write_text(text)
    return folder


def test_the_best_member_is_what_others_load(workdir):
    """As it was judged up to the checkpoint; averaged, for the run has an average."""
    _, run = four_steps("linear", TRIED["linear"])
    model = models.load(workdir)
    for name, x in model.variables["params"]["head"].items():
        np.testing.assert_array_equal(x, run.state.ema["head"][name][1])
    assert model.fresh == []
    image = np.zeros((2, 16, 16, 3), np.uint8)
    logits = program.ours(model, image)["logits"]
    assert logits.shape == (2, 1000)


def test_a_run_starts_from_a_grid_and_a_grid_from_a_run(workdir, tmp_path):
    """Its encoder, or everything of the best member; every new member is that one."""
    _, run = four_steps("linear", TRIED["linear"])
    given = resolve("linear", (1.0, 2.0), init_from=workdir, init_scope="all")
    saved = checkpoint.Checkpoints(tmp_path, 1, 0)
    progress = Progress(1, silent=True)
    state, _ = start.first_state(given, tiny.mesh_of(), saved, progress)
    saved.close()
    best = np.asarray(run.state.ema["head"]["kernel"][1])
    for tree in (state.params, state.ema):
        np.testing.assert_array_equal(tree["head"]["kernel"], np.stack([best, best]))
    assert tiny.bits(state.frozen) == tiny.bits(run.state.frozen)
    mae = tiny.start(tiny.resolve("mae"), tiny.mesh_of())
    mae, report = tiny.warm_start(mae, workdir, "encoder")
    assert tiny.bits(mae.params["encoder"]) == tiny.bits(run.state.ema["encoder"])
    assert report["missing"] == report["shape"] == report["unexpected"] == []


def test_a_grid_that_was_never_judged_hands_its_encoder_on(workdir, tmp_path):
    """But before its first update, when all members are the same."""
    folder = tmp_path / "run"
    shutil.copytree(workdir, folder)
    record = {"step": 0, "eval/rate": TRIED["linear"][0]}
    (folder / "metrics.jsonl").write_text(json.dumps(record))
    model = models.load(folder)
    assert model.fresh == ["head/bias", "head/kernel"]
    assert "head" not in model.variables["params"]
