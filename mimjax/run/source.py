"""What the data of a run must offer, once its images are counted."""

import json
import pathlib
import zlib
from typing import Any

from mimjax import data, train
from mimjax.config import Config, ConfigError
from mimjax.data import sources
from mimjax.data.faults import BadDataError
from mimjax.hosts.agree import same
from mimjax.run import workdir

# Held-out images that may all be unreadable before a run is refused.
LOOKED_AT = 16


def accepted(config: Config, folder: pathlib.Path) -> dict[str, Any]:
    """What identifies the training images, where they will do for this run.

    Raises as the functions below do.
    """
    check_labels(config)
    found = fingerprint(config, folder)
    check_images(config, found["length"])
    return found


def fingerprint(config: Config, folder: pathlib.Path) -> dict[str, Any]:
    """What identifies the training images: for all processes, and ever, the same.

    Raises BadDataError where they see others or a part cannot be listed, ConfigError
    where the run in the workdir `folder` saw others before.
    """
    found = data.fingerprint(config.data)
    # Where they lie may differ from host to host.
    seen = json.dumps([found["length"], found["content"]])
    if not same(zlib.crc32(seen.encode())):
        told = f"the processes do not see the same images of {config.data.source}"
        raise BadDataError(f"config.data.source: {told}")
    workdir.check_data(folder, found)
    return found


def check_images(config: Config, length: int) -> None:
    """Refuses to train on nothing, or to judge and draw without held-out images."""
    run, source = config.run, config.data.source
    if length == 0:
        raise ConfigError([f"config.data.source: {source} has no image to train on"])
    judged = {}
    if run.eval_every or run.picture_every:
        judged["data"] = config.data, config.mask_values
    if run.eval_every and config.evaluate.source:
        judged["evaluate"] = config.probed, 0
    for group, (given, masks) in judged.items():
        blocks = data.held_out(
            given,
            image_size=config.encoder.image_size,
            channels=config.encoder.channels,
            split="test",
            limit=LOOKED_AT,
            mask_values=masks,
        )
        try:
            images, *_ = next(blocks)
        except BadDataError as error:
            told = str(error)
            told = told.replace("config.data.source", f"config.{group}.source")
            raise BadDataError(told) from error
        if len(images) == 0:
            raise ConfigError(
                [
                    f"config.{group}.source: {given.source} has no held-out image to "
                    "evaluate and draw; add images, or set config.data.holdout_fraction"
                    " above 0, or config.eval_every and config.picture_every to 0"
                ]
            )


def told(config: Config, plan: train.Plan, length: int) -> str:
    """What is trained on, in words."""
    classes, size = data.labelled(config.data), config.run.batch_size
    text = f"{config.data.source}: {length:,} training images"
    text += f" in {classes:,} classes" if classes else ""
    if config.run.eval_every or config.run.picture_every:
        text += sources.held_out(config.data)
    scores = getattr(config.objective, "num_classes", 0)
    if 0 < classes < scores:
        text += f" (config.objective.num_classes: {scores:,})"
    text += f", {plan.steps:,} steps of {size:,}"
    text += " (more than there are)" if size > length else ""
    aside = sources.left_aside(config.data)
    return f"{text}; {aside}" if aside else text


def unread(folder: pathlib.Path) -> str:
    """What images of the run in that workdir could not be read, in words, if any."""
    counts = data.error_counts(folder)
    reasons = ", ".join(f"{count} {why}" for why, count in counts.items())
    listed = folder / "data_errors.jsonl"
    said = f"images that could not be read: {sum(counts.values())} ({reasons}), all "
    return f"{said}listed in {listed}" if counts else ""


def check_labels(config: Config) -> None:
    """Refuses to classify images without labels, or with more classes than scores."""
    if config.mask_values:
        check_masks(config)
        return
    wanted = getattr(config.objective, "num_classes", 0)
    found = data.labelled(config.data)
    if wanted and not found:
        raise ConfigError(
            [
                f"config.data.source: {config.data.source} has no labels, which "
                f"objective {config.values['objective']['name']!r} needs (one "
                "sub-folder a class)"
            ]
        )
    if wanted and found > wanted:
        raise ConfigError(
            [
                f"config.objective.num_classes: {wanted}, but {config.data.source} has "
                f"{found} classes"
            ]
        )


def check_masks(config: Config) -> None:
    """Refuses masks with more classes than scores, where that is known before."""
    found = len(data.mask_names(config.data))
    if found > config.mask_values:
        raise ConfigError(
            [
                f"config.objective.num_classes: {config.objective.num_classes}, but "
                f"the masks of {config.data.source} have {found} classes"
            ]
        )
