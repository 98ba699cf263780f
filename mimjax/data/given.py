"""An image as its owner has it, taken as a run takes its held-out ones."""

import os
import pathlib
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mimjax.data import Data, scaled, upright
from mimjax.data.faults import Unusable


def prepared(
    image: Any, data: Data, size: tuple[int, int], channels: int
) -> UInt8[np.ndarray, "H W C"]:
    """The image at the size of the encoder.

    Args:
        image: an array [h, w] or [h, w, 1 to 4] of uint8 or uint16, a Pillow image, or
            the name of a file. An array that has the size already is taken as it is.

    Raises:
        ValueError: it cannot be used; the message says why.
    """
    try:
        if isinstance(image, str | os.PathLike):
            content = pathlib.Path(image).read_bytes()
            picture = upright.read(
                content, data.min_side, data.max_pixels, channels == 1
            )
        elif isinstance(image, Image.Image):
            if 0 in image.size:
                raise Unusable("empty")
            picture = upright.eight_bits_upright(image)
        else:
            array = np.asarray(image)
            if array.dtype == np.uint8 and array.shape == (*size, channels):
                return array
            picture = upright.to_eight_bits(of_array(array), "")
    except Unusable as error:
        raise ValueError(error.reason) from None
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    if channels not in (1, 3):
        told = f"pictures have 1 or 3 channels, config.encoder.channels is {channels}"
        raise ValueError(f"{told}; arrays of uint8 {[*size, channels]} can be used")
    return scaled.centre(upright.pixels(picture, channels), size, data)


def of_array(array: np.ndarray) -> Image.Image:
    """An array as an image of Pillow: grey or colours, with alpha or without."""
    if array.dtype == np.uint16:
        array = upright.bytes_of(array)
    if array.dtype != np.uint8:
        raise ValueError(f"values are {array.dtype}, must be uint8 or uint16")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    colours = array.ndim == 3 and array.shape[2] in (2, 3, 4)
    if not array.size or (array.ndim != 2 and not colours):
        raise ValueError(f"the shape {array.shape} is not [H, W] or [H, W, 1 to 4]")
    return Image.fromarray(array)
