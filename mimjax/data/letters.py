"""Printed letters of many typefaces, to be blended over photographs as digits are.

The typefaces are the twenty-one with a Latin alphabet that matplotlib ships: DejaVu,
STIX and Computer Modern. Training sees some of them, held-out images the others, which
makes the set harder than that of the digits: 26 classes, each in two cases, in forms
that were never seen.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mimjax.data import Part

CLASSES = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
FONTS = {
    "train": (
        "DejaVuSans",
        "DejaVuSans-Bold",
        "DejaVuSans-Oblique",
        "DejaVuSansMono",
        "DejaVuSansMono-Bold",
        "DejaVuSansMono-BoldOblique",
        "DejaVuSerif",
        "DejaVuSerif-Bold",
        "DejaVuSerif-BoldItalic",
        "STIXGeneral",
        "STIXGeneralItalic",
        "STIXGeneralBolIta",
        "cmr10",
        "cmb10",
        "cmtt10",
    ),
    "test": (
        "DejaVuSans-BoldOblique",
        "DejaVuSansMono-Oblique",
        "DejaVuSerif-Italic",
        "STIXGeneralBol",
        "cmss10",
        "cmti10",
    ),
}
# Without l, which in many typefaces is the I of another class.
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
POINTS = 128  # drawn larger than needed, then shrunk


def glyphs(
    part: Part, side: int
) -> tuple[Float[np.ndarray, "n s s"], Int[np.ndarray, " n"]]:
    """Ink in [0, 1] of every letter in every typeface of a part, and its class.

    A letter fills the height or the width of a square of that side.
    """
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    found, labels = [], []
    for name in FONTS[part]:
        font = ImageFont.truetype(str(folder / f"{name}.ttf"), POINTS)
        for letter in LETTERS:
            canvas = Image.new("L", (3 * POINTS, 3 * POINTS))
            ImageDraw.Draw(canvas).text((POINTS, POINTS), letter, 255, font)
            ink = canvas.crop(canvas.getbbox())
            scale = side / max(ink.size)
            width, height = (max(1, round(length * scale)) for length in ink.size)
            small = ink.resize((width, height), Image.Resampling.BOX)
            square = Image.new("L", (side, side))
            square.paste(small, ((side - width) // 2, (side - height) // 2))
            found.append(np.asarray(square, np.float32) / 255)
            labels.append(CLASSES.index(letter.upper()))
    return np.stack(found), np.asarray(labels, np.int32)
