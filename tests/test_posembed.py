"""Position tables: values computed by hand and by the official formula."""

import math

import numpy as np
import pytest

from mimjax import posembed


@pytest.mark.parametrize(
    ("width", "side", "total"),
    [
        (768, 14, 69594.4938),
        (512, 14, 46340.3331),
        (1024, 14, 92849.1979),
        (1280, 16, 149578.4058),
        (512, 16, 59700.6785),
        (1536, 16, 179537.2580),
        (2048, 16, 239454.8196),
    ],
)
def test_sums_of_the_tables_of_mae_and_aim(width, side, total):
    table = posembed.sincos_2d((side, side), width)
    assert table.dtype == np.float32
    assert table.shape == (side * side, width)
    assert table.astype(np.float64).sum() == pytest.approx(total, abs=2e-4)


@pytest.mark.parametrize(
    ("width", "side", "sines", "cosine"),
    [
        (768, 14, (0.84147096, 0.81525064, 0.78859305), 0.57910824),
        (512, 14, (0.84147096, 0.8019618, 0.7617204), 0.59737533),
        (1024, 14, (0.84147096, 0.8218562, 0.8019618), 0.569695),
        (1280, 16, (0.84147096, 0.8258049, 0.8099465), 0.5639559),
        (512, 16, (0.84147096, 0.8019618, 0.7617204), 0.59737533),
        (1536, 16, (0.84147096, 0.8284308, 0.81525064), 0.5600915),
        (2048, 16, (0.84147096, 0.8317052, 0.8218562), 0.5552175),
    ],
)
def test_the_first_half_is_the_column(width, side, sines, cosine):
    table = posembed.sincos_2d((side, side), width)
    quarter, half = width // 4, width // 2
    right, below = table[1], table[side]
    np.testing.assert_allclose(right[:3], sines, atol=1e-7)
    expected = (0.5403023, cosine)
    np.testing.assert_allclose(right[quarter : quarter + 2], expected, atol=1e-7)
    assert right[half] == 0
    np.testing.assert_allclose(below[half : half + 2], sines[:2], atol=1e-7)
    assert not below[:quarter].any()


def test_an_entry_in_the_middle():
    table = posembed.sincos_2d((14, 14), 768)
    assert table[5 * 14 + 3, 10] == pytest.approx(0.9593515, abs=1e-7)


def test_a_grid_that_is_not_square():
    """Against the formula, entry by entry, in plain Python."""
    table = posembed.sincos_2d((3, 5), 16)
    assert table.shape == (15, 16)
    for n in range(15):
        for k in range(4):
            frequency = 10000 ** (-k / 4)
            for start, place in ((0, n % 5), (8, n // 5)):
                sine, cosine = table[n, start + k], table[n, start + 4 + k]
                assert sine == pytest.approx(math.sin(place * frequency), abs=1e-7)
                assert cosine == pytest.approx(math.cos(place * frequency), abs=1e-7)


def test_a_width_that_four_does_not_divide():
    with pytest.raises(ValueError, match="divisible by 4, not 30"):
        posembed.sincos_2d((2, 2), 30)


@pytest.mark.parametrize(
    ("side", "rows", "total", "near"),
    [
        (14, 732, 14_270_119, (364, 363, 365, 337, 391)),
        (16, 964, 31_950_531, (480, 479, 481, 449, 511)),
        (24, 2212, 368_828_259, (1104, 1103, 1105, 1057, 1151)),
        (32, 3972, 2_088_508_291, (1984, 1983, 1985, 1921, 2047)),
    ],
)
def test_relative_index_of_beit(side, rows, total, near):
    assert posembed.relative_rows((side, side), cls=True) == rows
    index = posembed.relative_index((side, side), cls=True)
    assert index.shape == (side * side + 1,) * 2
    assert index.astype(np.int64).sum() == total
    patch = index[1:, 1:]
    pairs = ((0, 0), (0, 1), (1, 0), (0, side), (side, 0))
    assert tuple(patch[pair] for pair in pairs) == near
    assert index[0, 0] == rows - 1
    assert set(index[0, 1:]) == {rows - 3}
    assert set(index[1:, 0]) == {rows - 2}


@pytest.mark.parametrize(
    ("side", "rows", "total", "near"),
    [
        (6, 121, 77_760, (60, 59, 61, 49, 71)),
        (7, 169, 201_684, (84, 83, 85, 71, 97)),
        (12, 529, 5_474_304, (264, 263, 265, 241, 287)),
        (14, 729, 13_983_424, (364, 363, 365, 337, 391)),
    ],
)
def test_relative_index_without_a_class_token(side, rows, total, near):
    """The windows of Swin have these sums."""
    assert posembed.relative_rows((side, side), cls=False) == rows
    index = posembed.relative_index((side, side), cls=False)
    assert index.sum() == total
    pairs = ((0, 0), (0, 1), (1, 0), (0, side), (side, 0))
    assert tuple(index[pair] for pair in pairs) == near


def test_relative_index_of_a_grid_that_is_not_square():
    """Equal offsets share a row, different ones do not, and every row is used."""
    grid = (2, 3)
    index = posembed.relative_index(grid, cls=False)
    seen: dict[tuple[int, int], int] = {}
    for q in range(6):
        for k in range(6):
            offset = (q // 3 - k // 3, q % 3 - k % 3)
            assert seen.setdefault(offset, index[q, k]) == index[q, k]
    assert sorted(seen.values()) == list(range(posembed.relative_rows(grid, cls=False)))
