"""Images for training and evaluation: the config group `data` and all the loop calls.

A source is named by one string: `digits` or `letters` (embedded, see digits.py),
`folder:PATH`, `masks:PATH` (see masks.py), `tfds:NAME[:SPLIT]` or `synthetic`. Images
leave this package as uint8; the device normalises them with `normalise_constants`.
TensorFlow is imported on the first use of a source that needs it, never by importing
this package.
"""

import dataclasses
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from mimjax.data.faults import BadDataError, error_counts

__all__ = [
    "WITH_MASKS",
    "BadDataError",
    "Data",
    "check",
    "class_names",
    "error_counts",
    "fingerprint",
    "held_out",
    "labelled",
    "mask_names",
    "normalise_constants",
    "train_batches",
]

# Mean and standard deviation of red, green and blue, in units where white is 1: those
# of ImageNet (MAE, SimMIM, DINO, AIM) and of Inception (BEiT on ImageNet-22k, vit_jax),
# and none for what takes pixels as they are (the tokenizer of DALL-E).
CONSTANTS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "pixels": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}

# The kinds of sources that have masks.
WITH_MASKS = ("digits", "letters", "masks", "synthetic")

Part = Literal["train", "test"]
Split = Literal["probe_train", "test"]


@dataclasses.dataclass(frozen=True)
class Data:
    """The images and their augmentation; defaults of MAE (arXiv 2111.06377, A.1).

    Attributes:
      source: `digits`, `letters`, `folder:PATH`, `masks:PATH`, `tfds:NAME[:SPLIT]` or
        `synthetic`.
      num_images: how many distinct training images the embedded sources and
        `synthetic` make.
      crop_scale: least and greatest area of the random crop, as fractions.
      crop_ratio: least and greatest width/height of the crop, relative to the shape
        of the image that is trained on. With scales (1, 1) and ratios (1, 1) an image
        that already has the size asked for is passed on untouched.
      interpolation: `bicubic` or `bilinear`; held-out images are bicubic either way,
        except where antialias is off.
      antialias: shrink as Pillow does, with a filter as wide as the reduction; without,
        pixels are only interpolated between, which is faster and leaves aliases.
      flip: mirror half of the images.
      jitter: strengths of brightness, contrast, saturation and hue, meant as by
        torchvision's ColorJitter.
      jitter_rate: probability that an image is jittered at all.
      randaugment: magnitude of RandAugment, from 0 (none) to 10, instead of the jitter;
        9 where MAE, BEiT and SimMIM are fine-tuned.
      randaugment_std: by how much the magnitude varies from change to change.
      normalise: `imagenet`, `inception` or `pixels` (left from 0 to 1); a grey image
        takes the average of the three.
      mean, std: constants used instead, one for each channel, white being 1.
      holdout_fraction: share of a source without a held-out part of its own that is
        kept from training: by a hash of the relative path, or the end of a split.
      min_side: an image with a shorter side counts as bad, in pixels.
      max_pixels: an image with more pixels counts as bad and is not decoded; so does,
        whatever its kind, a file of more than 100 MB.
      bad_fraction, bad_minimum: a run stops when the number of distinct bad images
        exceeds both this share of all images to train on and this number.
      tfds_dir: where prepared data sets lie; empty: $TFDS_DATA_DIR or
        ~/tensorflow_datasets.
      shuffle_buffer: undecoded records shuffled together, for TFRecord files only.
      prefetch: batches prepared ahead.
      workers: decoding threads; 0: TensorFlow decides.
    """

    source: str = "digits"
    num_images: int = 60_000
    crop_scale: tuple[float, float] = (0.2, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bicubic"
    antialias: bool = True
    flip: bool = True
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_rate: float = 1.0
    randaugment: float = 0.0
    randaugment_std: float = 0.5
    normalise: str = "imagenet"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    holdout_fraction: float = 0.1
    min_side: int = 8
    max_pixels: int = 64_000_000
    bad_fraction: float = 0.01
    bad_minimum: int = 10
    tfds_dir: str = ""
    shuffle_buffer: int = 10_000
    prefetch: int = 4
    workers: int = 0


def check(data: Data, image_size: tuple[int, int], channels: int) -> list[str]:
    """Everything wrong with the group, one line a problem; imports no TensorFlow."""
    from mimjax.data import problems

    return problems.find(data, image_size, channels)


def train_batches(
    data: Data,
    *,
    image_size: tuple[int, int],
    view_size: tuple[int, int] = (0, 0),
    mask_values: int = 0,
    channels: int,
    seed: int,
    batch_size: int,
    rows: Int[np.ndarray, " R"],
    start_step: int,
    stop_step: int,
    workdir: Path | None,
) -> Generator[dict[str, np.ndarray]]:
    """Augmented training batches of the steps `start_step` .. `stop_step` - 1.

    Args:
      view_size: of a second view of the same crop; (0, 0) for none.
      mask_values: how many classes a mask of it may name; 0 for no masks.
      rows: the rows of the global batch of `batch_size` that this host supplies.
      workdir: unreadable images are listed in its `data_errors.jsonl`.

    Yields:
      {"image": uint8 [R, H, W, C], "label": int32 [R]}, label -1 where there is none,
      and where asked for "view": uint8 [R, h, w, C], "mask": uint8 [R, H, W]. What a
      row holds depends on seed, step and row alone. Close the generator to stop the
      threads behind it.

    Raises:
      BadDataError: more images are unreadable than the limit allows.
    """
    if data.source == "synthetic":
        from mimjax.data import synthetic

        sizes = data.num_images, image_size, view_size, channels
        count = stop_step - start_step
        return synthetic.batches(*sizes, seed, rows, count, mask_values)
    from mimjax.data import pipeline, samples

    sizes = image_size, view_size, channels
    wanted = samples.Wanted(*sizes, seed, batch_size, rows, mask_values)
    return pipeline.batches(data, wanted, start_step, stop_step, workdir)


def held_out(
    data: Data,
    *,
    image_size: tuple[int, int],
    channels: int,
    split: Split,
    limit: int,
    size: int = 0,
    mask_values: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
    workdir: Path | None = None,
) -> Generator[tuple[np.ndarray, ...]]:
    """At most `limit` images without augmentation, `size` at a time, and their labels.

    Uint8 [n, H, W, C] and int32 [n] (-1: none); with `mask_values` also masks, uint8
    [n, H, W]. There is one block at least, and of size 0 one for all.

    `probe_train` comes from the images trained on, `test` from those kept from it. The
    shorter side is resized to 256/224 of the size asked for and the centre taken, as by
    MAE and its kin (vit_jax squeezes the whole image instead); digits are as drawn.
    Unreadable images are left out and listed in the `data_errors.jsonl` of `workdir`;
    left out are also those that are not read yet when `should_stop` says so. Raises
    BadDataError where not one can be read.
    """
    from mimjax.data import unchanged

    sizes = image_size, channels, split, limit, size or max(limit, 1)
    wanted = *sizes, should_stop, workdir, mask_values
    return unchanged.images(data, *wanted)


def labelled(data: Data) -> int:
    """The number of classes, 0 where images have no labels."""
    return len(class_names(data))


def class_names(data: Data) -> list[str]:
    """Names of the classes in the order of the labels, [] where there are none.

    Raises BadDataError where a part of the source cannot be listed.
    """
    from mimjax.data import sources

    try:
        return sources.class_names(data)
    except OSError as error:
        raise BadDataError(f"config.data.source: {error}") from error


def mask_names(data: Data) -> list[str]:
    """Names of the classes in masks; [] where they are not known beforehand."""
    drawn = data.source in ("digits", "letters")
    return [*class_names(data), "ground"] if drawn else []


def fingerprint(data: Data) -> dict[str, Any]:
    """What identifies the training images: source, length and a hash of the index.

    Raises BadDataError where a part of the source cannot be listed.
    """
    from mimjax.data import sources

    try:
        return sources.fingerprint(data)
    except OSError as error:
        raise BadDataError(f"config.data.source: {error}") from error


def normalise_constants(
    data: Data, channels: int
) -> tuple[Float[np.ndarray, " C"], Float[np.ndarray, " C"]]:
    """Mean and standard deviation of each channel, white being 1, float32.

    Where `data.mean` and `data.std` are empty, three channels take those named by
    `data.normalise` and any other number of channels their average.
    """
    named = CONSTANTS[data.normalise]
    found = []
    for given, listed in zip((data.mean, data.std), named, strict=True):
        values = given or (listed if channels == 3 else (np.mean(listed),) * channels)
        found.append(np.asarray(values, np.float32))
    return found[0], found[1]
