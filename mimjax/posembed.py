"""Position tables: fixed 2-D sine-cosine, and the index of relative positions.

Both are numpy constants of the patch grid, so they are exact for any grid, square or
not.
"""

import numpy as np


def sincos_2d(grid: tuple[int, int], width: int) -> np.ndarray:
    """The fixed table of MAE and AIM, float32 [rows * columns, width].

    The first half of the channels encodes the column, the second half the row, each as
    width/4 sines and then width/4 cosines with frequencies 10000^(-k / (width/4))
    (official MAE `util/pos_embed.py`; arXiv 2111.06377, appendix A.1; AIM uses the
    same). big_vision's table divides k by width/4 - 1 and is another one.
    """
    if width % 4:
        raise ValueError(
            f"a sine-cosine table needs a width divisible by 4, not {width}"
        )
    frequency = 10000.0 ** (-np.arange(width // 4, dtype=np.float64) / (width / 4))
    row, column = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    halves = []
    for place in (column, row):
        angle = place.reshape(-1, 1) * frequency
        halves += [np.sin(angle), np.cos(angle)]
    return np.concatenate(halves, axis=1).astype(np.float32)


def relative_rows(grid: tuple[int, int], cls: bool) -> int:
    """Rows of the relative table: one an offset, three more with a class token."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + (3 if cls else 0)


def relative_index(grid: tuple[int, int], cls: bool) -> np.ndarray:
    """Which row of the relative table a (query, key) pair uses, int32 [T, T].

    For patches it is (row difference + rows - 1) * (2 * columns - 1) + (column
    difference + columns - 1), query minus key. With a class token the last three rows
    of the table are class to patch, patch to class and class to class (BEiT, arXiv
    2106.08254, official code).
    """
    rows, columns = grid
    row, column = (g.reshape(-1) for g in np.indices(grid))
    index = (row[:, None] - row[None] + rows - 1) * (2 * columns - 1)
    index = index + column[:, None] - column[None] + columns - 1
    if not cls:
        return index.astype(np.int32)
    count = relative_rows(grid, cls)
    full = np.zeros((len(index) + 1, len(index) + 1), np.int32)
    full[1:, 1:] = index
    full[0, :] = count - 3
    full[:, 0] = count - 2
    full[0, 0] = count - 1
    return full
