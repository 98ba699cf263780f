"""Random images for tests and timings: made once, numpy only, no TensorFlow."""

from collections.abc import Generator

import numpy as np
from jaxtyping import Int, UInt8

NUM_CLASSES = 1000


def draw(
    keys: Int[np.ndarray, " n"], image_size: tuple[int, int], channels: int, seed: int
) -> tuple[UInt8[np.ndarray, "n H W C"], Int[np.ndarray, " n"]]:
    """Uniform noise and random labels; every image depends on seed and key alone."""
    images = np.empty((len(keys), *image_size, channels), np.uint8)
    labels = np.empty(len(keys), np.int32)
    for row, key in enumerate(keys):
        random = np.random.Generator(numbers_of(seed, int(key)))
        labels[row] = random.integers(NUM_CLASSES)
        images[row] = random.integers(0, 256, images[row].shape, np.uint8)
    return images, labels


def numbers_of(seed: int, key: int) -> np.random.Philox:
    """The stream of one image."""
    # Of a list numpy would make floats where the seed is 2^63 or more.
    return np.random.Philox(key=np.asarray([seed, key], np.uint64))


def draw_masks(
    keys: Int[np.ndarray, " n"], image_size: tuple[int, int], values: int, seed: int
) -> UInt8[np.ndarray, "n H W"]:
    """Random classes; every mask depends on seed and key alone."""
    masks = np.empty((len(keys), *image_size), np.uint8)
    for row, key in enumerate(keys):
        # Far behind the numbers that the image of the key is made of.
        random = np.random.Generator(numbers_of(seed, int(key)).jumped())
        masks[row] = random.integers(0, values, image_size, np.uint8)
    return masks


def batches(
    num_images: int,
    image_size: tuple[int, int],
    view_size: tuple[int, int],
    channels: int,
    seed: int,
    rows: Int[np.ndarray, " R"],
    count: int,
    mask_values: int = 0,
) -> Generator[dict[str, np.ndarray]]:
    """The same batch, the very same object, `count` times over.

    Row r of the global batch holds image r modulo `num_images`. A loop that sees it
    again may keep the copy on the device.
    """
    images, labels = draw(rows % num_images, image_size, channels, seed)
    batch = {"image": images, "label": labels}
    if all(view_size):
        batch["view"], _ = draw(rows % num_images, view_size, channels, seed)
    if mask_values:
        keys = rows % num_images
        batch["mask"] = draw_masks(keys, image_size, mask_values, seed)
    for _ in range(count):
        yield batch
