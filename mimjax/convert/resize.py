"""Position tables for another image size or window, as the official codes make them.

Each way weighs the entries along one axis at a time, in float64, and is two small
matrices [target, source]. A table that fits already is returned itself.
"""

import functools
import math
from collections.abc import Callable

import numpy as np

Grid = tuple[int, int]
Way = Callable[[np.ndarray, Grid], np.ndarray]
"""From a table [rows, columns, D] to float32 [*grid, D]: one of the functions here."""


def positions(
    table: np.ndarray,
    grid: Grid,
    how: Way,
    *,
    extra: int = 1,
    source: Grid | None = None,
) -> np.ndarray:
    """An absolute table [1, extra + N, D] for another grid, [1, extra + M, D].

    Args:
        table: patches row by row, behind what stands for no patch.
        grid: rows and columns of patches wanted.
        how: `bicubic` (MAE, BEiT, Swin), that with offset=0.1 (DINO and DINOv2), that
            with antialias=True (timm, and DINOv2 with registers) or `corner_aligned`
            (vit_jax).
        extra: leading entries that are kept as they are, such as the class token's.
        source: rows and columns of the table; a square where it is not given.

    Raises:
        ValueError: the table has another number of entries.
    """
    patches = table.shape[1] - extra
    side = math.isqrt(max(patches, 0))
    source = (side, side) if source is None else source
    check(patches, source, f"a position table of {table.shape}, {extra} of no patch,")
    if source == grid:
        return table
    resized = how(table[0, extra:].reshape(*source, -1), grid)
    resized = resized.reshape(1, -1, table.shape[2])
    return np.concatenate([table[:, :extra].astype(np.float32), resized], axis=1)


def relative(
    table: np.ndarray, source: Grid, grid: Grid, how: Way, *, extra: int
) -> np.ndarray:
    """A relative table [(2r-1) (2c-1) + extra, heads] for another grid or window.

    Args:
        table: one row a distance, as `posembed.relative_index` counts them.
        source: rows r and columns c of patches of the table.
        grid: those wanted.
        how: `geometric` (BEiT, SimMIM), `bicubic` (Swin) or `bilinear` (transformers).
        extra: rows at the end that are kept as they are: 3 with a class token, else 0.

    Raises:
        ValueError: the table has another number of rows.
    """
    old, new = ((2 * rows - 1, 2 * columns - 1) for rows, columns in (source, grid))
    distances = len(table) - extra
    check(distances, old, f"a relative table of {table.shape}, {extra} of no distance,")
    if source == grid:
        return table
    resized = how(table[:distances].reshape(*old, -1), new)
    resized = resized.reshape(-1, table.shape[1])
    return np.concatenate([resized, table[distances:].astype(np.float32)])


def check(entries: int, grid: Grid, what: str) -> None:
    """Raises ValueError if a table does not have one entry a place."""
    if entries < 1 or entries != math.prod(grid):
        raise ValueError(
            f"{what} is not of {grid[0]} x {grid[1]}: say which grid it has"
        )


def bicubic(
    table: np.ndarray, grid: Grid, *, offset: float = 0.0, antialias: bool = False
) -> np.ndarray:
    """torch's F.interpolate(mode="bicubic", align_corners=False).

    Args:
        table: [rows, columns, D].
        grid: rows and columns wanted.
        offset: the scale factors are (grid + offset) / source, which moves the places
            that are sampled; official DINO (`vision_transformer.py`) and DINOv2 take
            0.1 against a division that falls short of the grid wanted.
        antialias: wider kernels where the table shrinks, and another one.
    """
    weights = antialiased if antialias else convolution
    return along_both(table, grid, functools.partial(weights, offset=offset))


def bilinear(table: np.ndarray, grid: Grid) -> np.ndarray:
    """torch's F.interpolate(mode="bilinear", align_corners=False).

    So transformers resizes BEiT's relative tables (`modeling_beit.py`). It reads a
    table that is not square as [columns, rows], which is not followed.
    """
    return along_both(table, grid, lambda n, m: linear(np.arange(n), centres(n, m)))


def corner_aligned(table: np.ndarray, grid: Grid) -> np.ndarray:
    """vit_jax's scipy.ndimage.zoom(order=1): the corners stay (`checkpoint.py`).

    For some sizes, 24 to 22 or 43 among them, rounding takes scipy's last place out of
    the table, and it writes zeros there; these are not followed.
    """
    return along_both(
        table, grid, lambda n, m: linear(np.arange(n), np.linspace(0, n - 1, m))
    )


