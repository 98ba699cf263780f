"""Bytes of any image file -> a crop of it as uint8, or the reason why not.

What a file is, its bytes say, not its name. Plain JPEG is decoded by TensorFlow, only
the part that is needed; everything else by Pillow. The size is checked on the header,
before a pixel is decoded. The Exif orientation is applied to every kind (baselines on
ImageNet usually leave it), the first frame stands for an animation, alpha is laid over
white, and 16-bit values are divided by 257.
"""

import io
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from mimjax.data.augment import Box
from mimjax.data.faults import Unusable
from mimjax.data.jpeg import Header, read_header
from mimjax.data.quiet import tf

MAX_BYTES = 100_000_000
COLOUR_REACH = 2  # pixels beside a crop that its colours depend on
EXIF_ORIENTATION = 0x0112
GREY_16 = ("I;16", "I;16B", "I;16L", "I;16N")
# Our own limit is smaller and is checked on the header; Pillow's would only warn.
Image.MAX_IMAGE_PIXELS = None
Image.init()
WELCOME = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
FORMATS = [name for name in WELCOME if name in Image.OPEN]


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
    if not content:
        raise Unusable("empty")
    if len(content) > MAX_BYTES:
        raise Unusable("too large")
    header = read_header(content)
    if header:
        _fit(header.height, header.width, min_side, max_pixels)
        turned = header.orientation >= 5
        height, width = (header[1], header[0]) if turned else header[:2]
        return Picture(height, width, content, header, None)
    image = _open_pillow(content)
    _fit(image.height, image.width, min_side, max_pixels)
    upright = _decoded(image, content)
    return Picture(upright.height, upright.width, content, None, upright)


def _fit(height: int, width: int, min_side: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise Unusable("too large")
    if min(height, width) < min_side:
        raise Unusable("too small")


def crop(picture: Picture, box: Box, channels: int) -> UInt8[np.ndarray, "h w C"]:
    """A box of the upright image as grey (1) or RGB (3); may raise Unusable."""
    if picture.pixels is None:
        return _crop_jpeg(picture, box, channels)
    right, bottom = box.left + box.width, box.top + box.height
    part = picture.pixels.crop((box.left, box.top, right, bottom))
    image = np.asarray(part.convert("L" if channels == 1 else "RGB"))
    return image[..., None] if channels == 1 else image


def whole(picture: Picture) -> Box:
    """The box that is all of the image."""
    return Box(0, 0, picture.height, picture.width)


def _open_pillow(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise Unusable(_unknown_kind(content)) from error
    except Exception as error:
        raise Unusable(_damage(content, error)) from error


def _decoded(image: Image.Image, content: bytes) -> Image.Image:
    """All of an image, upright, as `L` or `RGB`."""
    try:
        image.load()
        return to_eight_bits(_upright(image), image.format or "")
    except Unusable:
        raise
    # Decoders of damaged files fail in many ways: OSError, SyntaxError, struct.error,
    # EOFError, IndexError...
    except Exception as error:
        raise Unusable(_damage(content, error)) from error


def _damage(content: bytes, error: Exception) -> str:
    """Whether the end of a file is missing or something else is wrong with it."""
    jpeg, ended = content[:2] == b"\xff\xd8", b"\xff\xd9" in content[-1000:]
    cut = "truncated" in str(error).lower() or (jpeg and not ended)
    return "truncated" if cut else "damaged"


def _unknown_kind(content: bytes) -> str:
    """Why Pillow names no format: an image kind left out here, a stump, or no image."""
    if content[4:8] == b"ftyp" or content[:4] in (b"8BPS", b"\0\0\1\0", b"qoif"):
        return "unsupported"
    known = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")
    return "truncated" if content.startswith(known) else "not an image"


def _upright(image: Image.Image) -> Image.Image:
    # Asked of an image that is loaded: of a PNG, asking decodes it, however large.
    try:
        turned = image.getexif().get(EXIF_ORIENTATION, 1) != 1
    except Exception:
        return image  # a damaged Exif block says nothing
    return ImageOps.exif_transpose(image) if turned else image


def to_eight_bits(image: Image.Image, kind: str) -> Image.Image:
    """Any mode of Pillow as an opaque `L` or `RGB`, alpha laid over white.

    `kind` is the file format.
    """
    if image.mode in GREY_16 or (image.mode == "I" and kind in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise Unusable("unsupported")  # no range of values is agreed on
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, colours).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


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
