"""Bytes of an image file -> its upright pixels in eight bits, by Pillow alone.

What a file is, its bytes say, not its name. The size is checked on the header, before a
pixel is decoded. The Exif orientation is applied to every kind (baselines on ImageNet
usually leave it), the first frame stands for an animation, alpha is laid over white,
and 16-bit grey is divided by 257; of 16-bit colours, and of grey with alpha, Pillow has
the high byte alone, and of one transparent colour among 16 bits nothing is left.
"""

import io
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from mimjax.data import folder
from mimjax.data.faults import UNKNOWN_CLASS, Unusable
from mimjax.objectives import IGNORED

EXIF_ORIENTATION = 0x0112
# Of TIFF: BitsPerSample, and PhotometricInterpretation, where 0 is white at zero.
BITS, PHOTOMETRIC = 258, 262
GREY_16 = ("I;16", "I;16B", "I;16L", "I;16N")
# What Pillow multiplies a grey PNG of so many bits by, but not the grey that is clear.
SCALES = {2: 85, 4: 17}
BITS_AT, KIND_AT = 24, 25  # of its header, which comes first
# Our own limit is checked on the header, and may be set above Pillow's, which has no
# value for one caller alone: this takes it from the whole process.
Image.MAX_IMAGE_PIXELS = None
Image.init()
WELCOME = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
FORMATS = [name for name in WELCOME if name in Image.OPEN]


def read(
    content: bytes, min_side: int, max_pixels: int, luma: bool = False
) -> Image.Image:
    """All of an image, upright, as `L` or `RGB`.

    `luma` takes that of a colour JPEG as it is stored. Raises Unusable with the reason
    to count the file by.
    """
    check_length(content)
    image = _opened(content)
    check_size(image.height, image.width, min_side, max_pixels)
    try:
        key = image.info.get("transparency")
        if image.format == "PNG" and image.mode == "L" and isinstance(key, int):
            image.info["transparency"] = key * SCALES.get(content[BITS_AT], 1)
        if luma and image.format in ("JPEG", "MPO"):
            image.draft("L", None)
        return eight_bits_upright(image)
    except Unusable:
        raise
    # Decoders of damaged files fail in many ways: OSError, SyntaxError, struct.error,
    # EOFError, IndexError...
    except Exception as error:
        raise Unusable(_damage(content, error)) from error


def check_length(content: bytes) -> None:
    """Raises Unusable for no bytes, or too many."""
    if not content:
        raise Unusable("empty")
    if len(content) > folder.MAX_BYTES:
        raise Unusable("too large")


def check_size(height: int, width: int, min_side: int, max_pixels: int) -> None:
    """Raises Unusable for a side or an area beyond the limits."""
    if height * width > max_pixels:
        raise Unusable("too large")
    if min(height, width) < min_side:
        raise Unusable("too small")


def eight_bits_upright(image: Image.Image) -> Image.Image:
    """An image of any mode, upright, as an opaque `L` or `RGB`."""
    if image.format == "TIFF" and image.mode in GREY_16:
        tags: Any = image
        found = tags.tag_v2.get(BITS), tags.tag_v2.get(PHOTOMETRIC)
        if found != ((16,), 1):  # Pillow scales no other number, and inverts nothing
            raise Unusable("unsupported")
    image.load()
    return to_eight_bits(turned(image), image.format or "")


def _opened(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise Unusable(_unknown_kind(content)) from error
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


def turned(image: Image.Image) -> Image.Image:
    """A loaded image as its Exif orientation says that it is to be seen."""
    # Of a PNG, asking decodes it, however large.
    try:
        stored = image.getexif().get(EXIF_ORIENTATION, 1) == 1
    except Exception:
        return image  # a damaged Exif block says nothing
    return image if stored else ImageOps.exif_transpose(image)


def to_eight_bits(image: Image.Image, kind: str) -> Image.Image:
    """Any mode of Pillow as an opaque `L` or `RGB`, alpha laid over white.

    `kind` is the file format.
    """
    if image.mode in GREY_16 or (image.mode == "I" and kind in ("PNG", "PPM")):
        return Image.fromarray(bytes_of(np.asarray(image)))
    if image.mode in ("I", "F"):
        raise Unusable("unsupported")  # no range of values is agreed on
    if image.has_transparency_data:
        colours = in_mode(image, "RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, colours).convert("RGB")
    return in_mode(image, "L" if image.mode in ("1", "L") else "RGB")


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """An image in a mode, the same one where it has it: Pillow would copy it."""
    return image if image.mode == mode else image.convert(mode)


def bytes_of(values: np.ndarray) -> np.ndarray:
    """16-bit values as uint8."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def pixels(image: Image.Image, channels: int) -> np.ndarray:
    """An `L` or `RGB` image as grey (1) or RGB (3), uint8 [H, W, C]."""
    array = np.asarray(in_mode(image, "L" if channels == 1 else "RGB"))
    return array[..., None] if channels == 1 else array


def read_mask(
    content: bytes, size: tuple[int, int], values: int, max_pixels: int
) -> UInt8[np.ndarray, "h w"]:
    """The classes in a mask of an image of that size, both upright.

    They are the numbers in the file: of a palette the indices, of grey what is stored.

    Args:
      size: height and width.
      values: how many classes there are; IGNORED is none of them.

    Raises:
      Unusable: the reason begins with "mask".
    """
    try:
        check_length(content)
        image = Image.open(io.BytesIO(content), formats=["PNG"])
        check_size(image.height, image.width, 1, max_pixels)
        image.load()
        image = turned(image)
    except UnidentifiedImageError as error:
        raise Unusable("mask not a PNG") from error
    except Unusable as error:
        raise Unusable(f"mask {error.reason}") from error
    # As with images, damage is told in many ways.
    except Exception as error:
        raise Unusable("mask damaged") from error
    if image.mode not in ("1", "L", "P", "I", *GREY_16):
        raise Unusable("mask in colours")
    if (image.height, image.width) != size:
        raise Unusable("mask of another size")
    found = np.asarray(image)
    if content[KIND_AT] == 0:  # grey
        found = found // SCALES.get(content[BITS_AT], 1)
    most = int(found[found != IGNORED].max(initial=0))
    if most >= values:
        raise Unusable(f"{UNKNOWN_CLASS} {most}")
    return found.astype(np.uint8)
