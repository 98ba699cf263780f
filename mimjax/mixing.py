"""Images blended in pairs, and what is to be predicted of them; rectangles of noise.

As in timm 0.3.2, which MAE, BEiT, SimMIM and Swin are fine-tuned with
(`data/random_erasing.py`, then `data/mixup.py` in its mode "batch"); all of a batch at
once, on normalised images. `share` is how much an image keeps of itself.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

# Of the image's area, and rows to columns and the inverse of that (arXiv 1708.04896).
ERASED_AREA = (0.02, 1 / 3)
ERASED_RATIO = 0.3
# A rectangle that does not fit is drawn again, so often.
ATTEMPTS = 10


def blended(
    x: Float[Array, "B *s C"], kept: Float[Array, "..."]
) -> Float[Array, "B *s C"]:
    """Each with its partner, which is the batch from last to first."""
    return kept * x + (1 - kept) * x[::-1]


def draw(
    key: Key[Array, ""], size: tuple[int, int], mixup: float, cutmix: float
) -> tuple[Float[Array, "H W 1"], Float[Array, ""]]:
    """How much each pixel of an image keeps of itself, and their mean, the share.

    One draw for the whole batch: by mixup (arXiv 1710.09412) every pixel keeps the same
    share, from Beta(mixup, mixup); by CutMix (arXiv 1905.04899) those of a rectangle
    nothing and others all, Beta(cutmix, cutmix) of them before the rectangle is cut at
    the border. Where both are above 0 it is either of them, with an even chance.
    """
    which, keep, place = (jax.random.fold_in(key, i) for i in range(3))
    # 0 for one of them leaves the other.
    chance = 0.5 if mixup and cutmix else float(cutmix > 0)
    cuts = jax.random.bernoulli(which, chance)
    alpha = jnp.where(cuts, cutmix, mixup)
    share = jax.random.beta(keep, alpha, alpha)
    hidden = rectangle(size, share, jax.random.uniform(place, (2,)))[..., None]
    kept = jnp.where(cuts, 1.0 - hidden, share)
    return kept, jnp.where(cuts, kept.mean(), share)


def rectangle(
    size: tuple[int, int], share: Float[Array, ""], centre: Float[Array, "2"]
) -> Bool[Array, "H W"]:
    """Of the shape of the image and 1 - share of its area, cut at the border.

    `centre` is from 0 to 1. Sides are even, as in timm 0.3.2: an odd one loses a pixel.
    """
    inside = []
    for side, at in zip(size, centre, strict=True):
        half = jnp.floor(side * jnp.sqrt(1 - share)) // 2
        middle, place = jnp.floor(at * side), jnp.arange(side)
        inside.append((place >= middle - half) & (place < middle + half))
    return inside[0][:, None] & inside[1]


def erased(
    key: Key[Array, ""], image: Float[Array, "B H W C"], rate: float
) -> Float[Array, "B H W C"]:
    """A rectangle of Gaussian noise in `rate` of the images (mode "pixel").

    The area is uniform in ERASED_AREA, the shape log-uniform; an image in which none of
    ten draws fits stays as it is.
    """
    batch, height, width, _ = image.shape
    draws, noise = (jax.random.fold_in(key, i) for i in range(2))
    u = jax.random.uniform(draws, (batch, 4 * ATTEMPTS + 1))
    hidden = (u[:, -1] < rate)[:, None, None] & rectangles(u[:, :-1], (height, width))
    return jnp.where(hidden[..., None], jax.random.normal(noise, image.shape), image)


def rectangles(u: Float[Array, "B U"], size: tuple[int, int]) -> Bool[Array, "B H W"]:
    """The first of ten rectangles that fits, drawn by four numbers each."""
    area, shape, top, left = jnp.moveaxis(u.reshape(len(u), ATTEMPTS, 4), -1, 0)
    low, high = ERASED_AREA
    area = size[0] * size[1] * (low + (high - low) * area)
    ratio = jnp.exp((1 - 2 * shape) * math.log(ERASED_RATIO))
    sides = jnp.round(jnp.sqrt(area * ratio)), jnp.round(jnp.sqrt(area / ratio))
    fits = (sides[0] < size[0]) & (sides[1] < size[1])
    first = fits.argmax(axis=1)[:, None]
    hidden = fits.any(axis=1)[:, None, None]
    for axis, (side, at) in enumerate(zip(sides, (top, left), strict=True)):
        side, at = (jnp.take_along_axis(x, first, axis=1) for x in (side, at))
        start = jnp.floor(at * (size[axis] - side + 1))
        place = jnp.arange(size[axis])
        inside = (place >= start) & (place < start + side)
        hidden &= jnp.expand_dims(inside, 2 - axis)
    return hidden
