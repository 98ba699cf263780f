"""python -m mimjax.export --workdir=DIR --layout=NAME --out=DIR [--verify]

Writes what a run has trained as files that load elsewhere in one line. Exit status: 0
done, 70 --verify found another result, 74 storage, 78 what cannot be written so.
"""

import argparse
import os
import sys

from mimjax.main import Parser, out_folder
from mimjax.run import endings
from mimjax.schema import ConfigError

TOLD = 500  # characters of what a library says


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    # Numbers are moved about, and checked on a few images: no accelerator is needed.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    parser = Parser(
        prog="python -m mimjax.export",
        description="Writes a trained model for other programs.",
        allow_abbrev=False,
    )
    told, path = "of a run, or a file of another project", os.path.expanduser
    parser.add_argument("--workdir", required=True, type=path, help=told)
    parser.add_argument(
        "--layout",
        required=True,
        help="timm, transformers, official, stablehlo, or one of the names of "
        "mimjax/convert/layouts",
    )
    told = "the folder to make"
    parser.add_argument("--out", required=True, type=path, help=told)
    parser.add_argument(
        "--verify",
        action="store_true",
        help="run both models on the same images and print how far they are apart",
    )
    try:
        return export(parser.parse_args(given))
    except Exception as error:
        return endings.tell(error)


def export(flags: argparse.Namespace) -> int:
    """Loads, writes, and compares where that is asked for."""
    from mimjax import models
    from mimjax.convert.files import BadFileError
    from mimjax.export import folder, verify

    out = out_folder(flags.out)
    try:
        model = models.load(flags.workdir)
        layout = folder.chosen(model, flags.layout)
        if flags.verify:
            verify.check(layout)
        left_out = folder.write(model, layout, out, flags.workdir)
    except (BadFileError, folder.NoLayoutError, ValueError) as error:
        raise ConfigError([str(error)]) from None
    print(f"{layout}: {out}, to be loaded as its README.md says")
    if left_out:
        print(f"left out, for it has no place there: {', '.join(left_out)}")
    if not flags.verify:
        return 0
    try:
        found = verify.compare(model, folder.present(model, layout), layout, out)
    except ConfigError:
        raise
    except Exception as error:
        # Whatever the libraries say of a folder that they do not load.
        told = " ".join(f"{type(error).__name__}: {error}".split())[:TOLD]
        print(f"--verify: {out} does not load: {told}", file=sys.stderr)
        return endings.INTERNAL
    for line in verify.lines(found):
        print(line)
    folder.add_to_card(out, verify.lines(found))
    return 0 if all(one.agrees for one in found) else endings.INTERNAL


if __name__ == "__main__":
    sys.exit(main())
