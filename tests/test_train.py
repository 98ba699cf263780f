"""The update: what it does to the state, and what it leaves alone when it must."""

import dataclasses
import functools
import unittest.mock

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import linen as nn

from mimjax import config, gradients, objectives, optim, sharding, train
from mimjax.run import loop, setup


class Objective(nn.Module):
    """Weights w and the loss sum(w) * mean(label); a negative label is no number.

    Labels reach the loss as they were given, which pixels do not.
    """

    encoder: nn.Module
    poison: str = "loss"

    @nn.compact
    def __call__(self, batch, *, train):
        w = self.param("kernel", nn.initializers.ones, (3,))
        label = batch["label"].astype(jnp.float32)
        value = jnp.where(label < 0, jnp.nan, label).mean()
        if self.poison == "gradient":
            # The loss is finite, its derivative is not.
            value = jnp.where(label < 0, 0.0, label).mean()
            w = w + jnp.sqrt(jnp.where((label < 0).any(), 0.0, 1.0) * w) * 1e-9
        count = self.variable("counts", "seen", lambda: jnp.zeros(()))
        return (w * value).sum() + 0 * count.value, {}


def start(poison="loss", **changes):
    """A run of that objective, its step not donated so that states may be compared."""
    given = tiny.resolve("classify", optim__warmup_steps=0, **changes)
    own = Objective(given.encoder, poison)
    given = dataclasses.replace(given, objective=own)
    mesh = tiny.mesh_of()
    plan = train.Plan(10, 0, np.zeros(3), np.ones(3))
    step = jax.jit(train.make_step(given, plan, mesh))
    step = functools.partial(step, seed=np.uint32(0))
    return given, train.start_state(given, mesh), step


def batch(label):
    """Eight black images with that label."""
    return {
        "image": jnp.zeros((8, 16, 16, 3), jnp.uint8),
        "label": jnp.full(8, label, jnp.int32),
    }


def learned(state):
    """What a skipped update must not touch."""
    return tiny.bits((state.params, state.opt, state.ema, state.frozen))


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_an_update_that_is_not_finite_is_skipped_and_counted(poison):
    _, state, step = start(poison, optim__ema=0.9)
    state, _ = step(state, batch(2))
    after, values = step(state, batch(-1))
    assert learned(after) == learned(state)
    assert (int(after.step), int(after.bad_streak), int(after.bad_total)) == (2, 1, 1)
    assert (int(values["bad_streak"]), int(values["skipped"])) == (1, 1)
    assert np.isfinite(values["loss"]) == (poison == "gradient")
    assert not np.isfinite(values["grad_norm"])
    again, values = step(after, batch(2))
    assert learned(again) != learned(after)
    assert (int(again.bad_streak), int(again.bad_total)) == (0, 1), "a good one resets"
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(again))


def test_five_in_a_row_freeze_the_state_for_good():
    _, state, step = start()
    state, _ = step(state, batch(1))
    kept = learned(state)
    for number in range(1, train.BAD_LIMIT + 1):
        state, values = step(state, batch(-1))
        assert int(values["bad_streak"]) == number
    state, values = step(state, batch(1))
    assert learned(state) == kept
    assert int(values["bad_streak"]) == train.BAD_LIMIT + 1
    assert int(state.step) == train.BAD_LIMIT + 2


def test_a_run_that_is_told_to_stop_says_that_updates_were_bad():
    given, state, step = start()
    for _ in range(train.BAD_LIMIT):
        state, _ = step(state, batch(-1))
    session = unittest.mock.MagicMock(spec=loop.Session)
    session.config, session.plan = given, train.Plan(10, 0, np.zeros(3), np.ones(3))
    for name in ("signals", "checkpoints", "meter", "progress", "judge", "drawing"):
        setattr(session, name, unittest.mock.MagicMock())
    session.due.return_value = False
    session.checkpoints.steps.return_value = [3]
    assert loop.advance(session, step, state, 9) == (loop.NOT_FINITE, 9)
    session.checkpoints.save.assert_not_called()
    assert "checkpoint 3 is the last good one" in session.progress.note.call_args[0][0]


@pytest.mark.parametrize(
    ("kept", "aside", "says"),
    [
        ([], [], "nothing is saved (try"),
        ([5], [], "checkpoint 5 is no better (try"),
        ([3, 4], [], "checkpoint 4 is the last good one (try"),
        ([3, 5], [5], "checkpoint 3 is the last good one (try"),
    ],
)
def test_the_last_good_checkpoint_is_one_that_gave_an_update(kept, aside, says):
    """Updates 6 to 10 were bad: those of what was saved after update 5."""
    session = unittest.mock.MagicMock()
    session.checkpoints.steps.return_value = kept
    assert loop.give_up(session, 10, 5) == loop.NOT_FINITE
    moved = [call.args[0] for call in session.checkpoints.set_aside.call_args_list]
    assert moved == ([aside] if aside else [])
    (said,) = session.progress.note.call_args.args
    assert says in said
    assert ("config.init_from" in said) == ("good one" in said)


