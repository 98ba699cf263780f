"""The sources by name, and what is asked of them outside the training stream."""

import hashlib
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8

from mimjax.data import Data, digits, folder, prepared, synthetic
from mimjax.data.faults import Ledger, Unusable

Part = Literal["train", "test"]
DIGITS_VERSION = 1
PROBE_SEED = 1


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

    def head(self, limit: int) -> Records: ...

    def parse(self, record: bytes) -> tuple[bytes, int]: ...

    def stream(self, start: int, seed: int) -> Any: ...


def records(data: Data, part: Part) -> Records | Streamed:
    """Open a `folder:` or `tfds:` source."""
    kind, _, name = data.source.partition(":")
    if kind == "folder":
        return folder.scan(name, part, data.holdout_fraction)
    from mimjax.data import named

    return named.open_records(data, part)


def class_names(data: Data) -> list[str]:
    """Names of the classes, [] for unlabelled sources."""
    kind, _, name = data.source.partition(":")
    if kind in digits.CLASSES:
        return list(digits.CLASSES[kind])
    if kind == "synthetic":
        return [str(number) for number in range(synthetic.NUM_CLASSES)]
    if kind == "folder":
        return folder.scan(name, "train", data.holdout_fraction).class_names
    return prepared.find(data.source, data.tfds_dir).class_names


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
    else:
        from mimjax.data import named

        length, content = named.identity(data)
    return {"source": data.source, "length": length, "content": content}


def evaluation_images(
    data: Data,
    image_size: tuple[int, int],
    channels: int,
    split: Literal["probe_train", "test"],
    limit: int,
    should_stop: Callable[[], bool],
    workdir: Path | None,
) -> tuple[UInt8[np.ndarray, "n H W C"], Int[np.ndarray, " n"]]:
    """See mimjax.data.held_out."""
    part: Part = "train" if split == "probe_train" else "test"
    if data.source == "synthetic":
        seed = PROBE_SEED + (part == "test")
        keys = np.arange(min(limit, data.num_images))
        return synthetic.draw(keys, image_size, channels, seed)
    if data.source in digits.CLASSES:
        count = min(limit, data.num_images) if part == "train" else limit
        images, labels = digits.draw(np.arange(count), part, image_size, data.source)
        return to_channels(images, channels), labels
    found = records(data, part)
    if isinstance(found, Streamed):
        found = found.head(limit)

    faults: dict[int, str] = {}

    def read(index: int) -> tuple[np.ndarray, int] | None:
        if should_stop():
            return None
        try:
            return _evaluation_image(data, found, index, image_size, channels)
        except Unusable as error:
            faults[index] = error.reason
            return None

    workers = data.workers or os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        pairs = pool.map(read, folder.spread(found.length, limit).tolist())
        good = [pair for pair in pairs if pair is not None]
    ledger = Ledger(workdir, math.inf, 0)  # training alone ends by them
    for index in sorted(faults):
        ledger.note(found.path(index), faults[index], 0)
    images = np.empty((len(good), *image_size, channels), np.uint8)
    labels = np.empty(len(good), np.int32)
    for row, (image, label) in enumerate(good):
        images[row], labels[row] = image, label
    return images, labels


def to_channels(
    images: UInt8[np.ndarray, "n H W 3"], channels: int
) -> UInt8[np.ndarray, "n H W C"]:
    """RGB as it is, or grey with the weights of ITU-R BT.601."""
    if channels == 3:
        return images
    weights = np.asarray([0.299, 0.587, 0.114], np.float32)
    return np.rint(images @ weights).astype(np.uint8)[..., None]


def _evaluation_image(
    data: Data, found: Records, index: int, image_size: tuple[int, int], channels: int
) -> tuple[UInt8[np.ndarray, "H W C"], int]:
    """The shorter side at 256/224 of the size, then the centre; raises Unusable."""
    from mimjax.data import decode, scaled

    content, label = found.read(index)
    picture = decode.open_picture(content, data.min_side, data.max_pixels)
    image = decode.crop(picture, decode.whole(picture), channels)
    return scaled.centre(image, image_size, data), label
