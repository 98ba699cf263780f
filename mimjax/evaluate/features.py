"""Features of many images by a jitted forward pass over batches of one size."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mimjax.evaluate import Interrupted, never


def fitting(size: int, count: int, shares: int) -> int:
    """`size`, halved as long as the half still holds `count` images in equal shares."""
    while size >= 2 * max(count, 1) and size % (2 * shares) == 0:
        size //= 2
    return size


def extract(
    apply_fn: Callable[[Any], jax.Array],
    images: np.ndarray,
    batch_size: int,
    put: Callable[[np.ndarray], Any],
    should_stop: Callable[[], bool] = never,
) -> np.ndarray:
    """Features of all images, in their order.

    Every process passes the same images and gets all features: `apply_fn` has to return
    a fully replicated array. The last batch is filled up with zeros, whose features are
    dropped.

    Args:
        apply_fn: jitted, [batch_size, H, W, C] uint8 on device -> [batch_size, ...].
        images: [n, H, W, C] uint8.
        batch_size: images per call, over all devices.
        put: places a batch of the host on the devices of `apply_fn`, e.g.
            `functools.partial(jax.device_put, device=sharding)`.
        should_stop: asked before every batch, equally often on every process.

    Returns:
        [n, ...] float32.

    Raises:
        Interrupted: `should_stop` said so.
        ValueError: no images.
    """
    if len(images) == 0:
        raise ValueError("no images to take features of")
    parts = []
    for start in range(0, len(images), batch_size):
        if should_stop():
            raise Interrupted
        rows = images[start : start + batch_size]
        batch = np.zeros((batch_size, *images.shape[1:]), images.dtype)
        batch[: len(rows)] = rows
        features = jax.device_get(apply_fn(put(batch)))
        parts.append(features[: len(rows)].astype(np.float32))
    return np.concatenate(parts)