@pytest.mark.parametrize(
    ("step", "streak", "keeps", "kept", "saves"),
    [
        (8, 0, 1, [5], True),
        (8, 2, 1, [], True),
        (8, 2, 1, [5], False),
        (8, 2, 2, [5], True),
        (8, 2, 2, [5, 6], False),  # of the same parameters
        (10, 0, 1, [5], True),
        (10, 1, 1, [5], True),
    ],
)
def test_what_is_not_finite_pushes_no_good_one_out(step, streak, keeps, kept, saves):
    session = unittest.mock.MagicMock()
    session.plan = train.Plan(10, 0, np.zeros(3), np.ones(3))
    session.config.run.keep_last = keeps
    session.checkpoints.steps.return_value = kept
    state, done = object(), step == 10
    assert loop.end(session, state, step, streak, done=done) == (0 if done else 75)
    calls = session.checkpoints.save.call_args_list
    assert calls == [unittest.mock.call(state, step)] * saves
    bad = f"loss or gradient of the last {streak} update(s) was not finite"
    how = "and saved" if saves else "without saving"
    stopped = f"stopped after step {step} {how}; the same command resumes"
    said = [call.args[0] for call in session.progress.note.call_args_list]
    assert said == [bad] * bool(streak) + [stopped] * (not done)


def test_updates_under_way_are_no_part_of_what_is_looked_at():
    """Their time is theirs, not that of the evaluation that waits for them."""
    happened, session = [], unittest.mock.MagicMock()
    session.plan = train.Plan(3, 0, np.zeros(3), np.ones(3))
    session.config.run.log_every = session.config.run.checkpoint_every = 0
    session.due.side_effect = lambda period, step: False
    session.looks.side_effect = lambda step: step in (0, 2)
    session.signals.agreed.return_value = False
    session.checkpoints.steps.return_value = []
    session.batches.late.return_value = False
    pause = session.meter.pause.return_value.__enter__
    pause.side_effect = lambda: happened.append("pause")

    class Loss:
        def __init__(self, step):
            self.step = step

        def block_until_ready(self):
            happened.append(self.step)

    steps = iter(range(1, 4))
    state = unittest.mock.MagicMock(bad_streak=0)

    def update(state, batch):
        return state, {"loss": Loss(next(steps))}

    loop.advance(session, update, state, 0)
    assert happened == ["pause", "pause", 2, "pause", 1, "pause"]


def test_data_is_waited_for_only_once_devices_have_nothing_to_do():
    happened, session = [], unittest.mock.MagicMock()
    session.plan = train.Plan(2, 0, np.zeros(3), np.ones(3))
    session.config.run.log_every = session.config.run.checkpoint_every = 0
    session.due.side_effect = lambda period, step: False
    session.looks.side_effect = lambda step: False
    session.signals.agreed.return_value = False
    session.checkpoints.steps.return_value = []
    late = iter([True, True, True, False])
    session.batches.late.side_effect = lambda: next(late)
    waits = session.meter.waiting.return_value.__enter__
    waits.side_effect = lambda: happened.append("waits")
    loss = unittest.mock.MagicMock()
    loss.is_ready.side_effect = lambda: happened.append("asked")
    state = unittest.mock.MagicMock(bad_streak=0)
    loop.advance(session, lambda *_: (state, {"loss": loss}), state, 0)
    # Before the first update there is nothing under way; the second batch comes late,
    # but before the first update is done.
    assert happened == ["waits", "asked", "asked", "asked", "waits"]


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_four_in_a_row_do_not(name):
    """Not even the first four, of which moments come to nothing that is finite."""
    _, state, step = start(optim__name=name, optim__ema=0.9)
    kept = learned(state)
    for _ in range(train.BAD_LIMIT - 1):
        state, _ = step(state, batch(-1))
    assert learned(state) == kept
    state, _ = step(state, batch(1))
    assert learned(state) != kept
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


def test_the_rate_follows_the_step_though_updates_are_skipped():
    given, state, step = start()
    for number, label in enumerate([1, -1, -1, 1, 1]):
        state, values = step(state, batch(label))
        wanted = optim.schedule(
            given.optim, peak=given.optim.base_lr, warmup=0, steps=10, step=number
        )
        assert float(values["lr"]) == pytest.approx(float(wanted), rel=1e-6)
    adam = state.opt[0]
    assert int(adam.count) == 3, "moments count the updates that were made"


