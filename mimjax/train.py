"""The training state and the step: pure functions of state, batch and seed.

The loop around them is `mimjax/run/loop.py`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mimjax import batches, gradients, grid, optim, sharding, trainable, updates
from mimjax.batches import Batch
from mimjax.config import Config
from mimjax.objectives import MOVING

# Streams of random numbers an objective may draw from.
STREAMS = ("mask", "drop", "mix")

# Updates in a row that were not finite before the run gives up.
BAD_LIMIT = 5

Metrics = dict[str, Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """All that changes in training; with the seed and the data it decides the future.

    `frozen` holds collections that no gradient reaches, of which an update may change
    one (MOVING); `opt` the moments of what is trained; `ema` the averaged parameters
    (empty without averaging). `step` counts the updates made. `bad_streak` counts those
    in a row, up to now, whose loss or gradient was not finite and which were therefore
    skipped; `bad_total` all of them. The three are int32 scalars. Of a grid of rates,
    what is trained has a leading axis in the first, in `opt` and in `ema`.
    """

    params: Any
    frozen: Any
    opt: Any
    ema: Any
    step: Any
    bad_streak: Any
    bad_total: Any

    @property
    def best_params(self) -> Any:
        """The parameters to judge: averaged where there is an average."""
        return self.ema or self.params


def streams(seed: Array | int, step: Array | int) -> dict[str, Array]:
    """The random keys of a step; nothing about randomness is ever saved."""
    root = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), step)
    return {name: jax.random.fold_in(root, i) for i, name in enumerate(STREAMS)}


def init_state(config: Config, seed: Array | None = None) -> State:
    """The state before the first update, a function of the seed alone.

    The seed is the config's; given as an array it is no part of what is compiled.
    """
    given = config.run.seed if seed is None else seed
    shapes = batches.shapes(config, 1).items()
    batch = {name: jnp.zeros(shape, kind) for name, (shape, kind) in shapes}
    channels = config.encoder.channels
    batch = batches.prepare(batch, np.zeros(channels), np.ones(channels))
    key = jax.random.fold_in(jax.random.key(given), 0)
    rngs = {"params": key, **streams(given, 0)}
    variables = dict(config.objective.init(rngs, batch, train=False))
    params = variables.pop("params")
    zero = jnp.zeros((), jnp.int32)
    learned = trainable.trained(config.optim, params)
    state = State(
        params=params,
        frozen=variables,
        opt=updates.chain(config.optim).init(learned),
        # A copy: a donated buffer may stand in one place only.
        ema=jax.tree.map(jnp.copy, params) if config.optim.ema else {},
        step=zero,
        bad_streak=zero,
        bad_total=zero,
    )
    return grid.spread(config.optim, state)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the step needs to know beside the configuration.

    `mean` and `std` are those of the pixels in units of 1, a value a channel.
    """

    steps: int
    warmup: int
    mean: Any
    std: Any


