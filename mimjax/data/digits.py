"""Handwritten digits blended over crops of photographs: real images with no download.

The digits are scikit-learn's `load_digits` (1,797 of 8x8 pixels, a part of the UCI
optical recognition set), the photographs the two of `load_sample_images` (427x640).
They are combined by absolute difference as MNIST-M does (Ganin et al. 2016, arXiv
1505.07818, section 4). An image depends on its index and part alone. Printed letters
(letters.py) are drawn over photographs in the same way.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8, UInt64

from mimjax.data import Part, letters

# The classes of each embedded source.
CLASSES = {"digits": tuple("0123456789"), "letters": letters.CLASSES}
TEST_FRACTION = 0.2
# Photographs are cut at this column: training sees the left, held-out images the right.
TRAIN_COLUMNS = 496
GLYPH = 40  # pixels of a smoothed digit, margin included
MARGIN = 4
# Sides of the crop of a photograph, in its pixels.
CROP_SIDE = (20.0, 80.0)
DIGIT_SIDE = (0.7, 1.0)  # of the image's shorter side
TILT = 0.25  # radians, either way
STRENGTH = (0.4, 1.0)
EDGE = 8  # pixels kept free, so that the coarsest level has a neighbour to blend with
CHUNK = 64  # images drawn together: the working set stays in the cache


class Scene(NamedTuple):
    """All that the drawing of one part needs."""

    glyphs: Float[np.ndarray, "n s s"]  # ink in [0, 1]
    labels: Int[np.ndarray, " n"]
    photos: list[Float[np.ndarray, "p h w 3"]]  # one array a scale: 1, 1/2, 1/4


def draw(
    index: Int[np.ndarray, " n"],
    part: Part,
    image_size: tuple[int, int],
    kind: str = "digits",
) -> tuple[UInt8[np.ndarray, "n H W 3"], Int[np.ndarray, " n"]]:
    """Images and labels of the given indices of the endless series of a part."""
    images, labels, _ = draw_with_masks(index, part, image_size, kind)
    return images, labels


def draw_with_masks(
    index: Int[np.ndarray, " n"],
    part: Part,
    image_size: tuple[int, int],
    kind: str = "digits",
) -> tuple[
    UInt8[np.ndarray, "n H W 3"], Int[np.ndarray, " n"], UInt8[np.ndarray, "n H W"]
]:
    """The same and masks: the label where ink is above one half, else a class more."""
    scene = load(part, kind)
    images = np.empty((len(index), *image_size, 3), np.uint8)
    labels = np.empty(len(index), np.int32)
    masks = np.empty(images.shape[:3], np.uint8)
    for start in range(0, len(index), CHUNK):
        now = slice(start, start + CHUNK)
        drawn = _draw_chunk(scene, index[now], part, image_size)
        images[now], labels[now], masks[now] = drawn
    return images, labels, masks


@functools.lru_cache(maxsize=4)
def load(part: Part, kind: str = "digits") -> Scene:
    """Read and prepare what a part is drawn of; about 0.2 s, once a process."""
    from sklearn.datasets import load_sample_images

    inner = GLYPH - 2 * MARGIN
    found = letters.glyphs if kind == "letters" else _digits
    ink, labels = found(part, inner)
    glyphs = np.zeros((len(ink), GLYPH, GLYPH), np.float32)
    glyphs[:, MARGIN:-MARGIN, MARGIN:-MARGIN] = ink
    photos = np.stack(load_sample_images().images)
    columns = slice(TRAIN_COLUMNS, None) if part == "test" else slice(TRAIN_COLUMNS)
    levels = [photos[:, :, columns].astype(np.float32)]
    for _ in range(2):
        levels.append(_halve(levels[-1]))
    return Scene(glyphs, labels, levels)


def _digits(
    part: Part, side: int
) -> tuple[Float[np.ndarray, "n s s"], Int[np.ndarray, " n"]]:
    """Ink of the digits of a part, smoothed, and what they are."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    # Every fifth of each class, so that both parts hold all classes alike.
    rank = np.empty(len(digits.target), np.int64)
    for label in range(len(CLASSES["digits"])):
        members = np.flatnonzero(digits.target == label)
        rank[members] = np.arange(len(members))
    held = rank % round(1 / TEST_FRACTION) == 0
    chosen = np.flatnonzero(held if part == "test" else ~held)
    inks = np.empty((len(chosen), side, side), np.float32)
    for ink, i in zip(inks, chosen, strict=True):
        small = Image.fromarray((digits.images[i] / 16).astype(np.float32))
        large = small.resize((side, side), Image.Resampling.BICUBIC)
        # The ramp turns the blur of 8x8 pixels into a stroke with an edge.
        ink[:] = np.clip((np.asarray(large) - 0.25) / 0.4, 0, 1)
    return inks, digits.target[chosen].astype(np.int32)


def _halve(photos: Float[np.ndarray, "p h w 3"]) -> Float[np.ndarray, "p y x 3"]:
    h, w = photos.shape[1] // 2 * 2, photos.shape[2] // 2 * 2
    even = photos[:, :h, :w]
    lines = even[:, ::2] + even[:, 1::2]
    return (lines[:, :, ::2] + lines[:, :, 1::2]) / 4


def random_bits(
    index: Int[np.ndarray, " n"], stream: int, count: int
) -> UInt64[np.ndarray, "n count"]:
    """Random words that depend on index and stream alone.

    SplitMix64 (Steele, Lea and Flood 2014, doi 10.1145/2660193.2660195), addressed by
    counter instead of stepped.
    """
    # Arrays of integers wrap around silently, as is meant here.
    seed = _mix(np.asarray([stream + 1], np.uint64) * np.uint64(0xD1B54A32D192ED03))
    words = _mix(index.astype(np.uint64) + seed)[:, None]
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return _mix(words + steps)


