"""The sources by name, and what is asked of them outside the training stream."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from mimjax.data import Data, Part, digits, folder, listing, masks, prepared, synthetic

DIGITS_VERSION = 1
# Luma weights of ITU-R BT.601, as in Pillow's conversion to grey.
GREY = (0.299, 0.587, 0.114)


@runtime_checkable
class Records(Protocol):
    """Images that lie encoded in files and are read by number."""

    @property
    def length(self) -> int: ...

    def path(self, index: int) -> str: ...

    def read(self, index: int) -> tuple[bytes, int]: ...


@runtime_checkable
class Streamed(Protocol):
    """Images that lie encoded in files which are read from first to last."""

    @property
    def length(self) -> int: ...

    def path(self, index: int) -> str: ...

    def head(self, limit: int, size: int) -> Iterator[Records]: ...

    def parse(self, record: bytes) -> tuple[bytes, int]: ...

    def stream(self, start: int, seed: int) -> Any: ...


def records(data: Data, part: Part) -> Records | Streamed:
    """Open a `folder:`, `masks:` or `tfds:` source."""
    kind, _, name = data.source.partition(":")
    if kind == "masks":
        return masks.scan(name, part, data.holdout_fraction)
    if kind == "folder":
        return folder.scan(name, part, data.holdout_fraction)
    from mimjax.data import named

    return named.open_records(data, part)


def folders(data: Data) -> list[Path]:
    """The folders whose files, at any depth, are its images."""
    kind, _, name = data.source.partition(":")
    top = Path(os.path.expanduser(name))
    if kind == "masks":
        return [images for images, _ in masks.pairs(top)]
    if kind == "folder":
        return [part for part in listing.part_folders(top) if part]
    return []


def class_names(data: Data) -> list[str]:
    """Names of the classes, [] for unlabelled sources."""
    kind, _, name = data.source.partition(":")
    if kind in digits.CLASSES:
        return list(digits.CLASSES[kind])
    if kind == "synthetic":
        return [str(number) for number in range(synthetic.NUM_CLASSES)]
    if kind == "folder":
        return folder.scan(name, "train", data.holdout_fraction).class_names
    if kind == "masks":
        return []
    return prepared.find(data.source, data.tfds_dir).class_names


def held_out(data: Data) -> str:
    """How many images are held out, in words; of what is drawn as many as one likes."""
    if data.source.partition(":")[0] in (*digits.CLASSES, "synthetic"):
        return ""
    return f", {records(data, 'test').length:,} held out"


def left_aside(data: Data) -> str:
    """What of a source is not used, and why, in words."""
    kind, _, name = data.source.partition(":")
    if kind != "folder":
        return ""
    return folder.scan(name, "train", data.holdout_fraction).aside


def fingerprint(data: Data) -> dict[str, Any]:
    """Source, number of training images, and a hash of what they are."""
    kind, _, name = data.source.partition(":")
    if kind in (*digits.CLASSES, "synthetic"):
        length, text = data.num_images, f"{kind} {DIGITS_VERSION}"
        if kind in digits.CLASSES:
            scene = digits.load("train", kind)
            text += hashlib.sha256(scene.glyphs.tobytes()).hexdigest()
            text += hashlib.sha256(scene.photos[0].tobytes()).hexdigest()
        content = hashlib.sha256(text.encode()).hexdigest()
    elif kind == "folder":
        found = folder.scan(name, "train", data.holdout_fraction)
        length, content = found.length, folder.content_hash(found)
    elif kind == "masks":
        pairs = masks.scan(name, "train", data.holdout_fraction)
        length, content = pairs.length, masks.content_hash(pairs)
    else:
        from mimjax.data import named

        length, content = named.identity(data)
    return {"source": data.source, "length": length, "content": content}


def to_channels(
    images: UInt8[np.ndarray, "n H W 3"], channels: int
) -> UInt8[np.ndarray, "n H W C"]:
    """RGB as it is, or grey with the weights of ITU-R BT.601."""
    if channels == 3:
        return images
    weights = np.asarray(GREY, np.float32)
    return np.rint(images @ weights).astype(np.uint8)[..., None]


def mask_of(found: Records, index: int) -> bytes:
    """The file of a mask, of a source that has them; raises Unusable."""
    assert isinstance(found, masks.Masked), "checked with the config"
    return found.mask(index)
