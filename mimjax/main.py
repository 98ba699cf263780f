"""python -m mimjax.main --config=configs/NAME.py --workdir=DIR [--config.a.b=value]

Trains, or goes on training, what the config describes. Exit status: 0 done, 70 internal
error, 74 storage, 75 stopped and saved, 77 not finite, 78 bad configuration or data.
"""

import argparse
import gc
import os
import pathlib
import signal
import sys
from typing import NoReturn

from mimjax import __version__
from mimjax.run import endings, stop
from mimjax.schema import ConfigError

# Of this command and the others, before JAX or TensorFlow is imported: the chatter of
# their start, and of a CPU program that is loaded, is not the user's.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


class Parser(argparse.ArgumentParser):
    """Reports a wrong flag as a wrong config is reported."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError([f"{message} (see --help)"])


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
    """The flags, and the changes to the config as ("optim.clip", "1.0")."""
    parser = Parser(
        prog="mimjax",
        description="Pretrain vision transformers by masked image modelling.",
        epilog="Any field of the config is changed by --config.GROUP.FIELD=VALUE: "
        "mimjax --config=configs/mae_b16.py --workdir=runs/mine "
        "--config.data.source=folder:/path/to/images --config.batch_size=256. "
        "Exit status: 0 done, 70 internal error, 74 storage, 75 stopped and saved, 77 "
        "not finite, 78 bad configuration or data.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", required=True, help="a file such as those in configs/"
    )
    parser.add_argument(
        "--workdir",
        type=os.path.expanduser,
        help="where the run is kept and resumed; needed to train",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "--distributed",
        default="",
        help="'auto' on a TPU pod or under Slurm, or HOST:PORT,COUNT,INDEX",
    )
    parser.add_argument(
        "--compile",
        metavar="DEVICES",
        help="only compile the step, for cpu:8, TPUs as v5e:4x4 or GPUs as h100:8",
    )
    flags, rest = parser.parse_known_args(arguments)
    changes = changes_of(parser, rest)
    if not flags.workdir and flags.compile is None:
        parser.error("--workdir is needed: where to keep the run")
    return flags, changes


def changes_of(parser: Parser, rest: list[str]) -> list[tuple[str, str]]:
    """--config.optim.clip=1.0, or without the sign, as ("optim.clip", "1.0")."""
    changes = []
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if not flag.startswith("--config."):
            parser.error(f"unknown flag {flag} (or --config.GROUP.FIELD=VALUE?)")
        if not equals:
            if not rest:
                parser.error(f"{flag} needs a value: {flag}=VALUE")
            value = rest.pop(0)
        changes.append((flag.removeprefix("--config."), value))
    return changes


def out_folder(given: str | os.PathLike[str], new: bool = True) -> pathlib.Path:
    """What --out names; ConfigError where a file is there, or it cannot be seen.

    And where it is to be `new`, but holds something.
    """
    out = pathlib.Path(given)
    try:
        file = out.exists() and not out.is_dir()
        taken = new and out.is_dir() and any(out.iterdir())
    except OSError as error:
        told = f"--out: cannot look at {out}: {error.strerror}"
        raise ConfigError([told]) from None
    if file or taken:
        why = "is not empty; name another folder" if new else "is a file; name a folder"
        raise ConfigError([f"--out: {out} {why}"])
    return out


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        flags, changes = parse(given)
        return start(flags, changes, given)
    except Exception as error:
        return endings.tell(error, trains=True)


def start(
    flags: argparse.Namespace, changes: list[tuple[str, str]], given: list[str]
) -> int:
    """What the flags ask for; heavy imports wait until the flags make sense."""
    if flags.compile is not None:
        from mimjax.run import aot

        return aot.report(flags.config, changes, flags.compile)
    from mimjax import config
    from mimjax.run import compiled, loop, setup

    # Before any host or device is touched; what depends on their number comes after.
    resolved = config.resolve(flags.config, changes, None, workdir=flags.workdir)
    if flags.distributed:
        from mimjax import hosts

        hosts.join(flags.distributed)
    import jax

    setup.settle()
    config.fit(resolved, jax.device_count())
    workdir = pathlib.Path(flags.workdir)
    # One of several processes that finds its program while others compile theirs may
    # wait for them, or they for it: all have to find the same.
    compiled.keep(workdir.absolute() / "compiled" if jax.process_count() > 1 else None)
    command = [sys.executable, "-m", "mimjax.main", *given]
    return loop.run(resolved, workdir, command)


def console() -> None:
    """The console script."""
    # Tracing makes objects by the million, nearly none of them garbage: until the first
    # update (`run/loop.py`) nothing is looked for.
    gc.disable()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop.leave)
    status = main()
    # What it ends with is decided: a late signal does not change it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    jax = sys.modules.get("jax")
    if status not in (0, stop.STOPPED) and jax and jax.distributed.is_initialized():
        # The others are waiting for us: gone at once, they notice; politely, they wait.
        sys.stderr.flush()
        os._exit(status)
    gc.freeze()  # nor in what the end of the process gives back anyway
    sys.exit(status)


if __name__ == "__main__":
    console()
