"""Bytes of any image file -> a crop of it as uint8, or the reason why not.

Plain JPEG is decoded by TensorFlow, only the part that is needed; everything else by
Pillow, and all as `upright.py` says.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mimjax.data import upright
from mimjax.data.augment import Box
from mimjax.data.faults import Unusable
from mimjax.data.jpeg import Header, read_header
from mimjax.data.quiet import tf

COLOUR_REACH = 2  # pixels beside a crop that its colours depend on


class Picture(NamedTuple):
    """An image found fit: a plain JPEG of which the header is read, or its pixels."""

    height: int  # of the upright image
    width: int
    content: bytes
    jpeg: Header | None
    pixels: Image.Image | None


def open_picture(content: bytes, min_side: int, max_pixels: int) -> Picture:
    """Read the header, and the rest unless it is a plain JPEG.

    Raises Unusable with the reason to count the file by.
    """
    upright.check_length(content)
    header = read_header(content)
    if header:
        upright.check_size(header.height, header.width, min_side, max_pixels)
        turned = header.orientation >= 5
        height, width = (header[1], header[0]) if turned else header[:2]
        return Picture(height, width, content, header, None)
    image = upright.read(content, min_side, max_pixels)
    return Picture(image.height, image.width, content, None, image)


def crop(picture: Picture, box: Box, channels: int) -> UInt8[np.ndarray, "h w C"]:
    """A box of the upright image as grey (1) or RGB (3); may raise Unusable."""
    if picture.pixels is None:
        return _crop_jpeg(picture, box, channels)
    right, bottom = box.left + box.width, box.top + box.height
    part = picture.pixels.crop((box.left, box.top, right, bottom))
    return upright.pixels(part, channels)


def whole(picture: Picture) -> Box:
    """The box that is all of the image."""
    return Box(0, 0, picture.height, picture.width)


def _crop_jpeg(picture: Picture, box: Box, channels: int) -> UInt8[np.ndarray, "h w C"]:
    header = picture.jpeg
    assert header is not None
    top, left, height, width = _stored_box(
        box, picture.height, picture.width, header.orientation
    )
    # The decoder interpolates colour without its neighbour at either end of a line.
    spare = min(left, COLOUR_REACH)
    right = min(left + width + COLOUR_REACH, header.width)
    try:
        image: Any = tf.raw_ops.DecodeAndCropJpeg(
            contents=picture.content,
            crop_window=[top, left - spare, height, right - left + spare],
            channels=channels,
            dct_method="INTEGER_ACCURATE",
        )
    except tf.errors.InvalidArgumentError as error:
        raise Unusable("damaged") from error
    return _turn(image.numpy()[:, spare : spare + width], header.orientation)


def _turn(image: np.ndarray, orientation: int) -> np.ndarray:
    """Make a stored image upright: transpose, then mirror up/down and left/right."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _stored_box(box: Box, height: int, width: int, orientation: int) -> Box:
    """Where a box of the upright image lies in the stored one: `_turn` undone."""
    top, left, h, w = box
    if orientation in (2, 3, 6, 7):
        left = width - left - w
    if orientation in (3, 4, 7, 8):
        top = height - top - h
    return Box(left, top, w, h) if orientation >= 5 else Box(top, left, h, w)
