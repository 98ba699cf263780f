"""Numbers over the patches of an image as colours, and images at the size of a sheet.

The maps of colours are matplotlib's, which the colour-blind and a grey printer tell
apart: brighter is more.
"""

import math

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from mimjax.report import pictures

WIDEST = 1400  # pixels of a sheet: wider ones are too small to read inside a page
NOTHING = (225, 227, 230)  # where there is no number
FRAME = (0, 224, 255)  # no colour of a map comes near
SEEN, MIDDLE = 0.2, 128  # share of the image beneath a map, and its mean
BAR = (180, 12)  # pixels


def cell_size(images: UInt8[np.ndarray, "B H W 3"], columns: int) -> tuple[int, int]:
    """Height and width at which images go into a sheet of so many columns.

    Small ones by a whole factor, as in all sheets; large ones as they are, or smaller.
    """
    height, width = images.shape[1:3]
    most = WIDEST // columns - pictures.GAP
    if width > most:
        return max(1, round(height * most / width)), most
    factor = max(1, min(math.ceil(pictures.CELL / width), most // width))
    return height * factor, width * factor


def sized(
    images: UInt8[np.ndarray, "B H W 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "B h w 3"]:
    """Images at another size: enlarged pixel by pixel, or smoothly made smaller."""
    from PIL import Image

    smaller = size[1] < images.shape[2]
    how = Image.Resampling.LANCZOS if smaller else Image.Resampling.NEAREST
    size = size[1], size[0]
    made = [np.asarray(Image.fromarray(image).resize(size, how)) for image in images]
    return np.stack(made)


def colours(
    values: Float[np.ndarray, "*s r c"], size: tuple[int, int], name: str = "magma"
) -> UInt8[np.ndarray, "*s h w 3"]:
    """Numbers from 0 to 1 over a grid of patches as an image of colours.

    Each patch is one colour; where there is no number (NaN) it is NOTHING.
    """
    from matplotlib import colormaps

    painted = colormaps[name](np.nan_to_num(values), bytes=True)[..., :3]
    painted = np.where(
        np.isnan(values)[..., None], np.array(NOTHING, np.uint8), painted
    )
    shown = [grid(painted[..., n], size) for n in range(3)]
    return np.stack(shown, axis=-1)


def grid(
    values: Shaped[np.ndarray, "*s r c"], size: tuple[int, int]
) -> Shaped[np.ndarray, "*s h w"]:
    """Every patch of a grid as an area of an image of that size."""
    rows, columns = values.shape[-2:]
    row = (np.arange(size[0]) + 0.5) * rows / size[0]
    column = (np.arange(size[1]) + 0.5) * columns / size[1]
    return values[..., row.astype(int)[:, None], column.astype(int)]


def over(
    images: UInt8[np.ndarray, "B h w 3"], heat: UInt8[np.ndarray, "B h w 3"]
) -> UInt8[np.ndarray, "B h w 3"]:
    """Colours over the images in grey, all of which are as bright on average.

    So a colour is nearly the same over a dark and over a bright one.
    """
    grey = images.mean(axis=-1, keepdims=True)
    grey = (grey - grey.mean(axis=(1, 2), keepdims=True) + MIDDLE).clip(0, 255)
    return np.rint(SEEN * grey + (1 - SEEN) * heat).astype(np.uint8)


def marked(
    images: UInt8[np.ndarray, "B h w 3"], grid: tuple[int, int], place: tuple[int, int]
) -> UInt8[np.ndarray, "B h w 3"]:
    """Images with a frame around a patch, at a row and a column of the grid."""
    from PIL import Image, ImageDraw

    height, width = images.shape[1:3]
    top, bottom = (round((place[0] + end) * height / grid[0]) for end in (0, 1))
    left, right = (round((place[1] + end) * width / grid[1]) for end in (0, 1))
    made = []
    for image in images:
        page = Image.fromarray(image)
        box = left - 2, top - 2, right + 1, bottom + 1
        ImageDraw.Draw(page).rectangle(box, outline=FRAME, width=2)
        made.append(np.asarray(page))
    return np.stack(made)


def bar(
    low: str, high: str, name: str = "magma"
) -> tuple[str, UInt8[np.ndarray, "h w 3"], str]:
    """The colours from the least to the most, for `pictures.lay`."""
    values = np.linspace(0, 1, BAR[0])[None]
    return low, colours(values, (BAR[1], BAR[0]), name), high
