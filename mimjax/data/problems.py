"""What is wrong with a `data` group, found without TensorFlow and without a scan."""

import importlib.util
import os
from pathlib import Path

from mimjax.data import CONSTANTS, Data, digits, listing, masks, prepared
from mimjax.data.prepared import OWN_IMAGES

EMBEDDED = {"tensorflow": "tensorflow", "sklearn": "scikit-learn", "PIL": "pillow"}
NEEDED = {
    **dict.fromkeys(digits.CLASSES, EMBEDDED),
    "folder": {"tensorflow": "tensorflow", "PIL": "pillow"},
    "masks": {"tensorflow": "tensorflow", "PIL": "pillow"},
    "tfds": {
        "tensorflow": "tensorflow",
        "tensorflow_datasets": "tensorflow-datasets",
        "PIL": "pillow",
    },
}


def find(data: Data, image_size: tuple[int, int], channels: int) -> list[str]:
    """One line for each problem, naming its field."""
    try:
        source = _source(data)
    except (OSError, ValueError) as error:
        source = [f"config.data.source: {data.source} cannot be read: {error}"]
    return [
        *source,
        *_ranges(data),
        *_colours(data, channels),
        *_sizes(image_size),
    ]


def _source(data: Data) -> list[str]:
    field = "config.data.source"
    kind, colon, name = data.source.partition(":")
    named = kind in ("folder", "masks", "tfds")
    if kind not in (*NEEDED, "synthetic") or bool(colon) != named:
        return [
            f"{field}: {data.source!r} is none of digits, letters, folder:PATH, "
            f"masks:PATH, tfds:NAME[:SPLIT], synthetic; {OWN_IMAGES}"
        ]
    wheels = [
        wheel
        for module, wheel in NEEDED.get(kind, {}).items()
        if importlib.util.find_spec(module) is None
    ]
    missing = []
    if wheels:
        missing.append(
            f"{field}: {kind} needs {', '.join(wheels)}: pip install -e '.[data]' in "
            "the checkout of mimjax"
        )
    if kind in ("folder", "masks"):
        return missing + [f"{field}: {problem}" for problem in _folder(kind, name)]
    if kind == "tfds":
        try:
            prepared.find(data.source, data.tfds_dir)
        except LookupError as error:
            return [*missing, f"{field}: {error.args[0]}"]
    return missing


def _folder(kind: str, name: str) -> list[str]:
    top = Path(os.path.expanduser(name))
    if "://" in name:
        return [prepared.MOUNTED.format(name)]
    if not name:
        return [f"the folder is not named; {OWN_IMAGES}"]
    if not top.exists():
        return [f"there is no folder {top}; {OWN_IMAGES}"]
    if not top.is_dir():
        return [f"{top} is not a folder; {OWN_IMAGES}"]
    if kind == "masks":
        found = masks.pairs(top)
        if not found:
            return [
                f"there are no folders {top}/images and {top}/masks (or in place of "
                "either images/train and masks/train, train/images and train/masks)"
            ]
        root = found[0][0]
    else:
        root = listing.part_folders(top)[0]
    if next(listing.walk(root), None) is None:
        return [f"there are no images in {root}; {OWN_IMAGES}"]
    return []


def _ranges(data: Data) -> list[str]:
    low, high = data.crop_scale
    narrow, wide = data.crop_ratio
    strengths = data.jitter
    rules = {
        "num_images": (data.num_images >= 1, "at least 1"),
        "crop_scale": (
            0 < low <= high <= 1,
            "two fractions of the area, 0 < min <= max <= 1",
        ),
        "crop_ratio": (0 < narrow <= wide, "two ratios, 0 < min <= max"),
        "interpolation": (
            data.interpolation in ("bicubic", "bilinear"),
            "bicubic or bilinear",
        ),
        "jitter": (
            all(0 <= s <= 1 for s in strengths) and strengths[3] <= 0.5,
            "strengths from 0 to 1 (brightness, contrast, saturation) and to 0.5 (hue)",
        ),
        "jitter_rate": (0 <= data.jitter_rate <= 1, "a probability from 0 to 1"),
        "randaugment": (
            0 <= data.randaugment <= 10 and not (data.randaugment and any(strengths)),
            "from 0 (none) to 10, and 0 with config.data.jitter, whose place it takes",
        ),
        "randaugment_std": (data.randaugment_std >= 0, "at least 0"),
        "holdout_fraction": (
            0 <= data.holdout_fraction < 1,
            "a fraction from 0 to below 1",
        ),
        "min_side": (data.min_side >= 1, "at least 1"),
        "max_pixels": (data.max_pixels >= 1, "at least 1"),
        "bad_fraction": (0 <= data.bad_fraction <= 1, "a fraction from 0 to 1"),
        "bad_minimum": (data.bad_minimum >= 0, "at least 0"),
        "shuffle_buffer": (data.shuffle_buffer >= 1, "at least 1"),
        "prefetch": (data.prefetch >= 1, "at least 1"),
        "workers": (data.workers >= 0, "at least 0 (0: TensorFlow decides)"),
    }
    return [
        f"config.data.{name}: {getattr(data, name)!r} must be {right}"
        for name, (ok, right) in rules.items()
        if not ok
    ]


def _colours(data: Data, channels: int) -> list[str]:
    found = []
    if data.normalise not in CONSTANTS:
        known = " or ".join(CONSTANTS)
        found.append(f"config.data.normalise: {data.normalise!r} must be {known}")
    for name in ("mean", "std"):
        values = getattr(data, name)
        if values and len(values) != channels:
            found.append(
                f"config.data.{name}: {values!r} must have one value for each of the "
                f"{channels} channels, or none"
            )
    if any(value <= 0 for value in data.std):
        found.append(f"config.data.std: {data.std!r} must be above 0")
    if channels not in (1, 3) and data.source != "synthetic":
        found.append(
            f"config.encoder.channels: {channels} must be 3 (colour) or 1 (grey) with "
            f"config.data.source {data.source!r}"
        )
    return found


def _sizes(image_size: tuple[int, int]) -> list[str]:
    if min(image_size) >= 1:
        return []
    return [f"config.encoder.image_size: {image_size!r} must be at least 1 by 1"]