def test_two_updates_by_hand():
    """AdamW and the average of parameters, in float64."""
    given, state, step = start(optim__ema=0.75, optim__clip=1.0)
    own = given.optim
    p, m, v, ema = np.ones(3), np.zeros(3), np.zeros(3), np.ones(3)
    for number, label in enumerate([2, 5]):
        state, values = step(state, batch(label))
        g = np.full(3, float(label))
        norm = np.linalg.norm(g)
        assert float(values["grad_norm"]) == pytest.approx(norm, rel=1e-6)
        assert float(values["loss"]) == pytest.approx((p * label).sum(), rel=1e-6)
        g = g * min(1.0, own.clip / norm)
        m, v = own.b1 * m + (1 - own.b1) * g, own.b2 * v + (1 - own.b2) * g**2
        count = number + 1
        u = (m / (1 - own.b1**count)) / (np.sqrt(v / (1 - own.b2**count)) + own.eps)
        p = p - float(values["lr"]) * (u + own.weight_decay * p)
        ema = own.ema * ema + (1 - own.ema) * p
        np.testing.assert_allclose(state.params["kernel"], p, rtol=1e-6)
        np.testing.assert_allclose(state.ema["kernel"], ema, rtol=1e-6)
    assert state.best_params is state.ema


def test_without_an_average_the_parameters_are_judged():
    _, state, _ = start()
    assert state.ema == {}
    assert state.best_params is state.params


def test_the_seed_and_the_step_decide_everything():
    given = tiny.resolve("simmim", encoder__dropout=0.1)
    mesh = tiny.mesh_of()
    plan = train.Plan(10, 0, np.zeros(3, np.float32), np.ones(3, np.float32))

    state = train.start_state(given, mesh)
    image = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    data = {"image": jnp.asarray(image), "label": jnp.zeros(8, jnp.int32)}
    step = train.make_step(given, plan, mesh)

    @jax.jit
    def loss(at, seed):
        return step(dataclasses.replace(state, step=at), data, seed)[1]["loss"]

    found = [loss(at, np.uint32(seed)) for at in (3, 4) for seed in (0, 1)]
    assert len({float(value) for value in found}) == 4
    # Another way through the libraries may draw otherwise, though all else still holds.
    kernel = state.params["encoder"]["blocks"]["layers"]["attn"]["qkv"]["kernel"]
    drawn = [float(np.abs(kernel).sum()), *map(float, found)]
    wanted = [1880.464, 0.6705902, 0.6561936, 0.6682475, 0.6636308]
    np.testing.assert_allclose(drawn, wanted, rtol=1e-5)


def test_runs_of_two_seeds_differ_and_share_a_program():
    first, second = (tiny.resolve("simmim", seed=seed) for seed in (0, 1))
    mesh = tiny.mesh_of()
    programs, states, losses = [], [], []
    for given in (first, second):
        plan = train.Plan(10, 0, np.zeros(3), np.ones(3))
        traced = train.trace_step(given, plan, mesh)
        programs.append(traced.lower().as_text())
        states.append(tiny.bits(train.start_state(given, mesh).params))
    assert programs[0] == programs[1]
    assert states[0] != states[1]
    for given in (first, second):
        losses.append(tiny.Run(given, mesh, tiny.start(given, mesh)).step()["loss"])
    assert losses[0] != losses[1], "of the same parameters and images"


def test_a_model_is_traced_once_for_its_first_state(monkeypatch):
    given, made = tiny.resolve("mae", seed=7), []
    real = train.init_state

    def counted(*args):
        made.append(args)
        return real(*args)

    monkeypatch.setattr(train, "init_state", counted)
    given, mesh = setup.place(given, jax.devices()[:1])
    with jax.set_mesh(mesh):
        train.start_state(given, mesh)
    # What depends on the kind of device is another encoder.
    assert 1 <= len(made) <= 2
    made.clear()
    with jax.set_mesh(mesh):
        train.abstract_state(given, mesh)
        train.start_state(given, mesh)
    assert made == []


def test_streams_are_independent():
    keys = [train.streams(seed, step) for seed in (0, 1) for step in (0, 1)]
    found = {
        tuple(jax.random.key_data(key).tolist())
        for streams in keys
        for key in streams.values()
    }
    assert len(found) == len(train.STREAMS) * 4


def types_of(jaxpr, names):
    """Names of the types that such operations are given, inside others too."""
    for operation in jaxpr.eqns:
        if operation.primitive.name in names:
            yield operation.invars[0].aval.dtype.name
        for inner in jax.extend.core.jaxprs_in_params(operation.params):
            yield from types_of(inner, names)


