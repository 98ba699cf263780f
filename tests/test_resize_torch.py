"""Position tables resized as the official codes call PyTorch, and as timm does."""

import functools
import math
import sys
from unittest import mock

import numpy as np
import pytest
import test_resize
import torch
from scipy import interpolate

from mimjax.convert import resize

# What timm imports of torchvision, for data sets and norms not used here.
TORCHVISION = ("", ".datasets", ".ops.misc", ".transforms", ".transforms.functional")

with pytest.MonkeyPatch.context() as absent:
    for part in TORCHVISION:
        absent.setitem(sys.modules, f"torchvision{part}", mock.MagicMock())
    from timm.layers import pos_embed, pos_embed_rel

CLOSE = test_resize.CLOSE
GRIDS = test_resize.GRIDS


def interpolated(table, mode, **how):
    """F.interpolate of a table [rows, columns, D]."""
    image = torch.from_numpy(table).permute(2, 0, 1)[None]
    image = torch.nn.functional.interpolate(
        image, mode=mode, align_corners=False, **how
    )
    return image[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(("source", "grid"), GRIDS)
def test_bicubic(source, grid, antialias):
    table = test_resize.normal(*source, 32)
    ours = resize.bicubic(table, grid, antialias=antialias)
    theirs = interpolated(table, "bicubic", size=grid, antialias=antialias)
    np.testing.assert_allclose(ours, theirs, **CLOSE)


@pytest.mark.parametrize(("source", "grid"), GRIDS)
def test_bilinear(source, grid):
    table = test_resize.normal(*source, 32)
    theirs = interpolated(table, "bilinear", size=grid)
    np.testing.assert_allclose(resize.bilinear(table, grid), theirs, **CLOSE)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(("source", "grid"), GRIDS)
def test_bicubic_with_the_offset_of_dino(source, grid, antialias):
    """The scale factors are used as given, not recomputed from the sizes."""
    table = test_resize.normal(*source, 32)
    factors = tuple((m + 0.1) / n for n, m in zip(source, grid, strict=True))
    theirs = interpolated(table, "bicubic", scale_factor=factors, antialias=antialias)
    assert theirs.shape[:2] == grid
    ours = resize.bicubic(table, grid, offset=0.1, antialias=antialias)
    np.testing.assert_allclose(ours, theirs, **CLOSE)
    plain = resize.bicubic(table, grid, antialias=antialias)
    assert np.abs(ours - plain).max() > 1e-3


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("extra", [0, 1, 5])
@pytest.mark.parametrize(("source", "grid"), GRIDS)
def test_absolute_tables_of_timm(source, grid, extra, antialias):
    table = test_resize.normal(1, extra + math.prod(source), 16)
    how = functools.partial(resize.bicubic, antialias=antialias)
    ours = resize.positions(table, grid, how, extra=extra, source=source)
    theirs = pos_embed.resample_abs_pos_embed(
        torch.from_numpy(table),
        new_size=list(grid),
        old_size=list(source),
        num_prefix_tokens=extra,
        antialias=antialias,
    )
    np.testing.assert_allclose(ours, theirs.numpy(), **CLOSE)


class Spline:
    """What interp2d was before SciPy 1.14, of which timm and BEiT ask it."""

    def __init__(self, x, y, z, kind):
        assert kind == "cubic"
        self.spline = interpolate.RectBivariateSpline(y, x, z, kx=3, ky=3, s=0)

    def __call__(self, x, y):
        return self.spline(y, x)


@pytest.mark.parametrize("extra", [0, 3])
@pytest.mark.parametrize(
    ("source", "grid"), [(s, g) for s, g in GRIDS if s[0] != g[0] and s[1] != g[1]]
)
def test_relative_tables_of_timm(source, grid, extra, monkeypatch):
    """An axis that keeps its length timm stretches as well, if the other does not."""
    monkeypatch.setattr(pos_embed_rel, "_USE_SCIPY", 1)
    monkeypatch.setattr(interpolate, "interp2d", Spline)
    old, new = (math.prod(2 * s - 1 for s in sides) + extra for sides in (source, grid))
    table = test_resize.normal(old, 4)
    ours = resize.relative(table, source, grid, resize.geometric, extra=extra)
    theirs = pos_embed_rel.resize_rel_pos_bias_table(
        torch.from_numpy(table), grid, (new, 4), old_window_size=source
    )
    np.testing.assert_allclose(ours, theirs.numpy(), **CLOSE)


@pytest.mark.parametrize(("window", "wider"), [(7, 12), (6, 7), (12, 7)])
def test_relative_tables_of_swin(window, wider):
    """timm's simple function is what official Swin does in `utils.py`."""
    table = test_resize.normal((2 * window - 1) ** 2, 4)
    ours = resize.relative(
        table, (window, window), (wider, wider), resize.bicubic, extra=0
    )
    theirs = pos_embed_rel.resize_rel_pos_bias_table_simple(
        torch.from_numpy(table), (wider, wider), ((2 * wider - 1) ** 2, 4)
    )
    np.testing.assert_allclose(ours, theirs.numpy(), **CLOSE)
