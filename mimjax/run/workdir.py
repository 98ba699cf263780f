"""A workdir belongs to one run: who may write there, and what is written down of it."""

import contextlib
import datetime
import fcntl
import importlib.metadata
import json
import pathlib
import platform
import shutil
from collections.abc import Iterator
from typing import Any

from mimjax import __version__, cores
from mimjax.config import Config, defaults
from mimjax.convert.files import NAMES, NPZ
from mimjax.data import faults
from mimjax.metrics import METRICS, read_json, replacing
from mimjax.schema import ConfigError, flatten
from mimjax.settings import PARAMS, has_checkpoint

# Fields that may differ between a run and its resumption: they change what is written
# down or how fast, not what is computed.
FREE = (
    "log_every",
    "checkpoint_every",
    "eval_every",
    "picture_every",
    "keep_last",
    "keep_every",
    "data.prefetch",
    "data.workers",
    "data.bad_fraction",
    "data.bad_minimum",
    "encoder.unroll",
    "encoder.remat",
    "encoder.attention",
)
FREE_GROUPS = ("mesh", "evaluate", "profile")
# Of those, what says how a run is judged.
JUDGED = ("eval_every", "evaluate")
# Kinds of sources that are named by where their images lie.
PLACED = ("folder", "masks")

RECORD = "run.json"
# What a run draws, by step.
SHEETS, FOLDERS = (f"pictures/{n}_{'[0-9]' * 8}*" for n in ("step", "encoder"))
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow")


@contextlib.contextmanager
def claim(config: Config, workdir: pathlib.Path) -> Iterator[None]:
    """Makes the workdir this run's, as long as it runs.

    Its config is written down by `take`, once its images are known not to be others.
    Raises ConfigError where another run's config or converted weights lie there, or
    another process is at work in it.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("a+")
    except OSError as error:
        file = isinstance(error, FileExistsError)
        why = "it is a file" if file else error.strerror
        told = f"--workdir: cannot write to {workdir}: {why}"
        raise ConfigError([told]) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told = f"--workdir: another process is at work in {workdir}; choose another"
            raise ConfigError([told]) from None
        except OSError as error:
            told = f"--workdir: cannot lock {workdir}: {error.strerror}; choose another"
            raise ConfigError([told + " on a file system that has locks"]) from error
        if any((workdir / name).exists() for name in (PARAMS, *NAMES, NPZ)):
            why = f"--workdir: {workdir} holds weights, converted or exported; start"
            raise ConfigError([f"{why} by --config.init_from={workdir} in another one"])
        path = workdir / "config.json"
        if path.exists() and begun(workdir):
            found = differences(config, read(path), workdir)
            if found:
                hint = "resume it with its own values, or choose another --workdir"
                hint += f" (--config.init_from={workdir} starts from it)"
                found += [f"--workdir: {workdir} holds a run of another config; {hint}"]
                raise ConfigError(found)
        yield


def take(config: Config, workdir: pathlib.Path) -> None:
    """Writes down the config whose run it is now; of one not saved nothing is left."""
    path, source, before = workdir / "config.json", config.data.source, None
    if has_checkpoint(str(workdir)):
        there = flat(read(path)) if path.exists() else {}
        before = there.get("data.source", source)
    else:
        for drawn in [*workdir.glob(SHEETS), *workdir.glob(FOLDERS)]:
            shutil.rmtree(drawn) if drawn.is_dir() else drawn.unlink()
        (workdir / RECORD).unlink(missing_ok=True)
    faults.begin(workdir, before, source)
    write(path, config.values)


def begun(workdir: pathlib.Path) -> bool:
    """Whether a run has something to lose there: figures, pictures or a checkpoint."""
    path = workdir / METRICS
    measured = path.exists() and path.stat().st_size > 0
    drawn = any(workdir.glob(SHEETS))
    return measured or drawn or has_checkpoint(str(workdir))


def finished(workdir: pathlib.Path) -> bool:
    """Whether a run has made its last step and judged it, as run.json tells."""
    known = read_json(workdir / RECORD)
    return known.get("status") == 0 and known["step"] == known["steps"]


def differences(
    config: Config,
    before: dict[str, Any],
    workdir: pathlib.Path,
    judged: bool = False,
) -> list[str]:
    """What would change the numbers of the run whose config.json was `before`.

    Of one that is `judged` already, those of its evaluation too.
    """
    there, here = flat(before), flat(json.loads(json.dumps(config.values)))
    places = {"init_from", *(f"objective.{name}" for name in config.builds_on)}
    kinds = {str(x.get("data.source")).partition(":")[0] for x in (there, here)}
    moved: set[str] = set()
    if not judged:  # else nobody looks, as `check_data` does, whether images are others
        moved = {"data.tfds_dir"}
        if len(kinds) == 1 and kinds <= {*PLACED}:
            moved.add("data.source")

    def bound(name: str) -> bool:
        top = name.split(".")[0]
        free = name in FREE or name in moved or top in FREE_GROUPS
        return not free or (judged and top in JUDGED)

    found = [
        f"config.{name}: {here.get(name)!r} here, {value!r} in {workdir}"
        for name, value in sorted(there.items())
        if value != here.get(name)
        and bound(name)
        and not (name in places and one_place(value, here[name]))
    ]
    # A field that is new since must have its default.
    names = config.values["encoder"]["name"], config.values["objective"]["name"]
    usual = flat(json.loads(json.dumps(defaults(*names))))
    return found + [
        f"config.{name}: {here[name]!r} here, not set in {workdir}"
        for name in sorted(here.keys() - there.keys())
        if here[name] != usual.get(name) and bound(name)
    ]


def one_place(before: str, now: str) -> bool:
    """Whether two paths lead to one file or folder.

    It may have been moved, or be seen from another machine: where there is nothing at
    the earlier path any more, the last name counts.
    """
    old, new = pathlib.Path(before), pathlib.Path(now)
    if not (before and now and old.exists()):
        return old.name == new.name != ""
    return new.exists() and old.samefile(new)


def flat(tree: dict[str, Any]) -> dict[str, Any]:
    """Nested dicts as {"a.b": value}."""
    return {".".join(place): value for place, value in flatten(tree).items()}


def read(path: pathlib.Path) -> dict[str, Any]:
    """The object in a JSON file of a workdir; ConfigError where it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError([f"--workdir: {path} cannot be read: {error}"]) from None
    if not isinstance(value, dict):
        raise ConfigError([f"--workdir: {path} cannot be read: it holds no object"])
    return value


