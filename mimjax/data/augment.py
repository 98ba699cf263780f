"""Random-resized crop, mirroring and colour jitter, all from numbers given to them.

Meaning and constants are torchvision's (RandomResizedCrop, ColorJitter), which the
papers used. The random numbers are one float32 vector an image (order.uniforms); every
operation reads its own places of it.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from mimjax.data import randaugment
from mimjax.data.quiet import tf
from mimjax.data.sources import GREY

ATTEMPTS = 10
_FLIP = 4 * ATTEMPTS
_APPLY = _FLIP + 1
FACTORS = slice(_APPLY + 1, _APPLY + 5)
_ORDER = slice(_APPLY + 5, _APPLY + 9)
RANDAUGMENT = slice(_APPLY + 9, _APPLY + 9 + randaugment.NUM_UNIFORMS)
# What is added at the end leaves what was drawn before as it was.
NUM_UNIFORMS = RANDAUGMENT.stop


class Box(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def random_box(
    u: Float[np.ndarray, " U"],
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Box:
    """Ten tries of a uniform area and a log-uniform width/height, else a central crop.

    The central crop is as large as the limits of the ratio allow.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for attempt in range(ATTEMPTS):
        area, shape, down, right = (float(x) for x in u[4 * attempt : 4 * attempt + 4])
        area = height * width * (scale[0] + (scale[1] - scale[0]) * area)
        shape = math.exp(low + (high - low) * shape)
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(down * (height - h + 1)), int(right * (width - w + 1))
            return Box(top, left, h, w)
    w, h = width, height
    if width / height < ratio[0]:
        h = max(1, round(w / ratio[0]))
    elif width / height > ratio[1]:
        w = max(1, round(h * ratio[1]))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def cut(image: UInt8[np.ndarray, "H W *C"], box: Box) -> UInt8[np.ndarray, "h w *C"]:
    """The pixels of a box, of an image or a mask."""
    return image[box.top : box.top + box.height, box.left : box.left + box.width]


def flip(
    image: UInt8[np.ndarray, "H W *C"], u: Float[np.ndarray, " U"]
) -> UInt8[np.ndarray, "H W *C"]:
    """Mirror left and right for half of all `u`."""
    return image[:, ::-1] if u[_FLIP] < 0.5 else image


def jitter(image: Any, u: Any, strengths: tuple[float, ...], rate: float) -> Any:
    """Brightness, contrast, saturation and hue in a random order; uint8 -> uint8.

    Factors are uniform in [max(0, 1 - s), 1 + s], the turn of the hue in [-s, s] turns.
    Values are rounded once, after the last change (Pillow rounds after each). The image
    is the crop, alike in a second view of it; BEiT and BEiT v2 officially jitter before
    they crop, so that contrast is about the mean of the whole image.
    """
    changes = [_brightness, _contrast, _saturation, _hue]
    factors = [2 * u[FACTORS][i] - 1 for i in range(4)]
    order = tf.argsort(u[_ORDER])

    def change(i: int, x: Any) -> Any:
        if not strengths[i]:
            return x
        turn = factors[i] * strengths[i]
        return tf.clip_by_value(changes[i](x, turn), 0.0, 1.0)

    def change_next(place: Any, x: Any) -> Any:
        branches = [lambda i=i: change(i, x) for i in range(4)]
        return place + 1, tf.switch_case(order[place], branches)

    def jittered() -> Any:
        start = tf.constant(0), tf.cast(image, tf.float32) / 255
        _, x = tf.while_loop(lambda place, _: place < 4, change_next, start)
        return tf.cast(tf.round(x * 255), tf.uint8)

    return tf.cond(u[_APPLY] < rate, jittered, lambda: image)


def _grey(x: Any) -> Any:
    return x if x.shape[-1] == 1 else tf.tensordot(x, tf.constant(GREY), 1)[..., None]


def _brightness(x: Any, turn: Any) -> Any:
    return x * tf.maximum(1 + turn, 0.0)


def _contrast(x: Any, turn: Any) -> Any:
    mean = tf.reduce_mean(_grey(x))
    return mean + (x - mean) * tf.maximum(1 + turn, 0.0)


def _saturation(x: Any, turn: Any) -> Any:
    grey = _grey(x)
    return grey + (x - grey) * tf.maximum(1 + turn, 0.0)


def _hue(x: Any, turn: Any) -> Any:
    return x if x.shape[-1] == 1 else tf.image.adjust_hue(x, turn)
