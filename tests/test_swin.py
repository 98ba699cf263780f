"""Swin: windows, shifts, stages; numbers: test_golden, test_parity, test_timm."""

import closeness
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimjax import train
from mimjax.backbones import swin, windows
from mimjax.objectives import classify

# Own calculation from the official code's sizes, with a head of 1,000 classes.
PUBLISHED = {"T": 28_288_354, "S": 49_606_258, "B": 87_768_224, "L": 196_532_476}
SMALL = {"width": 16, "depths": (2, 1), "heads": (2, 4), "window": 4}
IMAGE = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))


def small(**fields):
    return swin.Encoder((32, 32), **{**SMALL, **fields})


def call(module, image, train=False):
    return module(module.embed(image), train=train)


def start(encoder, image=IMAGE):
    """Random parameters."""
    return closeness.random_params(encoder, image, method=call)


def output(encoder, params, image=IMAGE, **more):
    """What comes out."""

    @jax.jit
    def run(params, image):
        return encoder.apply({"params": params}, image, method=call, **more)

    return run(params, image)


@pytest.mark.parametrize("size", PUBLISHED)
def test_sizes_have_the_published_number_of_parameters(size):
    objective = classify.Objective(swin.Encoder(**swin.SIZES[size]), pool="gap")
    batch = {"image": jnp.zeros((1, 224, 224, 3)), "label": jnp.zeros(1, int)}
    shapes = jax.eval_shape(
        lambda: objective.init(jax.random.key(0), batch, train=False)
    )
    assert train.count(shapes["params"]) == PUBLISHED[size]


def test_the_mean_before_the_last_norm_has_a_norm_of_its_own():
    """By hand, whatever the encoder's unused norm is."""
    objective = classify.Objective(small(), num_classes=3, pool="mean")
    batch = {"image": IMAGE, "label": jnp.zeros(2, int)}
    params = closeness.random_params(objective, batch, train=False)

    @jax.jit
    def run(params):
        bound = objective.bind({"params": params})
        mean = bound.encoder.run(bound.encoder.embed(IMAGE))[0].mean(axis=1)
        moments = mean.mean(axis=1, keepdims=True), mean.var(axis=1, keepdims=True)
        normed = (mean - moments[0]) / jnp.sqrt(moments[1] + 1e-5)
        normed = normed * params["fc_norm"]["scale"] + params["fc_norm"]["bias"]
        logits = normed @ params["head"]["kernel"] + params["head"]["bias"]
        return bound.logits(IMAGE), logits

    np.testing.assert_allclose(*run(params), atol=1e-4)
    gap = closeness.random_params(objective.clone(pool="gap"), batch, train=False)
    same = jax.tree.map(jnp.shape, params["encoder"])
    assert same == jax.tree.map(jnp.shape, gap["encoder"])


def test_shifted_windows_keep_apart_what_was_no_neighbour():
    """The labels of a side of 8 with windows of 4 shifted by 2: 0 0 0 0 1 1 2 2."""
    side = np.asarray([0, 0, 0, 0, 1, 1, 2, 2])
    label = 3 * side[:, None] + side[None]
    cut = [label[r : r + 4, c : c + 4] for r in (0, 4) for c in (0, 4)]
    wanted = np.stack([w.reshape(-1, 1) != w.reshape(1, -1) for w in cut])
    np.testing.assert_array_equal(windows.apart((8, 8), 4, 2), wanted)


@pytest.mark.parametrize(("depth", "reached"), [(1, 16), (2, 36)])
def test_a_token_reaches_its_window_and_after_a_shift_its_neighbours(depth, reached):
    """An 8 x 8 grid: the first patch is in a corner; a shift by 2 adds 2 rows more."""
    encoder = small(depths=(depth,), heads=(2,))
    params = start(encoder)
    moved = output(encoder, params, IMAGE.at[:, :4, :4].add(1.0))
    change = (moved != output(encoder, params)).any(axis=(0, 2)).reshape(8, 8)
    side = round(reached**0.5)
    assert change[:side, :side].all()
    assert change.sum() == reached


