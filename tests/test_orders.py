"""Orders of patches: each patch once, and where the next one is."""

import numpy as np
import pytest

from mimjax import orders


def test_orders_of_three_by_three():
    """By hand: from the middle outwards; white fields, then black ones."""
    grid = (3, 3)
    assert orders.raster(grid).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert orders.spiral(grid).tolist() == [4, 1, 2, 5, 8, 7, 6, 3, 0]
    assert orders.checkerboard(grid).tolist() == [0, 2, 4, 6, 8, 1, 3, 5, 7]


@pytest.mark.parametrize("grid", [(2, 5), (5, 3), (14, 14), (1, 4), (4, 1)])
def test_a_spiral_moves_to_a_neighbour_and_outwards(grid):
    order = orders.spiral(grid)
    assert sorted(order) == list(range(grid[0] * grid[1]))
    row, column = np.divmod(order, grid[1])
    steps = np.abs(np.diff(row)) + np.abs(np.diff(column))
    assert (steps == 1).all()
    # The ring of a patch: how far the nearest border is.
    ring = np.minimum.reduce([row, column, grid[0] - 1 - row, grid[1] - 1 - column])
    assert (np.diff(ring) <= 0).all()
    assert order[-1] == 0


def test_a_fixed_random_order_is_fixed():
    order = orders.fixed_random((14, 14))
    assert sorted(order) == list(range(196))
    np.testing.assert_array_equal(order, orders.fixed_random((14, 14)))
    assert order[:5].tolist() == np.random.RandomState(0).permutation(196)[:5].tolist()
    assert np.abs(np.diff(order)).mean() > 40, "not row by row"
