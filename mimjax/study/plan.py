"""A study file as runs in their order, and what is wrong with how it is written."""

import dataclasses
import difflib
import pathlib
import re
from typing import Any

from mimjax.schema import ConfigError, called, shown

NAME = re.compile(r"[\w=+-][\w.=+-]*(/[\w=+-][\w.=+-]*)*")
EXAMPLE = "('configs/NAME.py', {'optim.base_lr': 1e-3})"
VALUES = bool | int | float | str | tuple | list  # what a field may be given
PAIRS = {
    "TABLE": "a dict of column: (second part of the runs' names, value), such as "
    "{'fine-tuned': ('finetune', 'eval/accuracy')}",
    "SCALING": "the names of a loss and an accuracy, such as "
    "('eval/loss', 'eval/linear')",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
        name: its place below the study's workdir.
        file: its config file.
        changes: values of dotted fields; "@NAME" stands for another run's workdir.
        folder: its workdir.
    """

    name: str
    file: str
    changes: dict[str, Any]
    folder: pathlib.Path

    @property
    def row(self) -> str:
        """The first part of its name."""
        return self.name.split("/")[0]

    @property
    def part(self) -> str:
        """The second part of its name, "" where there is none."""
        return (*self.name.split("/"), "")[1]

    @property
    def needs(self) -> dict[str, str]:
        """The names of the runs it builds on, by field."""
        values = self.changes.items()
        return {k: v[1:] for k, v in values if isinstance(v, str) and v[:1] == "@"}

    def texts(self, workdir: pathlib.Path) -> list[tuple[str, str]]:
        """The changes as on a command line, in a study's workdir."""
        whole = {n: str(workdir / other) for n, other in self.needs.items()}
        return [(name, str(v)) for name, v in {**self.changes, **whole}.items()]

    def command(self, workdir: pathlib.Path) -> list[str]:
        """What Python is started with for it."""
        flags = [f"--config={self.file}", f"--workdir={self.folder}"]
        changes = (f"--config.{field}={x}" for field, x in self.texts(workdir))
        return ["-m", "mimjax.main", *flags, *changes]


@dataclasses.dataclass(frozen=True)
class Study:
    """A study file in a workdir: its runs in order, and what is made of them.

    `found` is what is wrong with it, apart from what each run asks for.
    """

    file: str
    workdir: pathlib.Path
    runs: dict[str, Run]
    table: dict[str, tuple[str, str]]
    scaling: tuple[str, str] | None
    found: list[str]

    def only(self, prefix: str) -> "Study":
        """The runs whose names begin so, and those that they need.

        Raises ConfigError where there is none.
        """
        wanted = {name for name in self.runs if name.startswith(prefix)}
        if not wanted:
            known = ", ".join(dict.fromkeys(run.row for run in self.runs.values()))
            told = f"--only: no run begins with {prefix!r}; names begin with {known}"
            raise ConfigError(self.found or [told])
        # What a run needs comes before it.
        for run in reversed(self.runs.values()):
            if run.name in wanted:
                wanted |= set(run.needs.values())
        runs = {name: run for name, run in self.runs.items() if name in wanted}
        return dataclasses.replace(self, runs=runs)


def load(file: str, workdir: pathlib.Path) -> Study:
    """The study of a file, not yet checked; raises ConfigError where it is none."""
    module, given = called(file, "get_study")
    if not isinstance(given, dict) or not given:
        told = f"get_study of {file} must return a dict of name: {EXAMPLE}"
        raise ConfigError([f"--config: {told}"])
    found, runs = [], {}
    names = list(given)
    for place, (name, value) in enumerate(given.items()):
        lines = entry_problems(name, value, names)
        if not lines:
            config_file, changes = value
            run = Run(name, config_file, changes, workdir / name)
            lines = change_problems(run, names[:place], names)
            runs[name] = run
        found += [f"{name}: {line}" for line in lines]
    table, scaling = (getattr(module, name, None) for name in ("TABLE", "SCALING"))
    parts = {run.part for run in runs.values()}
    if table is not None:
        lines = table_problems(table, parts)
        found += [f"TABLE: {line}" for line in lines]
        table = {} if lines else table
    if scaling is not None and not pair(scaling):
        found.append(f"SCALING: {shown(scaling)} is not {PAIRS['SCALING']}")
        scaling = None
    return Study(file, workdir, runs, table or {}, scaling, found)


def entry_problems(name: Any, value: Any, names: list[Any]) -> list[str]:
    """What is wrong with one entry of a study, given the names of all of them."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        return ["is not a name like 'mae/finetune/seed0'"]
    inside = [x for x in names if isinstance(x, str) and x.startswith(f"{name}/")]
    if inside:
        return [f"would hold the workdir of {inside[0]}; call it {name}/first"]
    if not (
        isinstance(value, tuple)
        and [type(x) for x in value] == [str, dict]
        and all(isinstance(field, str) for field in value[1])
    ):
        return [f"{shown(value)} is not a config file and changes: {EXAMPLE}"]
    return []


def change_problems(run: Run, before: list[str], names: list[Any]) -> list[str]:
    """What is wrong with the changes of a run, given the names of all of them."""
    found = []
    for field, change in run.changes.items():
        if not isinstance(change, VALUES):
            found.append(f"config.{field}: {shown(change)} is no value of a field")
    for field, other in run.needs.items():
        if other in before:
            continue
        near = difflib.get_close_matches(other, [*map(str, names)], n=1)
        hint = f"; did you mean @{near[0]}?" if near else ""
        later = other in names
        why = "comes no earlier in the study" if later else f"is no run of it{hint}"
        found.append(f"config.{field}: @{other} {why}")
    return found


def pair(value: Any) -> bool:
    """Whether it is two texts."""
    return isinstance(value, tuple) and [type(x) for x in value] == [str, str]


def table_problems(table: Any, parts: set[str]) -> list[str]:
    """What is wrong with the columns of a study whose names have those parts."""
    # Names are the heads of columns.
    good = isinstance(table, dict) and all(
        isinstance(name, str) and name.isprintable() and pair(value)
        for name, value in table.items()
    )
    if not good:
        return [f"{shown(table)} is not {PAIRS['TABLE']}"]
    return [
        f"{column}: no run is called ROW/{part}; there are {', '.join(sorted(parts))}"
        for column, (part, _) in table.items()
        if part not in parts
    ]