@pytest.mark.parametrize("fields", [{"unroll": 9}, {"remat": "full"}])
def test_neither_unrolling_nor_remat_changes_a_number(fields):
    plain, other = small(), small(**fields)
    params = start(plain)

    def loss(params, encoder):
        return jnp.square(output(encoder, params)).mean()

    for ours, theirs in zip(
        jax.tree.leaves(jax.jit(jax.grad(loss), static_argnums=1)(params, other)),
        jax.tree.leaves(jax.jit(jax.grad(loss), static_argnums=1)(params, plain)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_drop_path_rises_over_all_stages():
    encoder = small(depths=(3, 2), drop_path=0.4)
    bound = encoder.bind({"params": start(encoder)})
    ends = [blocks.drop_path for blocks in bound.stages]
    np.testing.assert_allclose(ends, [(0.0, 0.2), (0.3, 0.4)])
    rngs = {"drop": jax.random.key(5)}
    dropped = output(encoder, start(encoder), train=True, rngs=rngs)
    assert (dropped != output(encoder, start(encoder))).any()


def test_tokens_are_dropped_before_the_first_stage():
    """Half of them, and the others count twice; layers that give 0 leave them so."""
    encoder = small(depths=(1,), heads=(2,), dropout=0.5)
    params = start(encoder)
    params["stages_0"] = jax.tree.map(jnp.zeros_like, params["stages_0"])

    @jax.jit
    def run(params):
        def call(module):
            tokens = module.embed(IMAGE)
            return tokens, module.run(tokens, train=True)[0]

        rngs = {"drop": jax.random.key(5)}
        return encoder.apply({"params": params}, method=call, rngs=rngs)

    tokens, dropped = run(params)
    left = dropped != 0
    assert 0.4 < left.mean() < 0.6
    np.testing.assert_allclose(dropped, jnp.where(left, 2 * tokens, 0.0), rtol=1e-6)


def test_grids_need_not_be_square_and_tokens_stand_for_cells():
    encoder = swin.Encoder((32, 64), **SMALL)
    assert (encoder.grid, encoder.cell, encoder.out_width) == ((8, 16), (8, 8), 32)
    image = jnp.concatenate([IMAGE, IMAGE], axis=2)
    params = start(encoder, image)
    assert output(encoder, params, image).shape == (2, 4 * 8, 32)
    take = jax.jit(lambda p: encoder.apply({"params": p}, image, method="features"))
    features = take(params)
    assert (features.shape, features.dtype) == ((2, 32), jnp.float32)
    assert encoder.layer_widths == (16, 16, 32)


def test_features_are_those_of_the_layers_chosen():
    """Those of an encoder that ends there; the second layer is shifted."""
    encoder, params = small(), start(small())

    @jax.jit
    def take(params):
        bound = encoder.bind({"params": params})
        tokens, ends = bound.embed(IMAGE), []
        for depth in (1, 2):
            cut = jax.tree.map(lambda x, d=depth: x[:d], params["stages_0"])
            shallow = small(depths=(depth,), heads=(2,))
            shallow = shallow.bind({"params": {**params, "stages_0": cut}})
            ends.append(shallow.run(tokens)[0])
        ends = [ends[0], (ends[0] + ends[1]) / 2, bound.run(tokens)[0]]
        chosen = ((1,), (1, 2), (3,))
        found = [bound.features(IMAGE, "max", layers) for layers in chosen]
        return found, [end.max(axis=1) for end in ends]

    for ours, theirs in zip(*take(params), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_weights_start_as_in_the_official_code():
    encoder = swin.Encoder((32, 32), **{**SMALL, "width": 64})
    init = jax.jit(lambda key: encoder.init(key, IMAGE, method=call)["params"])
    params = jax.tree.map(np.asarray, init(jax.random.key(1)))
    layer = params["stages_1"]["layers"]
    for weights in (
        layer["attn"]["qkv"]["kernel"],
        layer["mlp"]["down"]["kernel"],
        layer["relative_table"],
        params["merges_0"]["reduction"]["kernel"],
    ):
        assert weights.std() == pytest.approx(0.02, rel=0.1)
        assert np.abs(weights).max() > 0.04, "a normal that is not cut at 2 deviations"
    bound = 48**-0.5
    for name in ("kernel", "bias"):
        assert 0.8 * bound < np.abs(params["patch"][name]).max() <= bound
    assert not layer["mlp"]["up"]["bias"].any()
    assert (layer["norm1"]["scale"] == np.float32(1)).all()