@pytest.mark.parametrize("name", objectives.names())
def test_what_is_summed_up_is_float32_where_layers_are_bfloat16(name):
    """Losses, metrics, gradients, scores of classes and what softmax is taken of."""
    given, mesh = tiny.resolve(name, encoder__dtype="bfloat16"), tiny.mesh_of()
    state, data = train.abstract_state(given, mesh), train.abstract_batch(given, mesh)
    moving = {k: v for k, v in state.frozen.items() if k == objectives.MOVING}
    keys = jax.eval_shape(train.streams, 0, 0)
    gradient = gradients.make(given, np.zeros(3), np.ones(3))
    traced, (found, _) = jax.make_jaxpr(gradient, return_shape=True)(
        state.params, state.frozen, state.step, data, keys, moving
    )
    assert {x.dtype.name for x in jax.tree.leaves(found)} == {"float32"}
    assert set(types_of(traced.jaxpr, ("exp", "log"))) == {"float32"}
    # Some devices add up in the type of what they are given.
    assert "bfloat16" not in types_of(traced.jaxpr, ("reduce_sum", "cumsum"))
    products = "dot_general", "conv_general_dilated"
    assert "bfloat16" in types_of(traced.jaxpr, products), "layers are"
    if hasattr(given.objective, "logits"):
        image = jax.ShapeDtypeStruct(data["image"].shape, jnp.float32)
        logits = functools.partial(given.objective.apply, method="logits")
        variables = {"params": state.params, **state.frozen}
        assert jax.eval_shape(logits, variables, image).dtype == jnp.float32


def test_shapes_are_known_before_there_is_memory():
    given, mesh = tiny.resolve("simmim", optim__ema=0.9), tiny.mesh_of(2, 2, 2)
    state = train.start_state(given, mesh)
    for planned, made in zip(
        jax.tree.leaves(train.abstract_state(given, mesh)),
        jax.tree.leaves(state),
        strict=True,
    ):
        assert (planned.shape, planned.dtype) == (made.shape, made.dtype)
        assert planned.sharding.is_equivalent_to(made.sharding, made.ndim)
    assert train.count(state.params) == sum(x.size for x in jax.tree.leaves(state.ema))
    batch = train.abstract_batch(given, mesh)
    assert batch["image"].shape == (8, 16, 16, 3)
    assert batch["image"].sharding == sharding.batch(mesh)


@pytest.mark.parametrize(
    ("objective", "learned"),
    [("attentive", ("query", "key", "value", "head")), ("segment", ("head",))],
)
def test_what_is_frozen_stays_to_the_bit_and_costs_no_moments(objective, learned):
    """Neither a gradient nor decay nor the average of parameters reaches it."""
    changes = {"optim__ema": 0.9, "optim__weight_decay": 0.5, "optim__accumulate": 2}
    given, mesh = tiny.resolve(objective, **changes), tiny.mesh_of()
    run = tiny.Run(given, mesh)
    # A copy: the update is given the arrays themselves.
    before = jax.tree.map(np.array, run.state)
    assert train.count(run.state.opt) == 1 + 2 * train.count(
        {name: x for name, x in before.params.items() if name != "encoder"}
    )
    run.step()
    run.step()
    after = jax.device_get(run.state)
    for old, new in ((before.params, after.params), (before.ema, after.ema)):
        assert tiny.bits(new["encoder"]) == tiny.bits(old["encoder"])
        for name in learned:
            assert tiny.bits(new[name]) != tiny.bits(old[name]), name
    assert tiny.bits(after.frozen) != tiny.bits(before.frozen), "statistics move"


@pytest.mark.parametrize(("name", "moments"), [("adamw", 2), ("sgd", 1), ("lars", 1)])
def test_each_optimiser_keeps_so_many_moments(name, moments):
    state = train.shapes_of(tiny.resolve("classify", optim__name=name))
    counter = 1 if name == "adamw" else 0
    assert train.count(state.opt) == moments * train.count(state.params) + counter


def test_paths_of_nothing_are_refused():
    given = tiny.resolve("attentive", optim__frozen=("encodr",))
    with pytest.raises(config.ConfigError, match=r"^config\.optim\.frozen: 'encodr'"):
        setup.place(given)


def test_the_first_state_is_the_same_bits_unrolled():
    given = tiny.resolve("mae", encoder__unroll=2)
    whole = jax.jit(functools.partial(train.init_state, given))(np.uint32(0))
    assert tiny.bits(train.start_state(given, tiny.mesh_of())) == tiny.bits(whole)
