"""The encoder: one parameter tree, any image, and what may not change a number."""

import closeness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mimjax import masking, patches
from mimjax.backbones import vit
from mimjax.objectives import aim, classify, mae, simmim

KEY = jax.random.key(0)
IMAGE = jax.random.normal(jax.random.key(7), (4, 16, 16, 3))


def start(encoder):
    """Random parameters of an encoder."""
    image = jnp.zeros((1, *encoder.image_size, encoder.channels))
    return closeness.random_params(encoder, method=lambda m: m(m.embed(image)))


def test_a_table_for_each_layer_is_the_shared_one_where_they_are_alike(encoder):
    """And each is its layer's own: two that change places change the output."""
    shared, apart = (encoder(position=x) for x in ("relative", "relative_layers"))
    params = start(shared)
    table = params.pop("relative_table")
    stack = params["blocks"]["layers"]

    def run(encoder, params):
        return encoder.apply(
            {"params": params}, IMAGE, method=lambda m, x: m(m.embed(x))
        )

    def with_tables(tables):
        return {**params, "blocks": {"layers": {**stack, "relative_table": tables}}}

    one = jax.jit(lambda: run(shared, {**params, "relative_table": table}))()
    run_apart = jax.jit(lambda tables: run(apart, with_tables(tables)))
    np.testing.assert_allclose(run_apart(jnp.stack([table, table])), one, atol=1e-5)
    two = jnp.stack([table, -table])
    assert jnp.abs(run_apart(two) - run_apart(two[::-1])).max() > 1e-3
    names = shapes(classify.Objective(apart))
    rows = (2 * 4 - 1) ** 2 + 3
    assert names["encoder/blocks/layers/relative_table"][0] == (2, rows, 4)
    assert "encoder/relative_table" not in names


def shapes(objective):
    """Shape and dtype of every parameter, nothing computed."""
    encoder = objective.encoder
    image = jnp.zeros((2, *encoder.image_size, encoder.channels))
    batch = {"image": image, "label": jnp.zeros(2, jnp.int32)}
    variables = jax.eval_shape(
        lambda key: objective.init({"params": key, "mask": key}, batch, train=False),
        KEY,
    )
    flat = flatten_dict(variables["params"], sep="/")
    return {name: (leaf.shape, leaf.dtype) for name, leaf in flat.items()}


def encoder_shapes(objective):
    return {k: v for k, v in shapes(objective).items() if k.startswith("encoder/")}


def test_every_objective_has_the_same_encoder_tree(encoder):
    for fields in ({}, {"position": "learned", "qkv_bias": "qv", "layer_scale": 0.1}):
        trees = [
            encoder_shapes(mae.Objective(encoder(**fields))),
            encoder_shapes(simmim.Objective(encoder(**fields), mask_cell=8)),
            encoder_shapes(classify.Objective(encoder(**fields))),
            encoder_shapes(classify.Objective(encoder(**fields), pool="mean")),
        ]
        assert all(tree == trees[0] for tree in trees)
    bare = encoder(cls=False)
    classifiers = [classify.Objective(bare, pool=pool) for pool in ("gap", "mean")]
    trees = [encoder_shapes(x) for x in (aim.Objective(bare), *classifiers)]
    assert trees[0] == trees[1] == trees[2]


@pytest.mark.parametrize(
    "change",
    [{"unroll": 2}, {"remat": "dots"}, {"remat": "full"}, {"dtype": "bfloat16"}],
)
def test_the_tree_does_not_depend_on_how_it_is_computed(encoder, change):
    for make, fields in ((mae.Objective, {}), (aim.Objective, {"cls": False})):
        plain = shapes(make(encoder(**fields)))
        assert shapes(make(encoder(**fields, **change))) == plain
        assert {dtype for _, dtype in plain.values()} == {np.dtype("float32")}


def test_layers_are_the_leading_axis(encoder):
    flat = shapes(classify.Objective(encoder(depth=3, width=24, heads=4)))
    name = "encoder/blocks/layers/"
    assert flat[f"{name}attn/qkv/kernel"][0] == (3, 24, 3, 4, 6)
    assert flat[f"{name}attn/out/kernel"][0] == (3, 4, 6, 24)
    assert all(v[0][0] == 3 for k, v in flat.items() if k.startswith(name))


@pytest.fixture(scope="module")
def reference():
    """A deeper encoder, its parameters, and its loss and gradients."""
    encoder = vit.Encoder((16, 16), (4, 4), width=16, depth=3, heads=2)
    params = start(encoder)
    return encoder, params, loss_and_gradients(encoder, params)


def loss_and_gradients(encoder, params):
    def loss(params):
        bound = encoder.bind({"params": params})
        return jnp.square(bound(bound.embed(IMAGE)) - 0.3).astype(jnp.float32).mean()

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize(
    ("change", "tolerance"),
    [
        ({"unroll": 3, "remat": "dots"}, 1e-6),
        ({"unroll": 2, "remat": "full"}, 1e-6),
        ({"dtype": "bfloat16"}, 0.1),
    ],
)
def test_how_it_is_computed_does_not_change_the_numbers(reference, change, tolerance):
    encoder, params, (loss, grads) = reference
    other, others = loss_and_gradients(encoder.clone(**change), params)
    np.testing.assert_allclose(other, loss, rtol=tolerance)
    most = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grads))
    for ours, theirs in zip(
        jax.tree.leaves(others), jax.tree.leaves(grads), strict=True
    ):
        # Of each by itself, but for what is nothing but rounding.
        scale = max(float(jnp.abs(theirs).max()), 1e-3 * most)
        np.testing.assert_allclose(ours, theirs, atol=tolerance * scale)
    if tolerance > 1e-3:
        assert loss != other


