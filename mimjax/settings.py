"""The top fields of a config, and the checked whole that the program works with."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from mimjax import data, evaluate, frozen, meshes, optim
from mimjax.convert import files

# More is a slip of the keyboard, and no int32 of steps.
MOST_EPOCHS = 1_000_000


@dataclasses.dataclass(frozen=True)
class Run:
    """The top fields. Periods are in steps, 0 for never; set `steps` or `epochs`.

    `keep_last` checkpoints are kept, and those of every `keep_every` steps for good.
    `init_from` names the workdir of another run, or a file of another project that
    `python -m mimjax.convert` reads; `init_scope` says whether its "encoder" or "all"
    its parameters start this one.
    """

    seed: int = 0
    steps: int = 0
    epochs: float = 0.0
    batch_size: int = 256
    log_every: int = 50
    checkpoint_every: int = 1000
    eval_every: int = 0
    picture_every: int = 0
    keep_last: int = 3
    keep_every: int = 0
    init_from: str = ""
    init_scope: str = "encoder"


@dataclasses.dataclass(frozen=True)
class Profile:
    """The updates to trace, from `steps[0]` to `steps[1]`; none where it is empty.

    `WORKDIR/profile` then holds the trace and a table of the operations.
    """

    steps: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Config:
    """Everything a run is made of, checked; `values` is the same as nested dicts.

    Each is a key of its own to what is remembered of it (`train.shapes_of`).
    """

    run: Run
    data: data.Data
    encoder: Any
    objective: Any
    optim: optim.Optim
    mesh: meshes.Mesh
    evaluate: evaluate.Evaluate
    profile: Profile
    values: dict[str, Any]

    @property
    def probed(self) -> data.Data:
        """The images that the encoder is probed with.

        Of others than those trained on there are as many as are asked for.
        """
        source = self.evaluate.source
        if not source:
            return self.data
        most = max(self.data.num_images, self.evaluate.train_images)
        return dataclasses.replace(self.data, source=source, num_images=most)

    @property
    def view_size(self) -> tuple[int, int]:
        """Of the second view of every crop that the objective asks for; or (0, 0)."""
        return getattr(self.objective, "view_size", (0, 0))

    @property
    def mask_values(self) -> int:
        """How many classes the masks that the objective asks for may name, or 0."""
        return getattr(self.objective, "mask_values", 0)

    @property
    def builds_on(self) -> dict[str, str]:
        """The workdirs of the runs whose models the objective holds, by field."""
        fields = vars(self.objective).items()
        return {n: v.workdir for n, v in fields if isinstance(v, frozen.Model)}

    def with_encoder(self, **fields: Any) -> "Config":
        """The same with other fields of the encoder; `values` stay."""
        encoder = self.encoder.clone(**fields)
        objective = self.objective.clone(encoder=encoder)
        return dataclasses.replace(self, encoder=encoder, objective=objective)

    def quickly_compiled(self) -> "Config":
        """The same for the compiler layer by layer, for what runs once or seldom.

        Numbers may differ in the last digit, random ones do not.
        """
        found = self if self.encoder.unroll == 1 else self.with_encoder(unroll=1)
        return found.by_xla()

    def by_xla(self) -> "Config":
        """The same without kernels that only some devices have."""
        return self._with_own(attention="xla")

    def plain(self) -> "Config":
        """The same for whoever takes the model: by XLA, no factor of eight bits."""
        return self._with_own(attention="xla", float8=False)

    def _with_own(self, **fields: Any) -> "Config":
        """With those fields that the encoder has, and has another value of."""
        own = {n: x for n, x in fields.items() if getattr(self.encoder, n, x) != x}
        return self.with_encoder(**own) if own else self

    def steps(self, num_images: int) -> int:
        """Updates of the run over a source of that many images."""
        if self.run.steps:
            return self.run.steps
        return max(1, round(self.run.epochs * num_images / self.run.batch_size))

    def warmup(self, num_images: int) -> int:
        """Updates of the warm-up."""
        if self.optim.warmup_steps:
            return self.optim.warmup_steps
        return round(self.optim.warmup_epochs * num_images / self.run.batch_size)


def profile_problems(profile: Profile, last: int) -> list[str]:
    """What cannot be traced in a run of `last` updates, 0 where that is not known."""
    steps, where = profile.steps, "config.profile.steps"
    if steps and not (len(steps) == 2 and 1 <= steps[0] <= steps[1]):
        return [f"{where}: {steps} must be () for no trace, or (first, last): (10, 15)"]
    if steps and last and steps[1] > last:
        return [f"{where}: {steps} must be within the {last} updates of the run"]
    return []


def has_checkpoint(workdir: str) -> bool:
    """Whether a run has saved its state there."""
    try:
        found = [*Path(workdir, "checkpoints").glob("*")]
    except OSError:  # there may be none, if it cannot be looked at
        return False
    return any(folder.name.isdigit() for folder in found)


PARAMS = "params.safetensors"
"""What stands in a workdir for a checkpoint where no run has trained the model."""
CONVERTED = "converted.json"
"""What is told of the file that it was made of."""


def holds_model(workdir: str) -> bool:
    """Whether there are parameters to start from, or to build on."""
    # This one answers no of a path that cannot be looked at.
    return has_checkpoint(workdir) or os.path.isfile(Path(workdir, PARAMS))


def is_file(path: str) -> bool:
    """Whether it is a file, or a folder of transformers or timm."""
    place = Path(path)
    return place.is_file() or any((place / name).exists() for name in files.NAMES)


def unknown(source: str) -> list[str]:
    """Why nothing can start from there, one line."""
    try:
        if holds_model(source) or is_file(source):
            return []
    except OSError as error:
        return [f"init_from: cannot look at {source}: {error.strerror}"]
    what = "name the workdir of a run, or a file of another project"
    return [f"init_from: {source} holds no checkpoint; {what}"]


def problems(run: Run) -> list[str]:
    """What cannot work in the top fields, one line each."""
    found = []
    if min(run.steps, run.epochs) >= 0 and (run.steps > 0) == (run.epochs > 0):
        found.append(
            "steps: set exactly one of steps and epochs to a positive number, not "
            f"steps={run.steps} and epochs={run.epochs}"
        )
    for name in ("batch_size", "log_every", "keep_last"):
        if getattr(run, name) < 1:
            found.append(f"{name}: {getattr(run, name)} must be at least 1")
    periods = ("checkpoint_every", "eval_every", "picture_every", "keep_every")
    for name in ("seed", "steps", "epochs", *periods):
        if getattr(run, name) < 0:
            found.append(f"{name}: {getattr(run, name)} must not be negative")
    saves = run.checkpoint_every
    if run.keep_every > 0 and (saves == 0 or run.keep_every % saves):
        found.append(
            f"keep_every: {run.keep_every} must be a multiple of checkpoint_every "
            f"({saves})"
        )
    if run.epochs > MOST_EPOCHS:
        found.append(f"epochs: {run.epochs} is more than {MOST_EPOCHS}")
    if run.init_from:
        found += unknown(run.init_from)
    if run.init_scope not in ("encoder", "all"):
        found.append(f"init_scope: {run.init_scope!r} is neither 'encoder' nor 'all'")
    return found
