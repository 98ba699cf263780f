"""python -m mimjax.bench step --config=configs/NAME.py [--config.a.b=value]

Measures a training step here. Exit status: 0 done, 70 a measurement failed, 78 bad
configuration.
"""

import json
import pathlib
import sys

from mimjax.bench import pages, step
from mimjax.main import BAD_CONFIG, INTERNAL, Parser, changes_of
from mimjax.schema import ConfigError


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = Parser(
        prog="python -m mimjax.bench",
        description="Measures a training step on this machine.",
        allow_abbrev=False,
    )
    parser.add_argument("what", choices=("step",))
    parser.add_argument("--config", help="a file such as those in configs/")
    parser.add_argument("--against", default="", choices=("", "torch"))
    parser.add_argument(
        "--ways",
        default=",".join(step.WAYS),
        help="how to run it: eager or compile, then its attention",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--out", help="folder for the same as JSON and Markdown")
    try:
        flags, rest = parser.parse_known_args(arguments)
        changes = changes_of(parser, rest)
        if not flags.config:
            parser.error("--config is needed")
        row = step.measure(
            flags.config,
            changes,
            against=flags.against,
            ways=flags.ways.split(","),
            rounds=flags.rounds,
            seconds=flags.seconds,
        )
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return BAD_CONFIG
    except step.FailedError as error:
        print(error, file=sys.stderr)
        return INTERNAL
    text = pages.of_step(row)
    print(text)
    if flags.out:
        out = pathlib.Path(flags.out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "step.json").write_text(json.dumps(row, indent=1) + "\n")
        (out / "step.md").write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