def make_step(
    config: Config, plan: Plan, mesh: jax.sharding.Mesh
) -> Callable[[State, Batch, Array], tuple[State, Metrics]]:
    """The update, to be jitted: state, uint8 batch, seed -> state, scalar metrics.

    The seed is an argument, so that runs that differ in it alone share a program.

    An update whose loss or gradient is not finite leaves parameters, moments and
    average as they were and is counted; after BAD_LIMIT in a row none is made any
    more, so that the loop may look late and still find the last good parameters. Of a
    grid each member is left as it was for itself, and what counts as bad is an update
    of none; what is reported is of the member with the lowest loss.
    """
    gradient = gradients.make(config, plan.mean, plan.std)

    def lr_of(given: optim.Optim, step: Array) -> Array:
        peak = given.peak_lr(config.run.batch_size)
        return optim.schedule(
            given, peak=peak, warmup=plan.warmup, steps=plan.steps, step=step
        )

    def member(
        found: Any, lr: Array, learned: Any, opt: Any, averaged: Any, going: Array
    ) -> tuple[Any, Array, Metrics]:
        loss, metrics, grads = found
        norm = updates.norm_of(grads)
        good = jnp.isfinite(loss) & jnp.isfinite(norm) & going
        before = learned, opt, averaged
        kept = updates.apply(config.optim, config.encoder, lr, grads, before, good)
        return kept, good, {"loss": loss, "lr": lr, "grad_norm": norm, **metrics}

    def step(state: State, batch: Batch, seed: Array) -> tuple[State, Metrics]:
        rngs = streams(seed, state.step)
        before = {k: v for k, v in state.frozen.items() if k == MOVING}
        part = functools.partial(gradient, state.params, state.frozen, state.step)
        found, moving = gradients.accumulate(
            part, batch, rngs, before, config.optim.accumulate, mesh
        )
        lr = grid.of_each(config.optim, lambda given: lr_of(given, state.step))
        learned, averaged = (
            trainable.trained(config.optim, tree) for tree in (state.params, state.ema)
        )
        update = grid.over(config.optim, member, in_axes=(0, 0, 0, 0, 0, None))
        (params, opt, ema), good, values = update(
            found, lr, learned, state.opt, averaged, state.bad_streak < BAD_LIMIT
        )
        good = good.any()
        state = State(
            params=trainable.restored(params, state.params),
            frozen={**state.frozen, **updates.chosen(good, moving, before)},
            opt=opt,
            ema=trainable.restored(ema, state.ema),
            step=state.step + 1,
            bad_streak=jnp.where(good, 0, state.bad_streak + 1),
            bad_total=state.bad_total + ~good,
        )
        counts = {"bad_streak": state.bad_streak, "skipped": state.bad_total}
        return state, {**grid.best(config.optim, values), **counts}

    return step


@functools.lru_cache(maxsize=4)
def first_of(config: Config) -> Callable[[Array], State]:
    """The first state of a seed, one function for all that ask: tracing takes long."""
    return functools.partial(init_state, config.quickly_compiled())


@functools.lru_cache(maxsize=4)
def shapes_of(config: Config) -> State:
    """Shapes and types of the state."""
    seed = jax.ShapeDtypeStruct((), jnp.uint32)
    return jax.jit(first_of(config)).eval_shape(seed)


def abstract_state(config: Config, mesh: jax.sharding.Mesh) -> State:
    """Shapes, types and shardings of the state."""
    shapes = shapes_of(config)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes,
        sharding.shardings(shapes, mesh),
    )


def abstract_batch(config: Config, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Shapes, types and shardings of a batch of the whole run."""
    cut = sharding.batch(mesh)
    shapes = batches.shapes(config, config.run.batch_size).items()
    return {
        name: jax.ShapeDtypeStruct(shape, kind, sharding=cut)
        for name, (shape, kind) in shapes
    }


def seed_on(config: Config, mesh: jax.sharding.Mesh) -> Array:
    """The seed on all devices of the mesh, as the update takes it."""
    return sharding.copied(np.uint32(config.run.seed), mesh)


def trace_step(config: Config, plan: Plan, mesh: jax.sharding.Mesh) -> Any:
    """The traced update; the state passed in will be given up to it."""
    state = abstract_state(config, mesh)
    placed = jax.tree.map(lambda x: x.sharding, state)
    step = jax.jit(
        make_step(config, plan, mesh),
        donate_argnums=0,
        out_shardings=(placed, sharding.replicated(mesh)),
    )
    seed = jax.ShapeDtypeStruct((), jnp.uint32, sharding=sharding.replicated(mesh))
    # The mesh in force is what the models cut their activations over.
    with jax.set_mesh(mesh):
        return step.trace(state, abstract_batch(config, mesh), seed=seed)


def start_state(config: Config, mesh: jax.sharding.Mesh) -> State:
    """The first state, made where it will live."""
    placed = jax.tree.map(lambda x: x.sharding, abstract_state(config, mesh))
    first = jax.jit(first_of(config), out_shardings=placed)
    with jax.set_mesh(None):  # as for its shapes, or it is traced again
        return first(np.uint32(config.run.seed))


def spread_state(config: Config, state: State, mesh: jax.sharding.Mesh) -> State:
    """The first state of one member as that of a grid, where there are rates."""
    if not config.optim.rates:
        return state
    placed = jax.tree.map(lambda x: x.sharding, abstract_state(config, mesh))
    members = functools.partial(grid.spread, config.optim)
    return jax.jit(members, out_shardings=placed)(state)


def count(tree: Any) -> int:
    """Numbers in a tree of arrays."""
    return sum(x.size for x in jax.tree.leaves(tree))
