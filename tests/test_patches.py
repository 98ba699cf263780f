"""Patches and targets: orders and values worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from mimjax import patches


def test_order_inside_a_patch_is_row_column_channel():
    """The official example counts up in channel, row, column order."""
    image = np.arange(3 * 4 * 4, dtype=np.float32).reshape(1, 3, 4, 4)
    rows = patches.patchify(jnp.asarray(image.transpose(0, 2, 3, 1)), (2, 2))
    first = [0, 16, 32, 1, 17, 33, 4, 20, 36, 5, 21, 37]
    second = [2, 18, 34, 3, 19, 35, 6, 22, 38, 7, 23, 39]
    assert rows.shape == (1, 4, 12)
    assert rows[0, 0].tolist() == first
    assert rows[0, 1].tolist() == second


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_patches_of_any_shape_by_loops_and_back(channels):
    size, patch = (6, 8), (3, 2)
    image = np.random.default_rng(0).normal(size=(2, *size, channels))
    image = jnp.asarray(image, jnp.float32)
    rows = patches.patchify(image, patch)
    for n in range(8):
        top, left = n // 4 * 3, n % 4 * 2
        cut = image[:, top : top + 3, left : left + 2]
        np.testing.assert_array_equal(rows[:, n], cut.reshape(2, -1))
    np.testing.assert_array_equal(patches.unpatchify(rows, size, patch), image)


def test_a_patch_that_does_not_divide():
    with pytest.raises(ValueError, match="15 does not divide a side of 224"):
        patches.grid_of((224, 224), (16, 15))


def test_standardise_divides_by_one_less_than_the_count():
    values = jnp.arange(12.0).reshape(1, 1, 12)
    mean, deviation = patches.moments(values)
    assert mean.item() == 5.5
    assert deviation.item() == pytest.approx(np.sqrt(13 + 1e-6), rel=1e-7)
    expected = (-1.525425, -1.248075, -0.970725)
    np.testing.assert_allclose(
        patches.standardise(values)[0, 0, :3], expected, atol=5e-7
    )


def test_the_eps_of_a_flat_patch_is_under_the_root():
    """A flat patch gives zeros; one of variance 1e-6 is divided by sqrt(2e-6)."""
    flat = jnp.full((1, 1, 8), 0.25)
    assert not patches.standardise(flat).any()
    wave = jnp.tile(jnp.asarray([1.0, -1.0]), 4) * np.sqrt(7 / 8 * 1e-6)
    ratio = patches.standardise(wave[None, None])[0, 0, 0] / wave[0]
    assert ratio == pytest.approx(1 / np.sqrt(2e-6), rel=1e-5)


def test_normalise():
    pixels = jnp.asarray([[[[0, 128, 255]]]], jnp.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (np.array([0, 128, 255]) / 255 - mean) / std
    np.testing.assert_allclose(
        patches.normalise(pixels, mean, std)[0, 0, 0], expected, rtol=1e-6
    )
