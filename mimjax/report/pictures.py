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
LINE = 18  # pixels, of small letters
MARGIN = 16
PerChannel = Sequence[float] | Float[np.ndarray, " C"] | Float[Array, " C"]
INK, FAINT, PAPER = (32, 33, 36), (110, 112, 118), (255, 255, 255)
FRAME = (218, 219, 222)  # where an image may be as white as the paper


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


def _cut(text: str, font: "FreeTypeFont | ImageFont", width: int) -> str:
    """As much of `text` as `width` pixels hold."""
    while text and font.getlength(text) > width:
        text = text.removesuffix("..")[:-1].rstrip() + ".." if len(text) > 3 else ""
    return text


def sheet(
    panels: Mapping[str, Float[np.ndarray, "B H W C"]],
    mean: PerChannel,
    std: PerChannel,
    path: Path,
    *,
    title: str,
    note: str = "",
    legend: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Draws a row for each image and a column for each panel to a PNG at `path`.

    Small images are enlarged by a whole factor, pixel by pixel.

    Args:
      panels: from name to normalised images, all of one shape.
      mean, std: one number a channel.
      path: replaced at once; its folder is made if absent.
      title: printed above.
      note: printed beneath.
      legend: colours by what they stand for.

    Raises:
      ValueError: where there is no panel or their shapes differ.
    """
    shapes = {name: images.shape for name, images in panels.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"panels must have one shape, but are {shapes}")
    columns = [to_uint8(images, mean, std) for images in panels.values()]
    cells = np.stack(columns, axis=1)
    scale = math.ceil(CELL / cells.shape[3])
    large = cells.repeat(scale, axis=2).repeat(scale, axis=3)
    bar = None
    if legend:
        width = large.shape[1] * (large.shape[3] + GAP) - GAP
        bar = "", key(legend, width), ""
    lay(large, path, title=title, note=note, heads=[*panels], bar=bar)


def key(
    legend: Mapping[str, tuple[int, ...]], width: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Squares of colours, and beside each what it stands for, in lines of `width`."""
    from PIL import Image, ImageDraw, ImageFont

    font, square = ImageFont.load_default(size=14), LINE - GAP
    places, x, y = [], 0, 0
    for name in legend:
        long = square + GAP + round(font.getlength(name))
        if x and x + long > width:
            x, y = 0, y + LINE
        places.append((x, y))
        x += long + MARGIN
    page = Image.new("RGB", (width, y + LINE), PAPER)
    draw = ImageDraw.Draw(page)
    for (x, y), (name, colour) in zip(places, legend.items(), strict=True):
        box = x, y + GAP // 2, x + square, y + GAP // 2 + square
        draw.rectangle(box, fill=colour, outline=FAINT)
        draw.text((x + square + GAP, y), name, INK, font)
    return np.asarray(page)


def lay(
    cells: UInt8[np.ndarray, "R C h w 3"],
    path: Path,
    *,
    title: str,
    note: str = "",
    heads: Sequence[str] = (),
    labels: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    bar: tuple[str, UInt8[np.ndarray, "x y 3"], str] | None = None,
) -> None:
    """Draws images as they are in rows and columns to a PNG at `path`.

    Args:
      path: replaced at once; its folder is made if absent.
      title: printed above.
      note: printed beneath.
      heads: of the columns; those of fewer lines stand low, next to their images.
      labels: of the rows.
      captions: one beneath every image, row by row.
      bar: the colours that numbers are drawn in, and what the first and the last mean.
    """
    from PIL import Image, ImageDraw, ImageFont

    rows, columns, height, width, _ = cells.shape
    big, small = ImageFont.load_default(size=18), ImageFont.load_default(size=14)
    side = round(max((small.getlength(label) for label in labels), default=-GAP)) + GAP
    step_x, step_y = width + GAP, height + GAP + LINE * bool(captions)
    inner = side + step_x * columns - GAP

    blocks = [(_wrap(title, big, inner), big, 0, MARGIN, INK)]
    top = MARGIN + 24 * len(blocks[0][0]) + 8
    wrapped = [_wrap(name, small, width) for name in heads]
    tallest = max(map(len, wrapped), default=0)
    for column, head in enumerate(wrapped):
        y = top + LINE * (tallest - len(head))
        blocks.append((head, small, side + column * step_x, y, INK))
    top += LINE * tallest + 4
    for row, label in enumerate(labels):
        y = top + row * step_y + (height - LINE) // 2
        blocks.append(([label], small, 0, y, INK))
    for row, line in enumerate(captions):
        y = top + row * step_y + height
        for column, text in enumerate(line):
            text = _cut(text, small, width)
            blocks.append(([text], small, side + column * step_x, y, FAINT))
    bottom = top + rows * step_y + 4
    strip = 0, 0
    if bar:
        x = round(small.getlength(bar[0])) + GAP * bool(bar[0])
        blocks.append(([bar[0]], small, 0, bottom, INK))
        blocks.append(([bar[2]], small, x + bar[1].shape[1] + GAP, bottom, INK))
        strip, bottom = (MARGIN + x, bottom + 2), bottom + max(LINE, len(bar[1])) + 6
    blocks.append((_wrap(note, small, inner), small, 0, bottom, FAINT))
    size = inner + 2 * MARGIN, bottom + LINE * len(blocks[-1][0]) + MARGIN - 4

    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    for lines, font, x, y, colour in blocks:
        line_height = 24 if font is big else LINE
        for number, line in enumerate(lines):
            draw.text((MARGIN + x, y + number * line_height), line, colour, font)
    for row, column in np.ndindex(rows, columns):
        x, y = MARGIN + side + column * step_x, top + row * step_y
        draw.rectangle((x - 1, y - 1, x + width, y + height), outline=FRAME)
        page.paste(Image.fromarray(cells[row, column]), (x, y))
    if bar:
        page.paste(Image.fromarray(bar[1]), strip)
    with replacing(path) as temp:
        page.save(temp, format="PNG")