def geometric(table: np.ndarray, grid: Grid) -> np.ndarray:
    """BEiT's and SimMIM's resize of relative tables: far distances lie further apart.

    A cubic spline through the table at the places of `progression`, read at the whole
    numbers (BEiT `run_class_finetuning.py`, SimMIM `utils.py`, both by scipy's former
    interp2d). Both know squares only, and leave one alone whose size stays; here that
    holds for each axis.

    Raises:
        ValueError: an axis has an even number of distances, or too few for the spline.
    """
    return along_both(table, grid, stretched)


def along_both(
    table: np.ndarray, grid: Grid, weights: Callable[[int, int], np.ndarray]
) -> np.ndarray:
    """The table [rows, columns, D] weighed along both axes, float32 [*grid, D].

    `weights` gives the matrix [target, source] of a source and a target length.
    """
    if table.shape[:2] == grid:
        return table
    rows, columns = weights(table.shape[0], grid[0]), weights(table.shape[1], grid[1])
    wide = np.asarray(table, np.float64)
    wide = np.tensordot(rows, np.tensordot(columns, wide, (1, 1)), (1, 1))
    return wide.astype(np.float32)


def centres(n: int, m: int, offset: float = 0.0) -> np.ndarray:
    """Where the centres of m entries lie among n, whose own are 0, 1, ...; [m]."""
    return (np.arange(m) + 0.5) * (n / (m + offset)) - 0.5


def kernel(distance: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel of Keys (1981, equation 4) with slope a at 1."""
    x = np.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def convolution(n: int, m: int, offset: float) -> np.ndarray:
    """Weights [m, n] of torch's bicubic: a = -0.75 (`UpSample.h`), edges repeated."""
    places, weights = centres(n, m, offset), np.zeros((m, n))
    for tap in np.floor(places) + np.arange(-1, 3)[:, None]:
        column = np.clip(tap, 0, n - 1).astype(int)
        weights[np.arange(m), column] += kernel(places - tap, -0.75)
    return weights


def antialiased(n: int, m: int, offset: float) -> np.ndarray:
    """The same with antialias, as Pillow has it: a = -0.5, cut off at the edge."""
    if n == m:  # torch leaves such an axis alone, whatever the offset
        return np.eye(n)
    stretch = max(n / (m + offset), 1.0)
    distance = np.arange(n) - centres(n, m, offset)[:, None]
    weights = kernel(distance / stretch, -0.5)
    return weights / weights.sum(axis=1, keepdims=True)


def linear(knots: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Weights [M, N] of the N values at rising knots at M places; constant beyond."""
    return np.stack([np.interp(places, knots, one) for one in np.eye(len(knots))], 1)


def stretched(n: int, m: int) -> np.ndarray:
    """Weights [m, n] from n distances to m, both odd."""
    if n == m:
        return np.eye(n)
    if n < 5 or not n % 2 or not m % 2:
        what = f"a relative table with {n} distances along an axis cannot become {m}"
        raise ValueError(f"{what}: both are odd, and the spline needs 5")
    return spline(progression(n, m), np.arange(m) - m // 2.0)


def progression(n: int, m: int) -> np.ndarray:
    """Where n distances lie among m whole ones: 0, 1, 1 + q, 1 + q + q^2, ..., [n].

    They are mirrored about 0, and the last is m // 2, by bisection of q in [1.01, 1.5]
    to 1e-6 (the bounds of BEiT). At the lower bound, for a table that hardly grows or
    that shrinks, its far ends fall away; at the upper, they are repeated.
    """
    powers = np.arange(n // 2)
    low, high, q = 1.01, 1.5, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        if np.sum(q**powers) > m // 2:
            high = q
        else:
            low = q
    right = np.cumsum(q**powers)
    return np.concatenate([-right[::-1], [0.0], right])


def spline(knots: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Weights [M, N] of the N >= 4 values that a cubic spline goes through.

    Its third derivative is continuous at the second knot and the last but one ("not a
    knot"); constant beyond the knots, as FITPACK has it.
    """
    step, count = np.diff(knots), len(knots)
    # Second derivatives c of it at the knots: bends @ c = slopes @ values.
    bends, slopes = np.zeros((count, count)), np.zeros((count, count))
    for i in range(1, count - 1):
        before, after = step[i - 1], step[i]
        around = slice(i - 1, i + 2)
        bends[i, around] = before / 6, (before + after) / 3, after / 6
        slopes[i, around] = 1 / before, -1 / before - 1 / after, 1 / after
    # The change of slope of c itself is nought there.
    bends[0], bends[-1] = slopes[1], slopes[-2]
    inside = np.clip(places, knots[0], knots[-1])
    piece = np.clip(np.searchsorted(knots, inside, "right") - 1, 0, count - 2)
    straight = linear(knots, inside)
    bent = (straight**3 - straight) * (step[piece] ** 2 / 6)[:, None]
    return straight + bent @ np.linalg.solve(bends, slopes)
