"""What cannot work in a config, in any group and across them, one line each."""

import dataclasses
import os
import pathlib

from mimjax import data as data_module
from mimjax import evaluate as evaluate_module
from mimjax import meshes, objectives, optim, settings
from mimjax.backbones import sizes
from mimjax.data import sources
from mimjax.settings import Config, profile_problems


def problems(
    config: Config, devices: int | None, with_data: bool, workdir: str
) -> list[str]:
    """Of the whole config, by full path."""
    encoder, data, run = config.encoder, config.data, config.run
    if not with_data:
        # Everything but the source and other runs, which need not be there.
        data = dataclasses.replace(data, source="synthetic")
    if not with_data or (workdir and settings.has_checkpoint(workdir)):
        run = dataclasses.replace(run, init_from="")
    found = [
        *("config." + line for line in settings.problems(run)),
        *("config.objective." + line for line in config.objective.problems()),
        *("config.optim." + line for line in optim.problems(config.optim)),
        *data_module.check(data, encoder.image_size, encoder.channels),
        *evaluate_module.check(config.evaluate),
        *(probed_problems(config) if with_data and config.evaluate.source else ()),
        *profile_problems(config.profile, run.steps),
        *(sharing_problems(config, devices) if devices else ()),
        *data_problems(config),
        *joint_problems(config),
    ]
    return found or (inside_problems(config, workdir) if with_data and workdir else [])


def inside_problems(config: Config, workdir: str) -> list[str]:
    """Whether what the run writes would be among its own images."""
    place = pathlib.Path(os.path.realpath(workdir))  # in spite of links in a circle
    for data in (config.data, config.probed):
        for folder in sources.folders(data):
            if place.is_relative_to(folder.resolve()):
                told = f"--workdir: {workdir} is in {folder}, all of whose files are"
                return [f"{told} images of {data.source}; choose another"]
    return []


def probed_problems(config: Config) -> list[str]:
    """What is wrong with the images that the encoder is probed with, as such."""
    encoder, source = config.encoder, config.evaluate.source
    lines = data_module.check(config.probed, encoder.image_size, encoder.channels)
    own = [line for line in lines if line.startswith("config.data.source: ")]
    try:
        if not own and not data_module.labelled(config.probed):
            told = f"config.data.source: {source} has no labels"
            own = [f"{told} (one sub-folder a class)"]
    except data_module.BadDataError as error:
        own = [str(error)]
    here = "config.data.source", "config.evaluate.source"
    return [line.replace(*here) for line in own]


def sharing_problems(config: Config, devices: int) -> list[str]:
    """What does not divide among the devices."""
    mesh = config.mesh
    found = ["config.mesh." + line for line in meshes.problems(mesh, devices)]
    if found:
        return found
    shared = devices // mesh.tensor
    rows = shared * max(1, config.optim.accumulate)
    batches = {
        "batch_size": (config.run.batch_size, rows, " x config.optim.accumulate"),
    }
    if config.run.eval_every:
        batches["evaluate.batch_size"] = config.evaluate.batch_size, shared, ""
    for name, (size, parts, also) in batches.items():
        if size % parts:
            found.append(
                f"config.{name}: {size} must be a multiple of {parts} (devices that "
                f"share the batch{also}), for example {-(-size // parts) * parts}"
            )
    return found


def data_problems(config: Config) -> list[str]:
    """What the objective and the encoder ask of the images, and do not get."""
    data, found = config.data, []
    if getattr(config.encoder, "takes_pixels", False) and (
        data.normalise != "pixels" or data.mean or data.std
    ):
        found.append(
            "config.data.normalise: this encoder takes pixels from 0 to 1 (use "
            "'pixels' and leave data.mean and data.std empty)"
        )
    kind, _, _ = data.source.partition(":")
    if config.mask_values and kind not in data_module.WITH_MASKS:
        found.append(
            f"config.data.source: {data.source!r} has no masks, which "
            f"config.objective.name {config.values['objective']['name']!r} needs (use "
            "masks:PATH)"
        )
    if data.randaugment and (any(config.view_size) or config.mask_values):
        found.append(
            f"config.data.randaugment: {data.randaugment} must be 0 with this "
            "objective, whose second view or mask would not be changed alike"
        )
    return found


def joint_problems(config: Config) -> list[str]:
    """What two groups do not agree on; the warm-up only where units are the same."""
    run, given = config.run, config.optim
    found = feature_problems(config)
    if given.layer_decay != 1 and not config.encoder.layer_widths:
        found.append(
            f"config.optim.layer_decay: {given.layer_decay} needs an encoder of layers "
            "(must be 1 with this config.encoder.name)"
        )
    if given.rates and not (
        hasattr(config.objective, "logits") and "encoder" in given.frozen
    ):
        names = [n for n in objectives.names() if hasattr(objectives.load(n), "logits")]
        found.append(
            f"config.optim.rates: {given.rates} are tried by classifiers of one frozen "
            f"encoder: config.objective.name {' or '.join(names)}, and "
            "config.optim.frozen=('encoder',)"
        )
    parts = max(1, given.accumulate)
    if getattr(config.objective, "in_pairs", False) and run.batch_size % (2 * parts):
        found.append(
            f"config.batch_size: {run.batch_size} must be a multiple of {2 * parts} "
            "for config.objective.mixup or cutmix, which blend pairs of images (of "
            "each part where config.optim.accumulate is above 1)"
        )
    norm = getattr(config.objective, "batch_norm", False)
    if norm and 0 < run.batch_size < 2 * parts:
        found.append(
            f"config.batch_size: {run.batch_size} must be at least {2 * parts} for "
            "config.objective.batch_norm, which needs two images (of each part where "
            "config.optim.accumulate is above 1)"
        )
    unit = "steps" if given.warmup_steps else "epochs"
    warmup, length = getattr(given, f"warmup_{unit}"), getattr(run, unit)
    if 0 < length <= warmup:
        found.append(
            f"config.optim.warmup_{unit}: a warm-up of {warmup} must be shorter than "
            f"the run of {length} (config.{unit})"
        )
    return found


def feature_problems(config: Config) -> list[str]:
    """What features are asked for that the encoder does not have."""
    encoder, pool, found = config.encoder, config.evaluate.pool, []
    if pool == "cls" and not encoder.cls:
        found.append(
            "config.evaluate.pool: 'cls' needs config.encoder.cls=True (or use 'mean')"
        )
    if pool == "edges" and not (
        encoder.num_tokens > 1 and hasattr(encoder, "num_codes")
    ):
        found.append(
            "config.evaluate.pool: 'edges' needs config.encoder.name='dvae' and more "
            "than one token an image (or use 'mean')"
        )
    lines = sizes.layer_problems(encoder.layer_widths, config.evaluate.layers)
    return found + ["config.evaluate." + line for line in lines]
