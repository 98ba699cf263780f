"""The sources by name, and what is asked of them outside the training stream."""

import hashlib
import math
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from mimjax import cores
from mimjax.data import Data, digits, folder, masks, prepared, synthetic
from mimjax.data.faults import BadDataError, Ledger, Unusable, told

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


def evaluation_images(
    data: Data,
    image_size: tuple[int, int],
    channels: int,
    split: Literal["probe_train", "test"],
    limit: int,
    size: int,
    should_stop: Callable[[], bool],
    workdir: Path | None,
    mask_values: int,
) -> Generator[tuple[np.ndarray, ...]]:
    """See mimjax.data.held_out."""
    part: Part = "train" if split == "probe_train" else "test"
    sizes = image_size, channels, mask_values
    if data.source == "synthetic" or data.source in digits.CLASSES:
        endless = part == "test" and data.source != "synthetic"
        count = limit if endless else min(limit, data.num_images)
        for start in range(0, max(count, 1), size):
            numbers = np.arange(start, min(start + size, count))
            yield _drawn(data, part, numbers, *sizes)
        return
    ledger = Ledger(workdir, math.inf, 0)  # training alone ends by some
    faults: dict[str, str] = {}
    done, found = 0, records(data, part)
    for block, numbers, last in _numbered(found, limit, size):
        arrays, wrong = _read(data, block, numbers, *sizes, should_stop)
        for path, reason in wrong.items():
            ledger.note(path, reason, 0)
        faults |= wrong
        done += len(numbers)
        if last and 0 < len(faults) == done:
            which = f"none of {done} images of {data.source} to evaluate can be read"
            raise BadDataError(f"{which}: {told(*next(iter(faults.items())))}")
        yield arrays


def _numbered(
    found: Records | Streamed, limit: int, size: int
) -> Iterator[tuple[Records, list[int], bool]]:
    """Images to read, so many at a time, and whether they are the last."""
    if isinstance(found, Streamed):
        heads = found.head(limit, size)
        block = next(heads)
        while block is not None:
            after = next(heads, None)
            yield block, list(range(block.length)), after is None
            block = after
        return
    chosen = folder.spread(found.length, limit).tolist()
    for start in range(0, max(len(chosen), 1), size):
        yield found, chosen[start : start + size], start + size >= len(chosen)


def _drawn(
    data: Data,
    part: Part,
    numbers: np.ndarray,
    image_size: tuple[int, int],
    channels: int,
    mask_values: int,
) -> tuple[np.ndarray, ...]:
    """Images of a source that makes them, their labels and perhaps masks."""
    if data.source == "synthetic":
        seed = PROBE_SEED + (part == "test")
        drawn = synthetic.draw(numbers, image_size, channels, seed)
        if not mask_values:
            return drawn
        masks = synthetic.draw_masks(numbers, image_size, mask_values, seed)
        return *drawn, masks
    images, *rest = digits.draw_with_masks(numbers, part, image_size, data.source)
    return to_channels(images, channels), *rest[: 1 + bool(mask_values)]


def _read(
    data: Data,
    found: Records,
    numbers: list[int],
    image_size: tuple[int, int],
    channels: int,
    mask_values: int,
    should_stop: Callable[[], bool],
) -> tuple[tuple[np.ndarray, ...], dict[str, str]]:
    """Images of files, their labels and perhaps masks; why some could not be read."""
    faults: dict[int, str] = {}
    images = np.empty((len(numbers), *image_size, channels), np.uint8)
    arrays = [images, np.empty(len(numbers), np.int32)]
    if mask_values:
        arrays.append(np.empty(images.shape[:3], np.uint8))

    def read(row: int) -> bool:
        """Whether an image could be read; it goes to its row."""
        if should_stop():
            return False
        try:
            sizes = image_size, channels, mask_values
            values = _evaluation_image(data, found, numbers[row], *sizes)
        except Unusable as error:
            faults[row] = error.reason
            return False
        for array, value in zip(arrays, values, strict=True):
            array[row] = value
        return True

    workers = data.workers or len(cores.usable())
    with ThreadPoolExecutor(workers) as pool:
        good = np.flatnonzero([*pool.map(read, range(len(numbers)))])
    # Row by row where some are missing: a second copy may not fit.
    for row, kept in enumerate(good):
        for array in arrays if row != kept else ():
            array[row] = array[kept]
    wrong = {found.path(numbers[row]): faults[row] for row in sorted(faults)}
    return tuple(array[: len(good)] for array in arrays), wrong


def to_channels(
    images: UInt8[np.ndarray, "n H W 3"], channels: int
) -> UInt8[np.ndarray, "n H W C"]:
    """RGB as it is, or grey with the weights of ITU-R BT.601."""
    if channels == 3:
        return images
    weights = np.asarray([0.299, 0.587, 0.114], np.float32)
    return np.rint(images @ weights).astype(np.uint8)[..., None]


def mask_of(found: Records, index: int) -> bytes:
    """The file of a mask, of a source that has them; raises Unusable."""
    assert isinstance(found, masks.Masked), "checked with the config"
    return found.mask(index)


def _evaluation_image(
    data: Data,
    found: Records,
    index: int,
    image_size: tuple[int, int],
    channels: int,
    mask_values: int,
) -> tuple[Any, ...]:
    """Image, label and perhaps mask; raises Unusable.

    The shorter side is brought to 256/224 of the size, then the centre taken.
    """
    from mimjax.data import decode, scaled, upright

    content, label = found.read(index)
    picture = decode.open_picture(content, data.min_side, data.max_pixels)
    image = decode.crop(picture, decode.whole(picture), channels)
    shown = scaled.centre(image, image_size, data), label
    if not mask_values:
        return shown
    whole = image.shape[:2]
    content = mask_of(found, index)
    mask = upright.read_mask(content, whole, mask_values, data.max_pixels)
    return *shown, scaled.centre_of_mask(mask, image_size, data)
