"""python -m mimjax.study --config=configs/NAME.py --workdir=DIR [--jobs=N]

Makes the runs of a study, or goes on making them, and writes what they show together.
Exit status: 0 done, 74 storage, 75 stopped by a signal (the same command goes on), 78
bad configuration, else that of the first run that has failed.
"""

import argparse
import io
import os
import pathlib
import shlex
import signal
import sys

from mimjax.main import Parser
from mimjax.run import endings, stop
from mimjax.schema import ConfigError


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = Parser(
        prog="python -m mimjax.study",
        description="Makes many runs, and tables and plots of them.",
        epilog="Each run lies in WORKDIR/NAME, with what it says in log.txt. Exit "
        "status: 0 done, 74 storage, 75 stopped by a signal (the same command goes "
        "on), 78 bad configuration, else that of the first run that has failed.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", required=True, help="a file with get_study (mimjax/study)"
    )
    told, path = "where all runs are kept", os.path.expanduser
    parser.add_argument("--workdir", required=True, type=path, help=told)
    parser.add_argument(
        "--only", default="", metavar="PREFIX", help="runs called so, and their needs"
    )
    told = "runs to make at once on a CPU, each with a share of its cores"
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help=told)
    told = "print the command of each run and leave"
    parser.add_argument("--list", action="store_true", help=told)
    try:
        return start(parser.parse_args(given), given)
    except Exception as error:
        return endings.tell(error)


def start(flags: argparse.Namespace, given: list[str]) -> int:
    """What the flags ask for; heavy imports wait until the flags make sense."""
    from mimjax import cores, report
    from mimjax.study import outcome, pages, plan, problems, results, runner

    most = len(cores.usable())
    if not 1 <= flags.jobs <= most:
        told = f"--jobs: {flags.jobs} must be 1 to {most}: so many cores may be used"
        raise ConfigError([told])
    study = plan.load(flags.config, pathlib.Path(flags.workdir))
    chosen = study.only(flags.only)
    problems.check(chosen)
    if flags.list:
        for run in chosen.runs.values():
            line = shlex.join(["python", *run.command(study.workdir)])
            print(f"# finished: {line}" if outcome.finished(run) else line)
        return 0
    command, told, laws = ["python", "-m", "mimjax.study", *given], set(), {}

    def tell() -> None:
        nonlocal laws
        others = problems.strangers(study)
        own = [run for name, run in study.runs.items() if name not in others]
        values = outcome.values_of(own)
        notes = [f"left out: {name}: {why}" for name, why in others.items()]
        notes += results.absent(study, values)
        laws = pages.write(study, command, values, notes)
        for line in notes:
            what, _, _ = line.partition(";")
            if what not in told:
                print(line, file=sys.stderr, flush=True)
            told.add(what)

    tell()
    status = runner.run(chosen, command, tell, flags.jobs)
    for line in pages.laws_told(laws):
        print(line)
    print(f"see {study.workdir / report.REPORT}")
    return status


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):  # paths may be no UTF-8
        sys.stdout.reconfigure(errors="surrogateescape")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop.leave)
    sys.exit(main())
