"""Sheets of what a model sees and predicts, as lossless PNG files."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Array, Float, UInt8

from mimjax.metrics import replacing

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

CELL = 160  # pixels: images narrower than this are enlarged by a whole factor
GAP = 6  # pixels between the images of a sheet
MARGIN = 16
PerChannel = Sequence[float] | Float[np.ndarray, " C"] | Float[Array, " C"]
INK, FAINT, PAPER = (32, 33, 36), (110, 112, 118), (255, 255, 255)


def to_uint8(
    images: Float[np.ndarray, "B H W C"], mean: PerChannel, std: PerChannel
) -> UInt8[np.ndarray, "B H W 3"]:
    """Normalised images as colours: x * std + mean in [0, 1], clipped, to 0..255.

    One or two channels are shown by the first as grey, more than three by the first
    three. What is not a number is shown black.

    Args:
      images: normalised by `mean` and `std`.
      mean, std: one number a channel, on the scale where white is 1.
    """
    scale, shift = np.asarray(std, np.float32), np.asarray(mean, np.float32)
    pixels = images.astype(np.float32) * scale + shift
    pixels = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., :1]
    pixels = np.nan_to_num(pixels, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1)
    colours = np.rint(pixels * 255).astype(np.uint8)
    return np.broadcast_to(colours, (*colours.shape[:3], 3))


def _wrap(text: str, font: "FreeTypeFont | ImageFont", width: int) -> list[str]:
    """Words of `text` in lines no wider than `width` pixels, where words allow."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def sheet(
    panels: Mapping[str, Float[np.ndarray, "B H W C"]],
    mean: PerChannel,
    std: PerChannel,
    path: Path,
    *,
    title: str,
    note: str = "",
) -> None:
    """Draws a row for each image and a column for each panel to a PNG at `path`.

    Small images are enlarged by a whole factor, pixel by pixel.

    Args:
      panels: from name to normalised images, all of one shape.
      mean, std: one number a channel.
      path: replaced at once; its folder is made if absent.
      title: printed above.
      note: printed beneath.

    Raises:
      ValueError: where there is no panel or their shapes differ.
    """
    from PIL import Image, ImageDraw, ImageFont

    shapes = {name: images.shape for name, images in panels.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"panels must have one shape, but are {shapes}")
    rows, height, width, _ = next(iter(shapes.values()))
    scale = math.ceil(CELL / width)
    step_x, step_y = width * scale + GAP, height * scale + GAP
    inner = step_x * len(panels) - GAP

    big, small = ImageFont.load_default(size=18), ImageFont.load_default(size=14)
    blocks = [(_wrap(title, big, inner), big, 0, MARGIN, INK)]
    top = MARGIN + 24 * len(blocks[0][0]) + 8
    heads = [_wrap(name, small, step_x - GAP) for name in panels]
    tallest = max(map(len, heads))
    for column, head in enumerate(heads):
        # Names of fewer lines stand low, next to their images.
        y = top + 18 * (tallest - len(head))
        blocks.append((head, small, column * step_x, y, INK))
    top += 18 * tallest + 4
    bottom = top + rows * step_y + 4
    blocks.append((_wrap(note, small, inner), small, 0, bottom, FAINT))
    size = inner + 2 * MARGIN, bottom + 18 * len(blocks[-1][0]) + MARGIN - 4

    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    for lines, font, x, y, colour in blocks:
        line_height = 24 if font is big else 18
        for number, line in enumerate(lines):
            draw.text((MARGIN + x, y + number * line_height), line, colour, font)
    for column, images in enumerate(panels.values()):
        for row, image in enumerate(to_uint8(images, mean, std)):
            large = image.repeat(scale, axis=0).repeat(scale, axis=1)
            corner = MARGIN + column * step_x, top + row * step_y
            page.paste(Image.fromarray(large), corner)
    with replacing(path) as temp:
        page.save(temp, format="PNG", optimize=True)
