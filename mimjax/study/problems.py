"""What keeps the runs of a study from starting, or from being those it asks for."""

import datetime
import math
import pathlib

from mimjax import config
from mimjax.metrics import read_json
from mimjax.run import workdir as workdirs
from mimjax.schema import ConfigError
from mimjax.study.plan import VALUES, Run, Study

AGAIN = "remove that workdir to make the run again"


def check(study: Study) -> None:
    """Raises ConfigError with all that would keep the runs from starting.

    What a run builds on may not be there yet; everything else is looked at as the run
    itself would.
    """
    found: dict[str, list[str]] = {}
    for run in study.runs.values():
        for line in start_problems(study, run):
            found.setdefault(line, []).append(run.name)
    lines = [f"{several(names)}: {line}" for line, names in found.items()]
    if workdirs.begun(study.workdir):
        told = f"{study.workdir} is the workdir of a run; name another"
        lines.append(f"--workdir: {told}")
    if not (study.found or lines):
        lines = scaling_problems(study)
    if study.found or lines:
        raise ConfigError(study.found + lines)


def scaling_problems(study: Study) -> list[str]:
    """What keeps the losses of runs, which may all start, from being one law."""
    if not study.scaling:
        return []
    loss, first = study.scaling[0], {}
    for run in study.runs.values():
        texts = run.texts(study.workdir)
        given = config.resolve(run.file, texts, None, with_data=False)
        if given.run.eval_every or not loss.startswith("eval/"):
            first.setdefault(given.values["objective"]["name"], run.name)
    if len(first) < 2:
        return []
    runs = " and ".join(f"{name} ({run})" for name, run in first.items())
    told = f"the losses of {runs} make no law together; make two studies, or set"
    return [f"SCALING: {told} eval_every=0 for the runs that are no points"]


def start_problems(study: Study, run: Run, with_data: bool = True) -> list[str]:
    """What would keep one run from starting, or from staying as it is."""
    path, done = run.folder / "config.json", workdirs.finished(run.folder)
    try:
        where = str(run.folder)
        how = run.file, run.texts(study.workdir), None
        wanted = config.resolve(*how, with_data=with_data, workdir=where)
        if not (path.exists() and workdirs.begun(run.folder)):
            return []
        before = workdirs.read(path)
    except ConfigError as error:
        changes = run.changes.items()
        told = [f"config.{f}: " for f, x in changes if not isinstance(x, VALUES)]
        # What comes of runs that are not made yet, or are none of the study. One that
        # has finished needs them no more.
        for field, name in run.needs.items():
            folder = study.workdir / name
            if done or not workdirs.finished(folder):
                told.append(f"config.{field}: {folder} holds no ")
        return [x for x in error.problems if not x.startswith(tuple(told))]
    lines = workdirs.differences(wanted, before, run.folder, judged=done)
    hint = f"(change the study back, or {AGAIN})"
    return [f"{line} {hint}" for line in lines] + outdated(study, run)


def outdated(study: Study, run: Run) -> list[str]:
    """What a run that has begun was made from, where that is, or will be, another."""
    if not workdirs.begun(run.folder):
        return []
    found, began = [], started(run.folder)
    for field, name in run.needs.items():
        need = study.workdir / name
        if started(need) > began or not workdirs.begun(need):
            told = f"{run.folder} was made from an earlier @{name}; {AGAIN}"
            found.append(f"config.{field}: {told}")
    return found


def started(folder: pathlib.Path) -> float:
    """When a run began, in seconds; NaN, neither before nor after, where not told."""
    told = read_json(folder / workdirs.RECORD).get("started")
    return datetime.datetime.fromisoformat(told).timestamp() if told else math.nan


def strangers(study: Study) -> dict[str, str]:
    """The runs that have begun and are not those of the study now, and why."""
    found = {}
    for run in study.runs.values():
        if workdirs.begun(run.folder):
            lines = start_problems(study, run, with_data=False)
            needs = [name for name in run.needs.values() if name in found]
            lines += [f"was made from {name}" for name in needs]
            if lines:
                found[run.name] = lines[0]
    return found


def several(names: list[str]) -> str:
    """Names of runs that have the same problem."""
    more = len(names) - 1
    return f"{names[0]} (and {more} more)" if more else names[0]
