"""python -m mimjax.convert FILE [FILE ...] --out=DIR [--config.a.b=value]

Makes a workdir of a file of another project: for config.init_from, or as the teacher of
another run. Exit status: 0 done, 74 storage, 78 a file that cannot be used.
"""

import argparse
import itertools
import os
import pathlib
import sys
from typing import Any

from mimjax.main import Parser, changes_of, out_folder
from mimjax.run import endings
from mimjax.schema import ConfigError

ENOUGH = 8  # names of a list that are shown


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    # Numbers are moved about, and shapes worked out: no accelerator is needed.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    parser = Parser(
        prog="python -m mimjax.convert",
        description="Makes a workdir of weights of another project.",
        epilog="What the weights do not tell is said by --config.GROUP.FIELD=VALUE, "
        "such as --config.encoder.heads=4 or --config.objective.norm_pixels=False.",
        allow_abbrev=False,
    )
    told, path = "a .pth, .safetensors or .npz file, or a folder", os.path.expanduser
    parser.add_argument("files", nargs="+", type=path, help=told)
    told = "the workdir to make"
    parser.add_argument("--out", required=True, type=path, help=told)
    parser.add_argument("--layout", default="", help="default: seen from the names")
    try:
        flags, rest = parser.parse_known_args(given)
        return convert(flags, tuple(changes_of(parser, rest)))
    except Exception as error:
        return endings.tell(error)


def convert(flags: argparse.Namespace, changes: tuple[tuple[str, str], ...]) -> int:
    """Reads, reports and writes."""
    from mimjax.checkpoint import StorageError
    from mimjax.convert import files, layouts, own, weights, workdirs
    from mimjax.convert.files import BadFileError
    from mimjax.convert.pickles import short

    out = out_folder(flags.out)
    if flags.layout and flags.layout not in layouts.names():
        known = ", ".join(layouts.names())
        raise ConfigError([f"--layout: {flags.layout!r} is none of {known}"])
    try:
        found = weights.convert(
            [*map(pathlib.Path, flags.files)], flags.layout, changes
        )
        workdirs.save(found, out)
    except BadFileError as error:
        raise ConfigError([str(error)]) from None
    except (OSError, StorageError) as error:
        print(f"cannot write {out}: {error}", file=sys.stderr)
        return endings.STORAGE
    print(f"{found.layout}: {len(found.matched)} parameters, in {out}")
    for what in ("resized", "missing", "unexpected"):
        names = getattr(found, what)
        if names:
            # Names of theirs are whatever the file says.
            first = map(short, names) if what == "unexpected" else names
            shown = ", ".join(itertools.islice(first, ENOUGH))
            shown += ", ..." * (len(names) > ENOUGH)
            print(f"{what}: {len(names)} ({shown})")
    if "encoder/pos_embed" in found.resized:
        # As many may be of a square, which is taken, or of other sides.
        rows, columns = found.source.grid
        print(f"taken: positions in the file are of {rows} x {columns} patches")
    given = {name for name, _ in changes}
    taken = [x for x in assumed(found) if x.partition("=")[0] not in given]
    if taken and own.NAME not in files.told(pathlib.Path(flags.files[0])):
        print(f"taken, else say --config.FIELD=VALUE: {', '.join(taken)}")
    print(f"to start from it: --config.init_from={out}")
    return 0


def assumed(found: Any) -> list[str]:
    """What most files do not tell, and numbers depend on."""
    given = found.config
    encoder, data = given.values["encoder"], given.data
    taken = [f"encoder.heads={encoder['heads']}"] if encoder.get("heads") else []
    if found.layout.startswith("aim"):  # has no table of positions
        taken += ["encoder.image_size={},{}".format(*encoder["image_size"])]
    named = f"data.normalise={data.normalise}"
    taken += [f"data.mean={data.mean}" if data.mean else named]
    return [*taken, f"evaluate.pool={given.evaluate.pool}"]


if __name__ == "__main__":
    sys.exit(main())
