"""The state that a run goes on from: restored, warm-started or fresh."""

import pathlib

import jax

from mimjax import checkpoint, grid, train, trainable, warmstart
from mimjax.config import Config, ConfigError
from mimjax.convert import workdirs
from mimjax.convert.files import BadFileError
from mimjax.report.progress import Progress
from mimjax.run import setup


def first_state(
    config: Config,
    mesh: jax.sharding.Mesh,
    checkpoints: checkpoint.Checkpoints,
    progress: Progress,
) -> tuple[train.State, int]:
    """The state to go on from, and its step."""
    state, remarks = checkpoints.restore(train.abstract_state(config, mesh))
    for remark in remarks:
        progress.note(f"{remark}; trying the one before")
    if state is not None:
        step = int(jax.device_get(state.step))
        progress.note(f"resumed at step {step}")
        return state, step
    # Of a grid one member first: what it starts from has no members.
    state = train.start_state(grid.alone(config), mesh)
    try:
        state, remarks = warmstart.with_frozen(state, config.builds_on)
    except warmstart.NothingFitsError as error:
        raise ConfigError([f"config.objective.{error}"]) from None
    for remark in remarks:
        progress.note(remark)
    if config.run.init_from:
        state = warm(config, state, progress)
    state = train.spread_state(config, state, mesh)
    progress.note(setup.sizes(config, state))
    return state, 0


def warm(config: Config, state: train.State, progress: Progress) -> train.State:
    """A fresh state with what `init_from` has for it.

    Raises ConfigError where that is nothing, or leaves random what is not trained.
    """
    source, encoder = pathlib.Path(config.run.init_from), config.encoder
    try:
        origin = workdirs.origin_of(source, encoder)
        state, found = warmstart.begin(state, origin, config.run.init_scope, encoder)
    except (BadFileError, warmstart.NothingFitsError) as error:
        raise ConfigError([f"config.init_from: {error}"]) from None
    lost = found["missing"] + found["shape"]
    # Behind a mean of patches files have another norm; a fresh one scales nothing.
    fresh = [n for n in lost if n not in ("encoder/norm/scale", "encoder/norm/bias")]
    random = trainable.frozen_among(config.optim, state.params, fresh)
    why = ""
    if any(name.startswith("encoder/") for name in fresh):
        why = warmstart.unlike(origin.encoder, encoder)
    if random and not why:
        first = [f"{name} of {shape}" for name, shape in random.items()][:2]
        more = f" and {len(random) - 2} more" if len(random) > 2 else ""
        why = f"no {', '.join(first)}{more} there"
    if random:
        frozen = f"config.optim.frozen={config.optim.frozen}"
        told = f"{source}: {why}, which would stay random under {frozen}"
        raise ConfigError([f"config.init_from: {told}"])
    matched = len(found["matched"])
    told = f"started from {source}: {matched} of {matched + len(lost)} arrays matched"
    progress.note(f"{told}; {why}" if why else told)
    other = warmstart.unseen(origin.encoder, encoder)
    if other and not why:
        progress.note(f"  the same arrays, another function: {other}")
    for other in (
        warmstart.unlike(origin.encoder, encoder, ("image_size",)),
        warmstart.computed_anew(origin.encoder, encoder),
    ):
        if other:
            progress.note(f"  {other}")
    for kind in ("resized", "missing", "shape", "unexpected"):
        for name in found[kind]:
            progress.note(f"  {kind}: {name}")
    return state
