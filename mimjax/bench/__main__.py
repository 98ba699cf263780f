"""python -m mimjax.bench step --config=configs/NAME.py [--config.a.b=value]

Measures training steps on this machine: `step` one, `all` a list of them, `growth` how
cost grows with size. Exit status: 0 done, 70 a measurement has failed, 74 storage, 78
bad configuration.
"""

import argparse
import json
import os
import pathlib
import sys
from typing import Any

from mimjax.bench import grow, pages, rows, step
from mimjax.main import Parser, changes_of
from mimjax.run import endings
from mimjax.schema import ConfigError

SLOW = {"ways": step.WAYS, "seconds": 10.0}
# On an accelerator most of the time goes to compiling.
QUICK = {"ways": ("compile-sdpa",), "seconds": 3.0}


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
    """The flags, and the changes to the config."""
    parser = Parser(
        prog="python -m mimjax.bench",
        description="Measures training steps on this machine.",
        epilog="Exit status: 0 done, 70 a measurement has failed, 74 storage, 78 bad "
        "configuration.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "what",
        choices=("step", "all", "growth"),
        help="one step, a list of them, or how cost grows with size",
    )
    add("--config", default="", help="of step: a file such as those in configs/")
    add("--against", default="", choices=("torch",), help="of step: beside a peer")
    known = ",".join(step.WAYS)
    add(
        "--xla",
        default=[],
        action="append",
        metavar="NAME=VALUE",
        help="of step: an option to compile ours with",
    )
    add("--ways", default="", help=f"to run the peer, some of {known}")
    add("--rounds", type=int, default=3, help="processes of each side")
    told = "of updates in each process, else 10, of a list on an accelerator 3"
    add("--seconds", type=float, help=told)
    add("--only", default="", metavar="PREFIX", help="of a list: rows called so")
    told = "folder for the same as Markdown and JSON"
    add("--out", default="", type=os.path.expanduser, help=told)
    flags, rest = parser.parse_known_args(arguments)
    changes = changes_of(parser, rest)
    flags.ways = flags.ways.split(",") if flags.ways else None
    wrong = set(flags.ways or ()) - set(step.WAYS)
    if wrong:
        parser.error(f"--ways: {min(wrong)!r} is none of {known}")
    if flags.rounds < 1 or (flags.seconds or 0) < 0:
        parser.error("--rounds must be at least 1 and --seconds not negative")
    flags.xla = dict(option.partition("=")[::2] for option in flags.xla)
    if "" in flags.xla or "" in flags.xla.values():
        parser.error("--xla must be NAME=VALUE")
    if flags.what == "step" and not flags.config:
        parser.error("step needs --config")
    if flags.what != "step" and (flags.config or changes or not flags.out):
        parser.error(f"{flags.what} takes no --config, and needs --out")
    idle = {"step": ("only",), "all": ("against", "xla")}
    idle["growth"] = *idle["all"], "ways"
    for name in idle[flags.what]:
        if getattr(flags, name):
            parser.error(f"{flags.what} takes no --{name}")
    return flags, changes


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    try:
        flags, changes = parse(sys.argv[1:] if arguments is None else arguments)
        if flags.out:  # before hours are spent
            pathlib.Path(flags.out).mkdir(parents=True, exist_ok=True)
        if flags.what == "step":
            machine = step.ask("machine", {})
            given = {"against": flags.against, "options": flags.xla}
            given |= budget(flags, SLOW)
            found = step.measure(flags.config, changes, **given)
            text = f"{pages.of_machine(machine)}\n\n{pages.of_step(found)}"
            write(flags, {"machine": machine, **found}, text)
            print(text)
            return 0
        return several(flags)
    except OSError as error:
        print(f"--out: {error}", file=sys.stderr)
        return endings.STORAGE
    except step.FailedError as error:
        print(error, file=sys.stderr)
        return endings.INTERNAL
    except Exception as error:
        return endings.tell(error)


def budget(flags: argparse.Namespace, usual: dict[str, Any]) -> dict[str, Any]:
    """What the flags say of it, else the usual."""
    said = {"ways": flags.ways, "seconds": flags.seconds, "rounds": flags.rounds}
    return usual | {name: value for name, value in said.items() if value is not None}


def several(flags: argparse.Namespace) -> int:
    """All rows, or all tables of growth; one that fails does not end the others."""
    machine = step.ask("machine", {})
    cpu, failed, text = machine["platform"] == "cpu", False, ""
    given = budget(flags, SLOW if cpu else QUICK)
    found: dict[str, Any] = {}
    todo: dict[str, Any] = rows.growth(machine["platform"])
    if flags.what == "all":
        todo = {row.name: row for row in (rows.on_cpu() if cpu else rows.on_gpu())}
    chosen = {name: x for name, x in todo.items() if name.startswith(flags.only)}
    if not chosen:
        known = ", ".join(todo)
        raise ConfigError([f"--only: {flags.only!r} begins none of {known}"])
    for name, item in chosen.items():
        step.tell(name)
        try:
            if flags.what == "all":
                more = {"against": item.against, "options": item.options, **given}
                found[name] = step.measure(item.path, item.changes, **more)
            else:
                less = {"rounds": given["rounds"], "seconds": given["seconds"]}
                found[name] = grow.measure(item, **less)
        except (step.FailedError, ConfigError) as error:
            failed = True
            why = "; ".join(getattr(error, "problems", [str(error)]))
            found[name] = {"error": why} if flags.what == "all" else why
        page = pages.of_all if flags.what == "all" else pages.of_growth
        text = page(found, machine)
        write(flags, {"machine": machine, "rows": found}, text)
    print(text)
    return endings.INTERNAL if failed else 0


def write(flags: argparse.Namespace, found: dict[str, Any], text: str) -> None:
    """The Markdown and the JSON, where a folder is named."""
    if flags.out:
        out = pathlib.Path(flags.out)
        (out / f"{flags.what}.json").write_text(json.dumps(found, indent=1) + "\n")
        (out / f"{flags.what}.md").write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
