"""Images without augmentation: those that a run is judged by, and shown."""

import math
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from mimjax import cores
from mimjax.data import Data, Part, Split, digits, folder, sources, synthetic
from mimjax.data.faults import BadDataError, Ledger, Unusable, told

# Of synthetic images; the seed of no run is so large, whose images would be these.
PROBE_SEED = 2**63


def images(
    data: Data,
    image_size: tuple[int, int],
    channels: int,
    split: Split,
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
    # Training alone ends by some.
    ledger = Ledger(workdir, math.inf, 0, data.source, split)
    faults: dict[str, str] = {}
    done, found = 0, sources.records(data, part)
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
    found: sources.Records | sources.Streamed, limit: int, size: int
) -> Iterator[tuple[sources.Records, list[int], bool]]:
    """Images to read, so many at a time, and whether they are the last."""
    if isinstance(found, sources.Streamed):
        count = min(limit, found.length)
        starts = range(0, max(count, 1), size)
        for start, block in zip(starts, found.head(count, size), strict=True):
            yield block, list(range(block.length)), start + size >= count
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
    return sources.to_channels(images, channels), *rest[: 1 + bool(mask_values)]


def _read(
    data: Data,
    found: sources.Records,
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
            values = _image(data, found, numbers[row], *sizes)
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


def _image(
    data: Data,
    found: sources.Records,
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
    content = sources.mask_of(found, index)
    mask = upright.read_mask(content, whole, mask_values, data.max_pixels)
    return *shown, scaled.centre_of_mask(mask, image_size)
