"""python -m mimjax.show --workdir=DIR [--images PATH ...] [--out=DIR]

Draws what the encoder of a run sees, and what the run predicts: attention, components,
nearest neighbours, the loss of each patch, predictions from more and less of an image.
Exit status: 0 done, 70 internal error, 74 storage, 78 what cannot be drawn.
"""

import argparse
import os
import pathlib
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from mimjax.main import Parser, out_folder
from mimjax.run import endings
from mimjax.schema import ConfigError

SHOWN = "shown"

if TYPE_CHECKING:
    from mimjax.models import Model
    from mimjax.settings import Config


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = Parser(
        prog="python -m mimjax.show",
        description="Draws what the encoder of a run sees.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--workdir",
        type=os.path.expanduser,
        required=True,
        help="of a run, or made by python -m mimjax.convert",
    )
    parser.add_argument(
        "--images",
        nargs="+",
        action="extend",
        type=os.path.expanduser,
        default=[],
        metavar="PATH",
        help="files and folders; default: the run's held-out images",
    )
    parser.add_argument(
        "--out",
        type=os.path.expanduser,
        default="",
        help="where pictures/ and report.html go; default: the workdir, or of a run "
        f"with --images {SHOWN}/ there",
    )
    try:
        return show(parser.parse_args(given))
    except Exception as error:
        return endings.tell(error)


def show(flags: argparse.Namespace) -> int:
    """Reads images, loads the model and draws."""
    # What is wrong with the images is told before anything slow is imported.
    files = files_of(flags.images)
    from mimjax import report, settings
    from mimjax.run import compiled, setup

    workdir, out = pathlib.Path(flags.workdir), pathlib.Path(flags.out or flags.workdir)
    trained = settings.has_checkpoint(flags.workdir)
    if flags.images and not flags.out and trained:
        out = workdir / SHOWN  # the run's own pictures stay
    if not settings.holds_model(flags.workdir):
        raise ConfigError([f"--workdir: {workdir} holds no checkpoint of a run"])
    out_folder(out, new=False)
    setup.settle()
    compiled.keep()
    model, batch = loaded(workdir, files)
    when = f"step {model.step}" if trained else "converted"
    folder = draw(model, batch, out, when)
    report.report(workdir, out, whose(files))
    names = ", ".join(sorted(path.name for path in folder.iterdir()))
    print(f"{len(batch['label'])} images, {when}: {names}, in {folder}")
    print(f"all on one page: {out / report.REPORT}")
    return 0


def files_of(paths: list[str]) -> list[pathlib.Path]:
    """Files, and those in folders; raises ConfigError where all of these are empty."""
    from mimjax.data import listing

    found = []
    try:
        for path in map(pathlib.Path, paths):
            inside = listing.walk(path) if path.is_dir() else [""]
            found += [path / name for name in inside]
    except OSError as error:
        raise ConfigError([f"--images: {error}"]) from None
    if paths and not found:
        raise ConfigError([f"--images: there is no image in {', '.join(paths)}"])
    return found


def whose(files: list[pathlib.Path]) -> str:
    """The images of some files in words, by their folders."""
    if not files:
        return "held-out images"
    folders = sorted({str(file.parent.resolve()) for file in files})
    more = f" and {len(folders) - 3} folders more" if len(folders) > 3 else ""
    return f"the images in {', '.join(folders[:3])}{more}"


def loaded(
    workdir: pathlib.Path, files: list[pathlib.Path]
) -> tuple["Model", dict[str, np.ndarray]]:
    """The model, and the images to draw; raises ConfigError."""
    from mimjax import config, models
    from mimjax.data.faults import BadDataError

    try:
        # Images first: a large model takes long to load.
        batch = images_of(config.of_workdir(str(workdir)), workdir, files)
        return models.of_workdir(workdir), batch
    except (ValueError, BadDataError) as error:
        raise ConfigError([str(error)]) from None


def images_of(
    config: "Config", workdir: pathlib.Path, files: list[pathlib.Path]
) -> dict[str, np.ndarray]:
    """The images to draw, as a batch of the data pipeline."""
    from mimjax import data, settings
    from mimjax.data import scaled

    encoder = config.encoder
    if files:
        if encoder.channels not in (1, 3):
            told = f"config.encoder.channels is {encoder.channels}"
            raise ConfigError([f"--images: pictures have 1 or 3 channels, {told}"])
        found = np.stack([*read(config, files)])
        batch = {"image": found, "label": np.full(len(found), -1, np.int32)}
    else:
        if not settings.has_checkpoint(str(workdir)):
            raise ConfigError(["--images: there is no run with images; name some"])
        size = encoder.image_size
        problems = data.check(config.data, size, encoder.channels)
        if problems:
            raise ConfigError([*problems, "--images: or name other images"])
        found, labels = next(
            data.held_out(
                config.data,
                image_size=size,
                channels=encoder.channels,
                split="test",
                limit=config.evaluate.test_images,
            )
        )
        if not len(found):
            raise ConfigError(
                [f"--images: {config.data.source} has no held-out image; name some"]
            )
        batch = {"image": found, "label": labels.astype(np.int32)}
    if any(config.view_size):
        batch["view"] = scaled.second_views(batch["image"], config.view_size)
    return batch


def read(config: "Config", files: list[pathlib.Path]) -> list[np.ndarray]:
    """Images of files; a line for each that cannot be used."""
    from mimjax.data import folder, given

    found, encoder = [], config.encoder
    for number in folder.spread(len(files), config.evaluate.test_images):
        how = config.data, encoder.image_size, encoder.channels
        try:
            found.append(given.prepared(files[number], *how))
        except ValueError as error:
            print(f"{files[number]}: {error}", file=sys.stderr)
    if not found:
        raise ConfigError(["--images: there is no image that can be used"])
    return found


def draw(
    model: "Model", batch: dict[str, np.ndarray], out: pathlib.Path, when: str
) -> pathlib.Path:
    """Draws all there can be; the folder of the pictures, whose titles say `when`."""
    from mimjax import evaluate, sharding, train
    from mimjax.run.drawing import Drawing

    mesh = sharding.alone()
    plan = train.Plan(model.step, 0, *model.constants)
    how = model.config, plan, mesh, out, evaluate.never
    drawing = Drawing(*how, lambda: batch)
    drawing.show(model.variables["params"], others(model, mesh), model.step, when)
    return drawing.folder_of(model.step)


def others(model: "Model", mesh: Any) -> dict[str, Any] | None:
    """What the objective needs beside its parameters; None where some is not there."""
    from mimjax import settings, train, warmstart

    gone = [
        name
        for name, place in model.config.builds_on.items()
        if not settings.holds_model(place)
    ]
    if model.headless or gone:
        what = model.headless[0] if model.headless else f"the {gone[0]}"
        print(f"{what} is missing: pictures of the encoder alone", file=sys.stderr)
        return None
    kept = {name: x for name, x in model.variables.items() if name != "params"}
    if not model.config.builds_on:
        return kept
    state = train.abstract_state(model.config, mesh)
    state, _ = warmstart.with_frozen(state, model.config.builds_on)
    return {**state.frozen, **kept}


if __name__ == "__main__":
    sys.exit(main())
