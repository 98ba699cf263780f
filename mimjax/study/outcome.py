"""What a run has come to, as the files of its workdir tell."""

from collections.abc import Iterable
from typing import Any

from mimjax.metrics import Record, read_json, read_metrics
from mimjax.run import workdir
from mimjax.study.plan import Run

LOG = "log.txt"
# What a line on a run says of it, where it is known.
FIGURES = ("eval/loss", "eval/accuracy", "eval/knn", "eval/linear")
# The last values of runs that have finished, by name.
Values = dict[str, Record]


def facts(run: Run) -> dict[str, Any]:
    """What run.json holds; empty where there is none or it is torn."""
    return read_json(run.folder / workdir.RECORD)


def finished(run: Run) -> bool:
    """Whether it has made its last step and judged it."""
    return workdir.finished(run.folder)


def last_values(run: Run) -> Record:
    """What metrics.jsonl says of its last step; empty unless it has finished."""
    if not finished(run):
        return {}
    found, last = {}, facts(run)["step"]
    for record in read_metrics(run.folder):
        if record["step"] == last:
            found |= record
    return found


def values_of(runs: Iterable[Run]) -> Values:
    """The last values of those that have finished."""
    return {run.name: last_values(run) for run in runs if finished(run)}


def figures(values: Record) -> str:
    """The main values of a last step, in words."""
    names = [name for name in FIGURES if name in values]
    if not names and "loss" in values:
        return f"training loss {values['loss']:.4f}"
    return "  ".join(f"{n.removeprefix('eval/')} {values[n]:.4f}" for n in names)


def failure(run: Run, status: int) -> str:
    """How it failed, in words."""
    if status < 0:
        return f"killed by signal {-status}"
    return f"status {status}: {last_words(run)}"


def last_words(run: Run) -> str:
    """The last line of its log."""
    log = run.folder / LOG
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")
