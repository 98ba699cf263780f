"""How an encoder does inside: rank of its features, its tokens, and how far it looks.

These need no labels. A rank that falls says that features collapse to a few
directions, a norm that runs away that a few tokens drown the others.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mimjax.evaluate import inside

EPS = 1e-7  # added to every share, arXiv 2210.02885


def rankme(features: Float[np.ndarray, "n D"]) -> float:
    """RankMe: how many directions features take, from 1 to the lesser of n and D.

    exp of the entropy of the singular values as shares of their sum (Garrido et al.,
    arXiv 2210.02885). Only ranks of as many images are comparable. NaN where features
    are not finite.
    """
    if not np.isfinite(features).all():
        return math.nan
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    share = values / max(values.sum(), np.finfo(np.float64).tiny) + EPS
    return float(np.exp(-np.sum(share * np.log(share))))


def distances(grid: tuple[int, int], cell: tuple[int, int]) -> Float[np.ndarray, "N N"]:
    """Pixels between the centres of all cells of a grid, row by row."""
    places = np.indices(grid).reshape(2, -1).T * np.asarray(cell)
    apart = places[:, None] - places[None]
    return np.linalg.norm(apart, axis=-1).astype(np.float32)


def attention_distance(
    attention: Float[Array, "n A t t"], prefix: int, apart: Float[np.ndarray, "N N"]
) -> Float[Array, " n"]:
    """How many pixels a patch looks away, the mean over patches and heads.

    The distances from a query to the keys, weighted by attention (arXiv 2010.11929,
    appendix D.7, which leaves open what of the class token). The `prefix`, class token
    and registers, has no place: without it the weights are scaled to a sum of one.
    """
    weights = attention[:, :, prefix:, prefix:].astype(jnp.float32)
    exact = jax.lax.Precision.HIGHEST
    far = jnp.einsum("naqk,qk->naq", weights, apart, precision=exact)
    far /= jnp.maximum(weights.sum(axis=-1), jnp.finfo(jnp.float32).tiny)
    return far.mean(axis=(1, 2))


def measure(
    encoder: Any, variables: Any, image: Float[Array, "B H W C"]
) -> Float[Array, "B 2 L"]:
    """Of each image and layer the mean length of its patch tokens, and the distance.

    The images are normalised. Attention in all layers is held at once, in ViT-L of 224
    pixels 60 MB an image. Swin attends in windows, and distances are those within.
    """
    found, stages = [], inside.look(encoder, variables["params"], image)
    for tokens, attention in inside.layers_of(stages):
        tokens = encoder.patch_tokens(tokens).astype(jnp.float32)
        length = jnp.linalg.norm(tokens, axis=-1).mean(axis=-1)
        grid = encoder.grid_of(tokens.shape[1])
        height, width = encoder.image_size
        cell = height // grid[0], width // grid[1]
        inner = attention.shape[-1] - encoder.num_prefix
        if inner < tokens.shape[1]:
            grid = (math.isqrt(inner), math.isqrt(inner))  # a window
        far = attention_distance(attention, encoder.num_prefix, distances(grid, cell))
        # The windows of an image follow one another.
        far = far.reshape(len(image), -1).mean(axis=1)
        found.append(jnp.stack([length, far], axis=1))
    return jnp.stack(found, axis=-1)


def named(measured: Float[np.ndarray, "n 2 L"]) -> dict[str, float]:
    """Means over images, as "health/norm_01" and "health/attention_distance_01"."""
    names = ("norm", "attention_distance")
    return {
        f"health/{name}_{layer:02d}": float(value)
        for name, row in zip(names, measured.mean(axis=0), strict=True)
        for layer, value in enumerate(row, 1)
    }
