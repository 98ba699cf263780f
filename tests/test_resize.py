"""Resized position tables: scipy's numbers, golden places, and what is kept.

PyTorch's and timm's numbers are in test_resize_torch.py.
"""

import numpy as np
import pytest
from scipy import interpolate, ndimage

from mimjax.convert import resize

CLOSE = {"rtol": 0, "atol": 1e-5}
# Larger, smaller, both at once, one axis alone, and lines.
GRIDS = [
    ((14, 14), (24, 24)),
    ((16, 16), (37, 37)),
    ((14, 14), (10, 31)),
    ((5, 9), (12, 7)),
    ((24, 24), (14, 14)),
    ((7, 12), (7, 5)),
    ((6, 8), (1, 3)),
]
WAYS = [resize.bicubic, resize.bilinear, resize.corner_aligned, resize.geometric]


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("source", "grid"), GRIDS)
def test_corner_aligned_is_zoom(source, grid):
    table = normal(*source, 8)
    ratio = (grid[0] / source[0], grid[1] / source[1], 1)
    theirs = ndimage.zoom(table, ratio, order=1)
    np.testing.assert_allclose(resize.corner_aligned(table, grid), theirs, **CLOSE)


@pytest.mark.parametrize("grid", [(22, 22), (43, 43)])
def test_zeros_that_zoom_writes_are_not_followed(grid):
    table = normal(24, 24, 8)
    ratio = (grid[0] / 24, grid[1] / 24, 1)
    ours = resize.corner_aligned(table, grid)
    theirs = ndimage.zoom(table, ratio, order=1)
    assert not theirs[-1].any()
    np.testing.assert_allclose(ours[:-1, :-1], theirs[:-1, :-1], **CLOSE)
    theirs = ndimage.zoom(table, ratio, order=1, mode="nearest")
    np.testing.assert_allclose(ours, theirs, **CLOSE)


@pytest.mark.parametrize(
    ("source", "grid", "ratio", "last"),
    [
        (27, 47, 1.090307, 22.9999),
        (27, 63, 1.134918, 31.0002),
        (11, 13, 1.091281, 6.0000),
        (23, 27, 1.032893, 12.9999),
    ],
)
def test_places_of_the_official_bisection(source, grid, ratio, last):
    places = resize.progression(source, grid)
    middle = source // 2
    assert places[middle] == 0
    assert places[middle + 1] == 1
    np.testing.assert_array_equal(places, -places[::-1])
    assert places[middle + 2] - places[middle + 1] == pytest.approx(ratio, abs=1e-6)
    assert places[-1] == pytest.approx(last, abs=6e-5)


def test_places_from_224_to_384():
    expected = [1, 2.0903, 3.2791, 4.5752, 5.9884, 7.5292, 9.2091, 11.0408, 13.0378]
    expected += [15.2152, 17.5893, 20.1777, 22.9999]
    np.testing.assert_allclose(
        resize.progression(27, 47)[14:], expected, rtol=0, atol=6e-5
    )


@pytest.mark.parametrize(("source", "grid"), GRIDS)
def test_geometric_is_the_spline_of_scipy(source, grid):
    old, new = (tuple(2 * side - 1 for side in sides) for sides in (source, grid))
    table = normal(*old, 3)
    rows, columns = (
        resize.progression(n, m) if n != m else np.arange(n) - n // 2.0
        for n, m in zip(old, new, strict=True)
    )
    at = [np.arange(m) - m // 2 for m in new]
    theirs = [
        interpolate.RectBivariateSpline(rows, columns, table[:, :, i], s=0)(*at)
        for i in range(3)
    ]
    ours = resize.geometric(table, new)
    np.testing.assert_allclose(ours, np.stack(theirs, -1), **CLOSE)


@pytest.mark.parametrize("count", [4, 5, 27])
def test_a_spline_takes_a_cubic_to_itself(count):
    knots = np.cumsum(1.1 ** np.arange(count)) - 3
    places = np.linspace(knots[0] - 1, knots[-1] + 1, 50)
    curve = np.polynomial.Polynomial([1, -2, 0.3, 0.05])
    weights = resize.spline(knots, places)
    expected = curve(np.clip(places, knots[0], knots[-1]))
    np.testing.assert_allclose(weights @ curve(knots), expected, atol=1e-9)


def test_an_axis_that_keeps_its_length_keeps_its_places():
    table = normal(13, 27, 4)
    ours = resize.geometric(table, (13, 47))
    alone = resize.geometric(np.tile(table[5], (13, 1, 1)), (13, 47))
    np.testing.assert_allclose(ours[5], alone[5], **CLOSE)


@pytest.mark.parametrize("how", WAYS)
def test_a_table_that_fits_comes_back_itself(how):
    table = normal(5, 7, 2)
    assert how(table, (5, 7)) is table
    whole = normal(1, 36, 2)
    assert resize.positions(whole, (5, 7), how, source=(5, 7)) is whole
    whole = normal(9 * 13 + 3, 2)
    assert resize.relative(whole, (5, 7), (5, 7), how, extra=3) is whole


@pytest.mark.parametrize("extra", [0, 1, 5])
@pytest.mark.parametrize("how", WAYS[:3])
def test_leading_entries_of_an_absolute_table_are_kept(how, extra):
    table = normal(1, extra + 36, 4)
    ours = resize.positions(table, (4, 9), how, extra=extra)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours[:, :extra], table[:, :extra])
    rest = how(table[0, extra:].reshape(6, 6, 4), (4, 9))
    np.testing.assert_array_equal(ours[0, extra:], rest.reshape(36, 4))
    wide = resize.positions(table, (9, 9), how, extra=extra, source=(4, 9))
    rest = how(table[0, extra:].reshape(4, 9, 4), (9, 9))
    np.testing.assert_array_equal(wide[0, extra:], rest.reshape(81, 4))


@pytest.mark.parametrize("extra", [0, 3])
@pytest.mark.parametrize("how", WAYS)
def test_last_rows_of_a_relative_table_are_kept(how, extra):
    table = normal(7 * 9 + extra, 4)
    ours = resize.relative(table, (4, 5), (6, 3), how, extra=extra)
    assert ours.dtype == np.float32
    assert len(ours) == 11 * 5 + extra
    np.testing.assert_array_equal(ours[55:], table[63:])
    rest = how(table[:63].reshape(7, 9, 4), (11, 5))
    np.testing.assert_array_equal(ours[:55], rest.reshape(55, 4))


def test_constants_stay_constant():
    table = np.full((9, 11, 2), 3.0, np.float16)
    for how in WAYS:
        ours = how(table, (15, 7))
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, 3.0, **CLOSE)


def test_tables_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 36, 2\), 1 of .* is not of 5 x 5"):
        resize.positions(normal(1, 36, 2), (7, 7), resize.bicubic)
    with pytest.raises(ValueError, match="is not of 5 x 6"):
        resize.positions(normal(1, 36, 2), (7, 7), resize.bicubic, source=(5, 6))
    with pytest.raises(ValueError, match="is not of 0 x 0"):
        resize.positions(normal(1, 1, 2), (7, 7), resize.bicubic)
    with pytest.raises(ValueError, match=r"\(120, 2\), 0 of .* is not of 9 x 13"):
        resize.relative(normal(120, 2), (5, 7), (6, 6), resize.bicubic, extra=0)


def test_too_few_distances_for_a_spline_are_refused():
    with pytest.raises(ValueError, match="3 distances along an axis cannot become 5"):
        resize.relative(normal(9, 2), (2, 2), (3, 3), resize.geometric, extra=0)
