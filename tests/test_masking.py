"""Masks: exact counts, uniform draws, the same on any number of devices."""

import functools
import math

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import official
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy import stats

from mimjax import masking

KEY = jax.random.key(3)

# Compiled whole, as a model takes them.
random_order = jax.jit(masking.random_order, static_argnums=(1, 2))
random_ids = jax.jit(masking.random_ids, static_argnums=(1, 2, 3))
random_cells = jax.jit(masking.random_cells, static_argnums=(1, 2, 3, 4))
block_wise = jax.jit(masking.block_wise, static_argnums=(1, 2, 3, 4))
block_ids = jax.jit(masking.block_ids, static_argnums=(1, 2, 3, 4))
prefix_lengths = jax.jit(masking.prefix_lengths, static_argnums=(1, 2))
hidden_from_ids = jax.jit(masking.hidden_from_ids, static_argnums=1)


def uniform(counts) -> bool:
    """Whether a chi-square test of equal chances is at ease with these counts."""
    return stats.chisquare(np.asarray(counts).ravel()).pvalue > 1e-3


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 16, 196, 257])
def test_random_order_is_a_permutation(num_tokens):
    order = np.asarray(random_order(KEY, 64, num_tokens))
    assert order.dtype == np.int32
    np.testing.assert_array_equal(
        np.sort(order, axis=1), np.tile(np.arange(num_tokens), (64, 1))
    )
    if num_tokens >= 16:
        assert len({tuple(row) for row in order}) == 64


def test_random_order_is_uniform():
    order = np.asarray(random_order(KEY, 4096, 16))
    counts = np.stack([np.bincount(column, minlength=16) for column in order.T])
    assert uniform(counts)
    # Neighbours too: a shuffle may be right at every place and wrong in pairs.
    pairs = np.bincount(order[:, 0] * 16 + order[:, 1], minlength=256).reshape(16, 16)
    assert not pairs.diagonal().any()
    assert uniform(pairs[~np.eye(16, dtype=bool)])


def test_random_order_depends_on_the_key_alone():
    orders = [random_order(key, 4, 16) for key in jax.random.split(KEY, 2)]
    assert (orders[0] != orders[1]).any()
    np.testing.assert_array_equal(random_order(KEY, 4, 16), random_order(KEY, 4, 16))


def draw(key):
    return {
        "ids": random_ids(key, 16, 196, 49),
        "cells": random_cells(key, 16, (14, 14), 2, 0.6),
        "prefix": prefix_lengths(key, 16, 256),
    }