def _mix(word: np.ndarray) -> np.ndarray:
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


def _draw_chunk(
    scene: Scene, index: Int[np.ndarray, " n"], part: Part, image_size: tuple[int, int]
) -> tuple[
    UInt8[np.ndarray, "n H W 3"], Int[np.ndarray, " n"], UInt8[np.ndarray, "n H W"]
]:
    bits = random_bits(index, 0 if part == "train" else 1, 16)
    choice = (bits[:, 0] % np.uint64(len(scene.glyphs))).astype(np.int64)
    u = ((bits[:, 1:] >> np.uint64(40)) * 2.0**-24).astype(np.float32)
    ground = _crop_photos(scene, u[:, :6], image_size)
    ink = _place_glyphs(scene.glyphs, choice, u[:, 6:10], image_size)
    # A strength for each colour: where one channel of the photograph is half of it, and
    # the difference leaves no contrast, another channel still shows the digit.
    low, high = STRENGTH
    strength = 255 * (low + (high - low) * u[:, 10:13])[:, None, None, :]
    blend = np.abs(ground - strength * ink[..., None])
    labels, ground_class = scene.labels[choice], scene.labels.max() + 1
    masks = np.where(ink > 0.5, labels[:, None, None], ground_class).astype(np.uint8)
    return (blend + 0.5).astype(np.uint8), labels, masks


def _crop_photos(
    scene: Scene, u: Float[np.ndarray, "n 6"], image_size: tuple[int, int]
) -> Float[np.ndarray, "n H W 3"]:
    """Bilinear crops at a random place and size, half of them mirrored."""
    height, width = image_size
    longer = max(height, width)
    level0 = scene.photos[0]
    side = CROP_SIDE[0] * (CROP_SIDE[1] / CROP_SIDE[0]) ** u[:, 0]
    # The level whose pixels are at least as large as half an output pixel.
    coarsest = len(scene.photos) - 1
    level = np.clip(np.log2(side / longer).round(), 0, coarsest).astype(int)
    photo = (u[:, 1] * len(level0)).astype(int)
    lines, columns = side * height / longer, side * width / longer
    top = u[:, 2] * (level0.shape[1] - EDGE - lines)
    left = u[:, 3] * (level0.shape[2] - EDGE - columns)
    ys = (np.arange(height, dtype=np.float32) + 0.5) / height
    xs = (np.arange(width, dtype=np.float32) + 0.5) / width
    xs = np.where(u[:, 4, None] < 0.5, xs, xs[::-1])
    y = top[:, None] + lines[:, None] * ys
    x = left[:, None] + columns[:, None] * xs
    out = np.empty((len(u), height, width, 3), np.float32)
    for i in range(len(u)):
        grid = scene.photos[level[i]][photo[i]]
        scale = 0.5 ** level[i]
        out[i] = _bilinear(grid, y[i] * scale, x[i] * scale)
    return out


def _bilinear(
    grid: Float[np.ndarray, "h w 3"],
    y: Float[np.ndarray, " H"],
    x: Float[np.ndarray, " W"],
) -> Float[np.ndarray, "H W 3"]:
    rows, columns = y.astype(int), x.astype(int)
    fy, fx = (y - rows)[:, None, None], (x - columns)[None, :, None]
    first = columns.min()
    grid = grid[:, first : columns.max() + 2]
    lines = grid[rows] * (1 - fy) + grid[rows + 1] * fy
    columns -= first
    return lines[:, columns] * (1 - fx) + lines[:, columns + 1] * fx


def _place_glyphs(
    glyphs: Float[np.ndarray, "g s s"],
    choice: Int[np.ndarray, " n"],
    u: Float[np.ndarray, "n 4"],
    image_size: tuple[int, int],
) -> Float[np.ndarray, "n H W"]:
    """Ink in [0, 1] of the chosen digits at a random size, tilt and place."""
    height, width = image_size
    inner = GLYPH - 2 * MARGIN
    size = min(height, width) * (DIGIT_SIDE[0] + np.diff(DIGIT_SIDE) * u[:, 0])
    tilt = TILT * (2 * u[:, 1] - 1)
    centre_y = height / 2 + (height - size) / 2 * (2 * u[:, 2] - 1)
    centre_x = width / 2 + (width - size) / 2 * (2 * u[:, 3] - 1)
    dy = np.arange(height, dtype=np.float32) + 0.5 - centre_y[:, None]
    dx = np.arange(width, dtype=np.float32) + 0.5 - centre_x[:, None]
    cos = (np.cos(tilt) * inner / size).astype(np.float32)[:, None]
    sin = (np.sin(tilt) * inner / size).astype(np.float32)[:, None]
    offset = (GLYPH - 1) / 2
    y = (cos * dy)[:, :, None] + (sin * dx)[:, None, :] + offset
    x = (cos * dx)[:, None, :] - (sin * dy)[:, :, None] + offset
    # Outside the glyph every point falls into its empty margin.
    y, x = np.clip(y, 0, GLYPH - 1.01), np.clip(x, 0, GLYPH - 1.01)
    row, column = y.astype(np.int32), x.astype(np.int32)
    fy, fx = y - row, x - column
    flat = glyphs.reshape(-1)
    corner = choice[:, None, None] * (GLYPH * GLYPH) + row * GLYPH + column
    upper = flat[corner] * (1 - fx) + flat[corner + 1] * fx
    lower = flat[corner + GLYPH] * (1 - fx) + flat[corner + GLYPH + 1] * fx
    return upper * (1 - fy) + lower * fy