def write(path: pathlib.Path, value: Any) -> None:
    """JSON that is either the old or the new one, never half."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, default=str) + "\n")


def check_data(workdir: pathlib.Path, found: dict[str, Any]) -> None:
    """Raises ConfigError where a run that has saved its state saw other images."""
    path = workdir / RECORD
    if not path.exists() or not has_checkpoint(str(workdir)):
        return
    before = read(path)["data"]
    # Where they lie may change from one job to the next.
    if any(before[name] != found[name] for name in ("length", "content")):
        then, now, where = before["length"], found["length"], before["source"]
        other = f"has {now}" if then != now else "others, by name or size"
        told = f"{where} had {then} images when the run began and now {other}; put them"
        anew = "back, or start anew in another --workdir"
        raise ConfigError([f"config.data.source: {told} {anew}"])


class Record:
    """run.json: versions, host, devices, data, parameters, command, when, resumes."""

    def __init__(self, workdir: pathlib.Path, facts: dict[str, Any], step: int):
        self.path = workdir / RECORD
        before = read(self.path) if self.path.exists() else {}
        resumes = before.get("resumes", [])
        if before:
            resumes = [*resumes, {"step": step, "at": now()}]
        self.values = {
            "started": before.get("started", now()),
            **facts,
            "host": host(),
            "versions": versions(),
            "resumes": resumes,
        }
        write(self.path, self.values)

    def finish(self, **facts: Any) -> None:
        """Adds how the run ended."""
        self.values |= {"finished": now(), **facts}
        write(self.path, self.values)


def host() -> str:
    """What kind of machine this is, and the cores of its CPU that are used."""
    count = len(cores.usable())
    return f"{platform.machine()}, {count} CPU core{'s' * (count != 1)}"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers."""
    found = {"mimjax": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        for wheel in (name, f"{name}-cpu"):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(wheel)
    return found


def now() -> str:
    """The time, to the second."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