def test_masks_are_the_same_on_one_device_and_on_many():
    devices = jax.devices()
    count = math.gcd(len(devices), 16)
    mesh = Mesh(np.array(devices[:count]), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    alone = jax.jit(draw)(KEY)
    spread = jax.jit(draw, out_shardings=split)(KEY)
    for one, many in zip(jax.tree.leaves(alone), jax.tree.leaves(spread), strict=True):
        assert len(many.sharding.device_set) == count
        np.testing.assert_array_equal(one, many)


@pytest.mark.parametrize(("num_tokens", "kept"), [(196, 49), (256, 64)])
def test_the_counts_of_mae(num_tokens, kept):
    keep, drop = random_ids(KEY, 8, num_tokens, kept)
    assert (keep.shape, drop.shape) == ((8, kept), (8, num_tokens - kept))
    hidden = hidden_from_ids(drop, num_tokens)
    np.testing.assert_array_equal(hidden.sum(axis=1), num_tokens - kept)
    assert not np.take_along_axis(np.asarray(hidden), np.asarray(keep), 1).any()


def test_arrays_of_other_axes_are_refused():
    """In the tests every call is checked against the shapes of its signature."""
    ids = jnp.zeros((4, 2), jnp.int32)
    with pytest.raises(jaxtyping.TypeCheckError):
        masking.take(jnp.zeros((4, 16)), ids)
    with pytest.raises(jaxtyping.TypeCheckError):
        masking.take(jnp.zeros((3, 16, 3)), ids)


def test_put_back_undoes_take():
    x = jax.random.normal(KEY, (4, 16, 3))
    order = random_order(KEY, 4, 16)
    shuffled = masking.take(x, order)
    np.testing.assert_array_equal(shuffled[2, 5], x[2, order[2, 5]])
    assert (shuffled != x).any()
    np.testing.assert_array_equal(masking.put_back(shuffled, order), x)


@pytest.mark.parametrize("case", ["192_32_4", "224_32_16", "32_8_4"])
def test_cells_of_simmim(case):
    """Counts of the official generator, and its chances."""
    golden = official.load("masks")
    sizes = golden.config["simmim"][case]
    output = {
        name.rpartition("/")[2]: value
        for name, value in golden.output.items()
        if name.startswith(f"simmim_{case}/")
    }
    side = sizes["input_size"] // sizes["model_patch_size"]
    cell = sizes["mask_patch_size"] // sizes["model_patch_size"]
    assert output["mask_shape"].tolist() == [side, side]
    ratio = sizes["mask_ratio"]
    count = masking.num_cells_hidden(int(output["cell_count"]), ratio)
    assert count == output["masked_cells"]
    hidden = np.asarray(random_cells(KEY, 2048, (side, side), cell, ratio))
    np.testing.assert_array_equal(hidden.sum(axis=1), output["masked_patches"])
    cells = hidden.reshape(2048, side // cell, cell, side // cell, cell)
    coarse = cells[:, :, :1, :, :1]
    np.testing.assert_array_equal(cells, np.broadcast_to(coarse, cells.shape))
    assert uniform(coarse.sum(axis=0))
    # 2,048 masks here and 20,000 there: five standard errors.
    frequency = hidden.reshape(2048, side, side).mean(axis=0)
    assert np.abs(frequency - output["cell_frequency"]).max() < 0.06


@pytest.mark.parametrize(
    ("cells", "count"), [(36, 22), (49, 30), (16, 10), (10, 6), (5, 3)]
)
def test_counts_are_rounded_up(cells, count):
    assert masking.num_cells_hidden(cells, 0.6) == count


def test_cells_of_a_grid_that_is_not_square():
    hidden = np.asarray(random_cells(KEY, 32, (4, 6), 2, 0.5))
    cells = hidden.reshape(32, 2, 2, 3, 2)
    assert (cells.all(axis=(2, 4)) | ~cells.any(axis=(2, 4))).all()
    np.testing.assert_array_equal(hidden.sum(axis=1), 12)


BLOCKS = {
    "beit_14x14_75": ((14, 14), 75, 16),
    "beit_8x8_26": ((8, 8), 26, 4),
    "beit_8x8_26_min6": ((8, 8), 26, 6),
}


@pytest.mark.parametrize("case", BLOCKS)
def test_blocks_of_beit(case):
    """The distribution of 20,000 masks drawn by the official generator."""
    grid, most, smallest = BLOCKS[case]
    golden = official.load("masks")
    hidden = np.asarray(block_wise(KEY, 8192, grid, most, smallest))
    counts = np.bincount(hidden.sum(axis=1), minlength=most + 1)
    assert len(counts) == most + 1, "never more"
    wanted = golden.output[f"{case}/count_histogram"]
    few = wanted < 40
    both = [np.append(c[~few], c[few].sum()) for c in (counts, wanted)]
    assert stats.chi2_contingency([c[both[1] > 0] for c in both]).pvalue > 1e-3
    frequency = hidden.mean(axis=0).reshape(grid)
    theirs = golden.output[f"{case}/cell_frequency"]
    np.testing.assert_allclose(frequency, theirs, atol=0.025)
    # Neighbours that are both hidden: how blocky the masks are.
    square = hidden.reshape(-1, *grid)
    pairs = (square[:, 1:] & square[:, :-1]).sum(axis=(1, 2))
    pairs += (square[:, :, 1:] & square[:, :, :-1]).sum(axis=(1, 2))
    wanted_pairs = float(golden.output[f"{case}/mean_adjacent_masked_pairs"])
    np.testing.assert_allclose(pairs.mean(), wanted_pairs, rtol=0.005)


def test_blocks_are_the_same_on_one_device_and_on_many():
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    cut = NamedSharding(mesh, PartitionSpec("data"))
    draw = functools.partial(masking.block_wise, KEY, 16, (14, 14), 75)
    np.testing.assert_array_equal(jax.jit(draw)(), jax.jit(draw, out_shardings=cut)())


@pytest.mark.parametrize(("grid", "kept"), [((14, 14), 49), ((8, 6), 24), ((4, 4), 4)])
def test_blocks_of_mae_hide_exactly_so_many(grid, kept):
    num_tokens = grid[0] * grid[1]
    keep, drop = block_ids(KEY, 256, grid, kept, max(1, num_tokens * 16 // 196))
    assert keep.shape == (256, kept)
    assert keep.dtype == drop.dtype == np.int32
    both = np.sort(np.concatenate([keep, drop], axis=1), axis=1)
    np.testing.assert_array_equal(both, np.tile(np.arange(num_tokens), (256, 1)))
    hidden = np.asarray(hidden_from_ids(drop, num_tokens)).reshape(-1, *grid)
    pairs = (hidden[:, 1:] & hidden[:, :-1]).sum() / hidden.sum()
    apart = random_ids(KEY, 256, num_tokens, kept)[1]
    other = np.asarray(hidden_from_ids(apart, num_tokens))
    other = other.reshape(-1, *grid)
    assert pairs > 1.05 * (other[:, 1:] & other[:, :-1]).sum() / other.sum()


def test_a_grid_keeps_every_fourth_patch():
    keep, drop = masking.grid_ids(2, (4, 6))
    assert np.asarray(keep).tolist() == [[0, 2, 4, 12, 14, 16]] * 2
    both = np.sort(np.concatenate([keep, drop], axis=1), axis=1)
    np.testing.assert_array_equal(both, np.tile(np.arange(24), (2, 1)))


def test_first_ids_are_the_hidden_places_in_order():
    hidden = np.random.default_rng(0).random((64, 30)) < 0.4
    ids = np.asarray(masking.first_ids(jnp.asarray(hidden), 15))
    for row, found in zip(hidden, ids, strict=True):
        true = np.flatnonzero(row)
        wanted = np.concatenate([true, np.flatnonzero(~row)])[:15]
        np.testing.assert_array_equal(found, wanted)


def test_prefix_lengths_cover_one_to_all_but_one():
    prefix = np.asarray(prefix_lengths(KEY, 8192, 16))
    counts = np.bincount(prefix, minlength=16)
    assert counts[0] == 0
    assert len(counts) == 16
    assert uniform(counts[1:])
    assert set(np.asarray(prefix_lengths(KEY, 8, 2))) == {1}


def test_prefix_mask_of_five_patches_with_two_given():
    mask = masking.PrefixCausal(jnp.asarray([2])).allowed(5)[0]
    rows = ["".join(str(int(seen)) for seen in row) for row in np.asarray(mask)]
    assert rows == ["11000", "11000", "11100", "11110", "11111"]
    hidden = masking.beyond_prefix(jnp.asarray([2]), 5)[0]
    assert np.flatnonzero(hidden).tolist() == [2, 3, 4]


def test_prefix_mask_by_loops():
    prefix = np.arange(1, 9)
    mask = np.asarray(masking.PrefixCausal(jnp.asarray(prefix)).allowed(9))
    hidden = np.asarray(masking.beyond_prefix(jnp.asarray(prefix), 9))
    for b, given in enumerate(prefix):
        for query in range(9):
            assert hidden[b, query] == (query >= given)
            for key in range(9):
                assert mask[b, query, key] == (key <= query or key < given)


def test_masked_mean_weighs_hidden_places_alike():
    """One mean over the batch, not the mean of the samples' means."""
    losses = jnp.asarray([[1.0, 2.0, 90.0], [4.0, 90.0, 90.0]])
    hidden = jnp.asarray([[True, True, False], [True, False, False]])
    assert masking.masked_mean(losses, hidden).item() == pytest.approx(7 / 3)


def test_masked_mean_of_nothing_is_nothing():
    """A part of a batch in which no block was found moves nothing."""
    mean = jax.value_and_grad(masking.masked_mean)
    value, slope = mean(jnp.ones((2, 3)), jnp.zeros((2, 3), bool))
    assert value == 0
    np.testing.assert_array_equal(slope, 0)
