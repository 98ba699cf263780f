"""The table of a study: a row a method, a column a question, mean and spread."""

import dataclasses
import datetime
import math
import shlex
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from mimjax.metrics import read_json, replacing
from mimjax.report import figures
from mimjax.report.progress import duration
from mimjax.run.workdir import write
from mimjax.study import outcome, runner
from mimjax.study.outcome import Values
from mimjax.study.plan import Run, Study

NAME = "results"
NOTE = "Values of the last step; mean ± standard deviation (of how many runs)."


@dataclasses.dataclass(frozen=True)
class Cell:
    """The values of the runs of one method in one column, and those runs."""

    values: list[float]
    runs: list[str]

    def __str__(self) -> str:
        """Mean ± standard deviation (of how many, where that is not one).

        Of those that are finite; how many are not stands beside it.
        """
        if not self.values:
            return "–"
        good = [x for x in self.values if math.isfinite(x)]
        lost = len(self.values) - len(good)
        told = [f"{lost} not finite"] if lost else []
        if len(good) > 1:
            mean, spread = statistics.fmean(good), statistics.stdev(good)
            told = [f"{mean:.4f} ± {spread:.4f} ({len(good)})", *told]
        elif good:
            told = [f"{good[0]:.4f}", *told]
        return ", ".join(told)


def plain(cell: Cell) -> dict[str, list[Any]]:
    """A cell for JSON, which holds no NaN: null stands for it."""
    values = [x if math.isfinite(x) else None for x in cell.values]
    return {"values": values, "runs": cell.runs}


def absent(study: Study, values: Values) -> list[str]:
    """Values that TABLE or SCALING names and no finished run has, a line each.

    Nothing is said where no run that could have one has finished.
    """
    parts = {run.part for run in study.runs.values()}
    wanted = [("TABLE", {part}, value) for part, value in study.table.values()]
    wanted += [("SCALING", parts, value) for value in study.scaling or ()]
    found = []
    for name, some, value in wanted:
        last = [x for n, x in values.items() if study.runs[n].part in some]
        known = {key for record in last for key in record} - {"step"}
        if known and value not in known:
            of = f"no run of {', '.join(some)}" if name == "TABLE" else "no run"
            has = ", ".join(sorted(known))
            found.append(f"{name}: {of} has {value}; it has {has}")
    return found


def cells(study: Study, values: Values) -> dict[str, dict[str, Cell]]:
    """Row, then column; the values are those of the last step of finished runs."""
    table: dict[str, dict[str, Cell]] = {}
    for run in study.runs.values():
        for column, (part, value) in study.table.items():
            if run.part == part:
                row = table.setdefault(run.row, {c: Cell([], []) for c in study.table})
                last = values.get(run.name, {})
                if value in last:
                    row[column].values.append(last[value])
                    row[column].runs.append(run.name)
    return table


def grid(study: Study, values: Values) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table as texts."""
    rows = cells(study, values).items()
    return ["", *study.table], [[row, *map(str, x.values())] for row, x in rows]


def columns(study: Study, values: Values) -> tuple[list[str], list[list[str]]]:
    """Head and rows of what each column of the table is."""
    head = ["column", "value", "steps", "batch", "seeds"]
    rows = []
    for column, (part, value) in study.table.items():
        runs = [study.runs[name] for name in values]
        runs = [run for run in runs if run.part == part]
        rows.append([column, f"{value} of {part}", *lengths(runs)])
    return head, rows


def lengths(runs: Iterable[Run]) -> list[str]:
    """Steps, batch sizes and seeds of runs that have finished."""
    configs = [read_json(run.folder / "config.json") for run in runs]
    facts = [outcome.facts(run) for run in runs]
    steps = {known["steps"] for known in facts}
    batch = {given["batch_size"] for given in configs if given}
    seeds = {given["seed"] for given in configs if given}
    return [", ".join(map(str, sorted(found))) for found in (steps, batch, seeds)]


def circumstances(study: Study, values: Values) -> list[tuple[str, str]]:
    """How many runs have finished, how long all took, on what, with which versions."""
    record = {"runs": {}, "seconds": 0.0, **read_json(study.workdir / runner.RECORD)}
    facts = {name: outcome.facts(study.runs[name]) for name in values}
    # Those that were made by themselves tell when they were at work.
    took = {name: figures.seconds_of(known) or 0.0 for name, known in facts.items()}
    took |= {n: x["seconds"] for n, x in record["runs"].items() if n in study.runs}
    whole = f"{duration(record['seconds'])} of commands, " if record["runs"] else ""
    added = duration(sum(took.values()))
    found = [
        ("runs", f"{len(values)} of {len(study.runs)} finished"),
        ("time", f"{whole}{added} of runs, added up"),
        ("written", datetime.datetime.now().astimezone().isoformat(timespec="minutes")),
    ]
    machines, versions = set(), set()
    for known in facts.values():
        host = f" ({known['host']})" if "host" in known else ""
        machines.add(f"{known['device_count']} x {known['devices']}{host}")
        numbers = known["versions"].items()
        versions.add(", ".join(f"{name} {number}" for name, number in numbers))
    if machines:
        found.append(("machine", "; ".join(sorted(machines))))
    return found + [("versions", told) for told in sorted(versions)]


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def save(study: Study, command: list[str], values: Values) -> None:
    """Writes results.md and results.json into the study's workdir."""
    facts = circumstances(study, values)
    text = "\n\n".join(
        [
            f"# Results of {study.file}",
            f"```sh\n{shlex.join(command)}\n```",
            markdown(*grid(study, values)),
            NOTE,
            markdown(*columns(study, values)),
            "\n".join(f"- {name}: {what}" for name, what in facts),
        ]
    )
    with replacing(study.workdir / f"{NAME}.md") as temporary:
        temporary.write_text(text + "\n", "utf-8", "backslashreplace")
    found = {
        row: {column: plain(cell) for column, cell in columns.items()}
        for row, columns in cells(study, values).items()
    }
    told: dict[str, Any] = {"command": command, **dict(facts)}
    # Runs may be of several versions.
    kept = [what for name, what in facts if name == "versions"]
    told |= {"versions": kept, "rows": found}
    write(study.workdir / f"{NAME}.json", told)