def test_outputs_of_every_layer(reference):
    """The last one normed is the encoder's output; the first is that of one layer."""
    encoder, params, _ = reference

    @jax.jit
    def run(params):
        bound = encoder.bind({"params": params})
        tokens = bound.embed(IMAGE)
        last, mean = bound.run(tokens, chosen=(1, 3))
        every = [bound.run(tokens, chosen=(layer,))[1] for layer in (1, 2, 3)]
        pooled = bound.features(IMAGE, "mean", (1, 3)), bound.features(IMAGE, "cls")
        return last, every, mean, bound.norm(last), bound(tokens), pooled

    last, every, mean, normed, output, pooled = run(params)
    np.testing.assert_array_equal(every[-1], last)
    np.testing.assert_allclose(mean, (every[0] + every[2]) / 2, atol=1e-6)
    np.testing.assert_allclose(pooled[0], mean[:, 1:].mean(axis=1), atol=1e-6)
    np.testing.assert_array_equal(pooled[1], output[:, 0])
    np.testing.assert_allclose(normed, output, atol=1e-6)
    first = jax.tree.map(lambda x: x[:1], params["blocks"])
    shallow = encoder.clone(depth=1).bind({"params": {**params, "blocks": first}})
    one, _ = shallow.run(shallow.embed(IMAGE))
    np.testing.assert_allclose(every[0], one, atol=1e-5)


@pytest.mark.parametrize("position", ["sincos", "learned", "none"])
def test_positions_follow_the_ids(encoder, position):
    """Tokens taken out before positions are added get those of their ids."""
    small = encoder(position=position, depth=1)
    params = start(small)
    ids = masking.random_ids(KEY, 4, 16, 5)[0]

    @jax.jit
    def run(params):
        bound = small.bind({"params": params})
        whole = bound.add_positions(bound.embed(IMAGE), None)
        return whole, bound.add_positions(bound.embed(IMAGE, ids), ids)

    whole, part = run(params)
    assert whole.shape == (4, 17, 32)
    np.testing.assert_array_equal(part[:, 0], whole[:, 0])
    expected = masking.take(whole[:, 1:], ids)
    np.testing.assert_allclose(part[:, 1:], expected, atol=1e-5)


@pytest.mark.parametrize("position", ["relative", "relative_layers"])
def test_a_relative_table_cannot_follow_ids(encoder, position):
    small = encoder(position=position)
    with pytest.raises(ValueError, match="all patches in order"):
        jax.eval_shape(small.init, KEY, jnp.zeros((1, 4, 32)), jnp.arange(4)[None])


@pytest.mark.parametrize("cls", [True, False])
def test_registers_come_after_the_class_token_and_have_no_place(encoder, cls):
    small = encoder(position="learned", depth=1, registers=3, cls=cls)
    params = start(small)
    ids = masking.random_ids(KEY, 4, 16, 5)[0]

    @jax.jit
    def run(params):
        bound = small.bind({"params": params})
        tokens = bound.embed(IMAGE)
        placed = bound.add_positions(tokens, None)
        part = bound.add_positions(masking.take(tokens, ids), ids)
        return tokens, placed, part, bound(tokens), bound.features(IMAGE)

    tokens, placed, part, output, mean = run(params)
    table = params["pos_embed"][0]
    registers = np.broadcast_to(params["register_tokens"], (4, 3, 32))
    every = jnp.broadcast_to(jnp.arange(16), (4, 16))
    for rows, found in ((every, placed), (ids, part)):
        np.testing.assert_array_equal(found[:, cls : cls + 3], registers)
        wanted = masking.take(tokens + table[int(cls) :], rows)
        np.testing.assert_allclose(found[:, cls + 3 :], wanted, atol=1e-6)
    if cls:
        first = params["cls_token"][0, 0] + table[0]
        np.testing.assert_allclose(placed[0, 0], first, atol=1e-6)
    assert output.shape == (4, small.num_prefix + 16, 32)
    assert small.num_prefix == cls + 3
    np.testing.assert_allclose(mean, output[:, cls + 3 :].mean(axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("size", "patch", "channels"),
    [((8, 24), (4, 4), 1), ((12, 8), (4, 2), 5), ((16, 16), (16, 16), 3)],
)
def test_any_image(encoder, size, patch, channels):
    """The embedding of each patch by hand, and the shape of what comes out."""
    fields = {"image_size": size, "patch_size": patch, "channels": channels}
    small = encoder(**fields, depth=1)
    params = start(small)
    image = jax.random.normal(KEY, (2, *size, channels))
    bound = small.bind({"params": params})
    tokens = np.asarray(bound.embed(image))
    rows, columns = patches.grid_of(size, patch)
    assert small.grid == (rows, columns)
    for n in range(rows * columns):
        top, left = n // columns * patch[0], n % columns * patch[1]
        cut = np.asarray(image)[:, top : top + patch[0], left : left + patch[1]]
        by_hand = (
            cut.reshape(2, -1) @ params["patch"]["kernel"] + params["patch"]["bias"]
        )
        np.testing.assert_allclose(tokens[:, n], by_hand, atol=1e-5)
    output = jax.eval_shape(bound, tokens)
    assert output.shape == (2, rows * columns + 1, 32)


def test_features_are_one_vector_an_image(encoder):
    small = encoder(depth=1)
    params = start(small)

    @jax.jit
    def run(params):
        bound = small.bind({"params": params})
        output = bound(bound.embed(IMAGE))
        return output, bound.features(IMAGE), bound.features(IMAGE, "cls")

    output, mean, cls = run(params)
    np.testing.assert_allclose(mean, output[:, 1:].mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(cls, output[:, 0], atol=1e-6)
