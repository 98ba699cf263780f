"""Tables of positions of one encoder for another of another image size or window."""

import functools
import math
from typing import Any

import numpy as np

from mimjax import posembed
from mimjax.convert import resize
from mimjax.convert.resize import Grid, Way

TABLES = ("pos_embed", "relative_table")
"""The names of the parameters."""

RESIZES: dict[str, Way] = {
    "bicubic": resize.bicubic,
    "bicubic, offset 0.1": functools.partial(resize.bicubic, offset=0.1),
    "bicubic, antialias": functools.partial(resize.bicubic, antialias=True),
    "bilinear": resize.bilinear,
    "corner-aligned": resize.corner_aligned,
    "geometric": resize.geometric,
}
"""How the codes of others take tables of positions to another size."""


def fitted(
    place: tuple[str, ...],
    table: np.ndarray,
    encoder: Any,
    how: str,
    source: Any = None,
) -> np.ndarray:
    """A table of positions for an encoder.

    Args:
        place: the path of the parameter, one of TABLES, below the encoder.
        table: [1, extra + N, D] of absolute positions, [rows, heads] of relative ones,
            or [layers, rows, heads].
        encoder: what it is to fit.
        how: one of RESIZES, that of the code that made it.
        source: the encoder that has it; without, it is of a square.

    Raises:
        ValueError: it cannot be made to fit; one line.
    """
    way = RESIZES[how]
    if place[-1] == "pos_embed":
        grid = source.grid if source else None
        extra = int(encoder.cls)
        return resize.positions(table, encoder.grid, way, extra=extra, source=grid)
    extra = 3 if encoder.cls else 0
    old = area(place, source) if source else square(table.shape[-2] - extra)
    grids = (old, area(place, encoder))
    if table.ndim == 2:
        return resize.relative(table, *grids, way, extra=extra)
    return np.stack([resize.relative(x, *grids, way, extra=extra) for x in table])


def differ(name: tuple[str, ...], one: Any, two: Any) -> bool:
    """Whether a parameter is a table of positions, of another grid in two encoders.

    Tables of 14 x 28 and 28 x 14 patches have one shape.
    """
    return name[-1] in TABLES and area(name[1:], one) != area(name[1:], two)


def area(place: tuple[str, ...], encoder: Any) -> Grid:
    """Rows and columns of the patches whose distances are told apart."""
    if not hasattr(encoder, "window"):
        return encoder.grid
    stage = int(place[0].removeprefix("stages_"))
    rows, columns = encoder.grid
    side = min(encoder.window, rows // 2**stage, columns // 2**stage)
    return side, side


def square(distances: int) -> Grid:
    """The square of so many distances."""
    side = (math.isqrt(max(distances, 0)) + 1) // 2
    return side, side


def resize_of(objective: Any) -> str:
    """How the official code takes the tables of such a model to another size.

    BEiT and SimMIM know distances that grow, for relative tables; Swin as trained with
    labels takes its own as pictures, and so does MAE with absolute ones.
    """
    encoder, kind = objective.encoder, type(objective).__module__
    windows = hasattr(encoder, "window") and not kind.endswith(".simmim")
    relative = getattr(encoder, "is_relative", True) and not windows
    return "geometric" if relative else "bicubic"


def sincos(grid: tuple[int, int], width: int, cls: bool) -> np.ndarray:
    """The fixed table [T, D]; the class token has no position."""
    table = posembed.sincos_2d(grid, width)
    return np.concatenate([np.zeros_like(table[:1]), table]) if cls else table
