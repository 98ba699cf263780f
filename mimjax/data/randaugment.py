"""RandAugment: two changes of an image, drawn from fifteen, by Pillow.

Cubuk et al., arXiv 1909.13719, as timm 0.3.2 understands "rand-m9-mstd0.5-inc1"
(`data/auto_augment.py`), by which MAE, BEiT, SimMIM and Swin are fine-tuned: changes
are drawn with replacement, each is made with a chance of one half, at a strength from
a normal, and all grow with it. What comes in from outside the image is the mean colour;
pixels are interpolated by the filter of the crop, as in timm where one is named.
"""

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageEnhance, ImageOps

from mimjax.data import Data, normalise_constants

# Of the scale of strengths (`_MAX_LEVEL`).
STRONGEST = 10.0
CHANGES = 2
# Which change, whether, how strong, in which direction.
NUM_UNIFORMS = 4 * CHANGES
# In place of a uniform of 0, for which a normal has no value.
LEAST = 2.0**-24


class Look(NamedTuple):
    """Of what is not the image's own: the colour outside and what is between pixels."""

    fill: int | tuple[int, ...]
    filter: Image.Resampling


# A change takes the strength from -1 to 1; its sign, where there is one, is random.
Change = Callable[[Image.Image, float, Look], Image.Image]


def _moved(image: Image.Image, matrix: tuple[float, ...], look: Look) -> Image.Image:
    """What stands at (x, y) comes from (a x + b y + c, d x + e y + f)."""
    kind = Image.Transform.AFFINE
    return image.transform(
        image.size, kind, matrix, resample=look.filter, fillcolor=look.fill
    )


def _rotate(image: Image.Image, strength: float, look: Look) -> Image.Image:
    """At most 30 degrees."""
    return image.rotate(30 * strength, resample=look.filter, fillcolor=look.fill)


def _shear_x(image: Image.Image, strength: float, look: Look) -> Image.Image:
    return _moved(image, (1, 0.3 * strength, 0, 0, 1, 0), look)


def _shear_y(image: Image.Image, strength: float, look: Look) -> Image.Image:
    return _moved(image, (1, 0, 0, 0.3 * strength, 1, 0), look)


def _translate_x(image: Image.Image, strength: float, look: Look) -> Image.Image:
    return _moved(image, (1, 0, 0.45 * strength * image.width, 0, 1, 0), look)


def _translate_y(image: Image.Image, strength: float, look: Look) -> Image.Image:
    return _moved(image, (1, 0, 0, 0, 1, 0.45 * strength * image.height), look)


def _recoloured(image: Image.Image, table: Int[np.ndarray, "256"]) -> Image.Image:
    return image.point(table.tolist() * len(image.getbands()))


def _posterize(image: Image.Image, strength: float, _: Look) -> Image.Image:
    """Four bits of each colour are left, and at the strongest none.

    Which is black; Pillow 13 itself wants one bit or more.
    """
    dropped = 4 + int(4 * abs(strength))
    return _recoloured(image, np.arange(256) >> dropped << dropped)


def _solarize(image: Image.Image, strength: float, _: Look) -> Image.Image:
    """What is not below the threshold is inverted."""
    return ImageOps.solarize(image, 256 - int(256 * abs(strength)))


def _solarize_add(image: Image.Image, strength: float, _: Look) -> Image.Image:
    """The darker half is made lighter."""
    value, add = np.arange(256), int(110 * abs(strength))
    return _recoloured(image, np.where(value < 128, value + add, value))


def _enhance(kind: Callable[[Image.Image], Any]) -> Change:
    """Less or more of it, by nine tenths at most."""
    return lambda image, strength, _: kind(image).enhance(1 + 0.9 * strength)


OPERATIONS: tuple[Change, ...] = (
    lambda image, *_: ImageOps.autocontrast(image),
    lambda image, *_: ImageOps.equalize(image),
    lambda image, *_: ImageOps.invert(image),
    _rotate,
    _posterize,
    _solarize,
    _solarize_add,
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Sharpness),
    _shear_x,
    _shear_y,
    _translate_x,
    _translate_y,
)


def draw(
    u: Float[np.ndarray, " 8"], magnitude: float, std: float
) -> list[tuple[Change, float]]:
    """The changes to be made, none, one or two, and their strengths with signs."""
    found = []
    for which, whether, how, sign in u.reshape(CHANGES, -1).tolist():
        level = magnitude
        if std:
            normal = statistics.NormalDist(magnitude, std)
            level = normal.inv_cdf(max(how, LEAST))
        strength = min(max(level, 0.0), STRONGEST) / STRONGEST
        if whether < 0.5:
            change = OPERATIONS[int(which * len(OPERATIONS))]
            found.append((change, -strength if sign < 0.5 else strength))
    return found


def apply(
    image: UInt8[np.ndarray, "H W C"],
    changes: list[tuple[Change, float]],
    mean: Float[np.ndarray, " C"],
    interpolation: str,
) -> UInt8[np.ndarray, "H W C"]:
    """Make the changes; `mean` is the colour outside, white being 1.

    A grey image has no saturation to change.
    """
    if not changes:
        return image
    grey = image.shape[2] == 1
    fill = tuple(min(255, round(255 * float(value))) for value in mean)
    look = Look(fill[0] if grey else fill, Image.Resampling[interpolation.upper()])
    picture = Image.fromarray(image[..., 0] if grey else image)
    for change, strength in changes:
        picture = change(picture, strength, look)
    changed = np.asarray(picture)
    return changed[..., None] if grey else changed


def changed(
    data: Data, image: UInt8[np.ndarray, "H W C"], u: Float[np.ndarray, " U"]
) -> UInt8[np.ndarray, "H W C"]:
    """An image with the changes of its uniforms, as the config group asks for them."""
    changes = draw(u, data.randaugment, data.randaugment_std)
    mean, _ = normalise_constants(data, image.shape[2])
    return apply(image, changes, mean, data.interpolation)
