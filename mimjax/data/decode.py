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
    """An image whose header is read and found fit; nothing is decoded yet."""

    height: int  # of the upright image
    width: int
    content: bytes
    jpeg: Header | None
    pillow: Image.Image | None


def open_picture(content: bytes, min_side: int, max_pixels: int) -> Picture:
    """Read the header; raises Unusable with the reason to count the file by."""
    if not content:
        raise Unusable("empty")
    if len(content) > MAX_BYTES:
        raise Unusable("too large")
    header = read_header(content)
    if header:
        height, width, pillow = header.height, header.width, None
        turned = header.orientation >= 5
    else:
        pillow = _open_pillow(content)
        width, height = pillow.size
        turned = _pillow_orientation(pillow) >= 5
    if height * width > max_pixels:
        raise Unusable("too large")
    if min(height, width) < min_side:
        raise Unusable("too small")
    if turned:
        height, width = width, height
    return Picture(height, width, content, header, pillow)


def crop(picture: Picture, box: Box, channels: int) -> UInt8[np.ndarray, "h w C"]:
    """Decode a box of the upright image as grey (1) or RGB (3)."""
    try:
        if picture.jpeg:
            return _crop_jpeg(picture, picture.jpeg, box, channels)
        assert picture.pillow is not None
        whole = _upright(to_eight_bits(picture.pillow))
        right, bottom = box.left + box.width, box.top + box.height
        part = whole.crop((box.left, box.top, right, bottom))
        image = np.asarray(part.convert("L" if channels == 1 else "RGB"))
        return image[..., None] if channels == 1 else image
    except Unusable:
        raise
    except tf.errors.InvalidArgumentError as error:
        raise Unusable("damaged") from error
    # Decoders of damaged files fail in many ways: OSError, SyntaxError, struct.error,
    # EOFError, IndexError, MemoryError...
    except Exception as error:
        cut = "truncated" in str(error)
        raise Unusable("truncated" if cut else "damaged") from error


def whole(picture: Picture) -> Box:
    """The box that is all of the image."""
    return Box(0, 0, picture.height, picture.width)


def _open_pillow(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise Unusable(_unknown_kind(content)) from error
    except Exception as error:
        raise Unusable("damaged") from error


def _unknown_kind(content: bytes) -> str:
    """Why Pillow names no format: an image kind left out here, a stump, or no image."""
    if content[4:8] == b"ftyp" or content[:4] in (b"8BPS", b"\0\0\1\0", b"qoif"):
        return "unsupported"
    known = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")
    return "truncated" if content.startswith(known) else "not an image"


def _pillow_orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:
        return 1  # a damaged Exif block says nothing


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image) if _pillow_orientation(image) != 1 else image


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Any mode of Pillow as an opaque `L` or `RGB`, alpha over white, Exif kept."""
    image.load()
    exif = image.getexif()
    if image.mode in GREY_16 or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.uint32)
        result = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise Unusable("unsupported")  # no range of values is agreed on
    elif image.has_transparency_data:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        result = Image.alpha_composite(white, colours).convert("RGB")
    else:
        result = image.convert("L" if image.mode in ("1", "L") else "RGB")
    result.getexif().update(dict(exif))
    return result


def _crop_jpeg(
    picture: Picture, header: Header, box: Box, channels: int
) -> UInt8[np.ndarray, "h w C"]:
    top, left, height, width = _stored_box(
        box, picture.height, picture.width, header.orientation
    )
    # The decoder interpolates colour without its neighbour at either end of a line.
    spare = min(left, COLOUR_REACH)
    right = min(left + width + COLOUR_REACH, header.width)
    image: Any = tf.raw_ops.DecodeAndCropJpeg(
        contents=picture.content,
        crop_window=[top, left - spare, height, right - left + spare],
        channels=channels,
        dct_method="INTEGER_ACCURATE",
    )
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
