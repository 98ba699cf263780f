"""What a batch is: as the data pipeline makes it, and as objectives take it."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from mimjax import patches
from mimjax.config import Config

Batch = dict[str, Array]


def shapes(config: Config, size: int) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shapes and types of the arrays of a batch as the data pipeline makes them."""
    channels = config.encoder.channels
    found = {
        "image": ((size, *config.encoder.image_size, channels), jnp.uint8),
        "label": ((size,), jnp.int32),
    }
    if any(config.view_size):
        found["view"] = ((size, *config.view_size, channels), jnp.uint8)
    if config.mask_values:
        found["mask"] = ((size, *config.encoder.image_size), jnp.uint8)
    return found


def prepare(batch: Batch, mean: Any, std: Any) -> Batch:
    """A batch of the pipeline as objectives take it.

    "image" is normalised; "pixels" is the same and "view" another size of it, where
    there is one, from 0 to 1.
    """
    views = {"view": patches.unit(batch["view"])} if "view" in batch else {}
    pixels = patches.unit(batch["image"])
    image = patches.normalise(batch["image"], mean, std)
    return {**batch, "image": image, "pixels": pixels, **views}
