"""Orders to go through the patches of a grid in, as ids of patches by place.

The orders that AIM compares (arXiv 2401.08541, table 3; ml-l3m `ar_patterns.py`).
"""

import numpy as np
from jaxtyping import Int


def raster(grid: tuple[int, int]) -> Int[np.ndarray, " N"]:
    """Patches row by row."""
    return np.arange(grid[0] * grid[1])


def spiral(grid: tuple[int, int]) -> Int[np.ndarray, " N"]:
    """From the middle outwards: the way in, turned around.

    The way in starts at the top left corner and goes down, right, up and left along
    what is left of the border.
    """
    rest, way = raster(grid).reshape(grid), []
    while rest.size:
        way += rest[:, 0].tolist()
        # What is left, turned so that the next side is the first column downwards.
        rest = np.rot90(rest[:, 1:], -1)
    return np.asarray(way[::-1], np.int64)


def checkerboard(grid: tuple[int, int]) -> Int[np.ndarray, " N"]:
    """The fields whose row and column add up to an even number, then the others."""
    row, column = np.indices(grid)
    return np.argsort((row + column).ravel() % 2, kind="stable")


def fixed_random(grid: tuple[int, int]) -> Int[np.ndarray, " N"]:
    """One permutation for good (the official ones, drawn once, are others)."""
    return np.random.RandomState(0).permutation(grid[0] * grid[1])


ORDERS = {
    "raster": raster,
    "spiral": spiral,
    "checkerboard": checkerboard,
    "random": fixed_random,
}
