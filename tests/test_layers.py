"""Layers: activations, drop path and dropout, what reads which stream of randomness."""

import dataclasses

import closeness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import errors
from flax import linen as nn
from scipy import stats

from mimjax.backbones import blocks as stacked
from mimjax.backbones import layers, starts

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("gelu_tanh", "expected"),
    [
        (False, (-0.158655, 0.345731, 0.841345, 1.954500)),
        (True, (-0.158808, 0.345714, 0.841192, 1.954598)),
    ],
)
def test_gelu_between_two_layers_that_copy(gelu_tanh, expected):
    spec = layers.Spec(width=1, heads=1, mlp_width=1, gelu_tanh=gelu_tanh)
    one = {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}
    mlp = layers.Mlp(spec).bind({"params": {"up": one, "down": one}})
    x = jnp.asarray([-1.0, 0.5, 1.0, 2.0]).reshape(1, 4, 1)
    y = mlp(x, jnp.asarray(1), train=False)
    np.testing.assert_allclose(y.ravel(), expected, atol=6e-7)


def test_one_half_of_a_swiglu_gates_the_other():
    """silu(x) = x / (1 + exp(-x)), times twice x."""
    spec = layers.Spec(width=1, heads=1, mlp_width=1, swiglu=True)
    up = {"kernel": jnp.asarray([[1.0, 2.0]]), "bias": jnp.zeros(2)}
    down = {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}
    mlp = layers.Mlp(spec).bind({"params": {"up": up, "down": down}})
    x = np.asarray([-1.0, 0.5, 1.0, 2.0], np.float32)
    y = mlp(jnp.asarray(x).reshape(1, 4, 1), jnp.asarray(1), train=False)
    np.testing.assert_allclose(y.ravel(), 2 * x**2 / (1 + np.exp(-x)), rtol=1e-6)


SAMPLES, RATE = 2000, 0.4


@pytest.fixture(scope="module")
def stack():
    """Two layers with drop path on copies of a sample: params -> dropped, plain."""
    spec = layers.Spec(width=8, heads=2, mlp_width=16)
    blocks = stacked.Blocks(spec, depth=2, drop_path=(0.0, RATE))
    x = jnp.broadcast_to(jax.random.normal(KEY, (1, 3, 8)), (SAMPLES, 3, 8))
    params = closeness.random_params(blocks, x)

    @jax.jit
    def apply(params):
        rngs = {"drop": jax.random.key(1)}
        given = {"params": params}
        train, plain = (
            [
                blocks.apply(given, y, train=is_train, chosen=(layer,), rngs=rngs)[1]
                for layer in (1, 2)
            ]
            for y, is_train in ((x, True), (x[:1], False))
        )
        return train, plain

    return params, apply


def test_drop_path_keeps_the_expectation(stack):
    """With one branch silenced a sample has either nothing or the branch over keep."""
    params, apply = stack
    down = jax.tree.map(jnp.zeros_like, params["layers"]["mlp"]["down"])
    mlp = {**params["layers"]["mlp"], "down": down}
    train, plain = apply({"layers": {**params["layers"], "mlp": mlp}})
    same = np.broadcast_to(plain[0], train[0].shape)
    np.testing.assert_allclose(train[0], same, atol=1e-6)
    branch = plain[1] - plain[0]
    added = np.asarray(train[1] - train[0])
    kept = np.abs(added).max(axis=(1, 2)) > 0
    expected = np.broadcast_to(branch / (1 - RATE), added[kept].shape)
    np.testing.assert_allclose(added[kept], expected, atol=1e-5)
    assert stats.binomtest(int(kept.sum()), SAMPLES, 1 - RATE).pvalue > 1e-3


def test_drop_path_is_drawn_for_each_branch_and_sample(stack):
    """The four outcomes of a layer's two branches, in the shares of two free draws."""
    params, apply = stack
    train, plain = apply(params)
    # The first layer is never dropped.
    np.testing.assert_allclose(
        train[0], np.broadcast_to(plain[0], train[0].shape), atol=1e-6
    )
    rows = np.round(np.asarray(train[1]).reshape(SAMPLES, -1), 4)
    outcomes, counts = np.unique(rows, axis=0, return_counts=True)
    assert len(outcomes) == 4
    keep = 1 - RATE
    chances = np.array([keep * keep, keep * RATE, RATE * keep, RATE * RATE])
    chances = np.sort(chances) * SAMPLES
    assert stats.chisquare(np.sort(counts), chances).pvalue > 1e-3


def test_dropout_is_off_unless_training():
    spec = layers.Spec(width=8, heads=2, mlp_width=16, dropout=0.5)
    blocks = stacked.Blocks(spec, depth=1)
    never = stacked.Blocks(dataclasses.replace(spec, dropout=0.0), depth=1)
    x = jnp.broadcast_to(jax.random.normal(KEY, (1, 3, 8)), (4, 3, 8))

    @jax.jit
    def run(params):
        variables = {"params": params}
        train, _ = blocks.apply(variables, x, train=True, rngs={"drop": KEY})
        # No stream of randomness is given here.
        return train, blocks.apply(variables, x)[0], never.apply(variables, x)[0]

    train, plain, without = run(closeness.random_params(blocks, x))
    np.testing.assert_allclose(plain, without, atol=1e-6)
    assert (jnp.abs(train - plain).max(axis=(1, 2)) > 1e-3).all()
    assert jnp.abs(train[0] - train[1]).max() > 1e-3


def test_a_parameter_of_another_shape_is_told_with_its_place():
    mlp = layers.Mlp(layers.Spec(width=8, heads=2, mlp_width=16))
    given = jnp.ones((1, 4, 8)), jnp.asarray(1)
    params = closeness.random_params(mlp, *given, train=False)
    mlp.apply({"params": params}, *given, train=False)
    params["up"]["bias"] = jnp.zeros((1, 16))  # which could be added as well
    with pytest.raises(errors.ScopeParamShapeError, match='"bias" in "/up"'):
        mlp.apply({"params": params}, *given, train=False)


def test_no_name_of_a_parameter_is_used_twice():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self):
            ones = nn.initializers.ones
            return [starts.param(self, "scale", ones, (3,)) for _ in range(2)]

    with pytest.raises(errors.NameInUseError):
        Twice().init(KEY)


def test_attention_ignores_what_the_mask_hides():
    """Hidden keys do not matter at all; a bias matters, and lets heads differ."""
    spec = layers.Spec(width=8, heads=2, mlp_width=16)
    attention = layers.Attention(spec)
    x = jax.random.normal(KEY, (1, 4, 8))
    number = jnp.asarray(1)
    params = closeness.random_params(attention, x, number)
    mask = jnp.ones((1, 4, 4), bool).at[:, :, 3].set(False)
    bias = jnp.zeros((1, 2, 4, 4)).at[..., 3].set(-1e9)
    first_head = bias.at[0, 1].set(0.0)

    @jax.jit
    def run(x):
        variables = {"params": params}
        rows = [(mask, None), (None, bias), (None, first_head)]
        return [attention.apply(variables, x, number, *row) for row in rows]

    masked, biased, one_head = run(x)
    np.testing.assert_array_equal(masked[:, :3], run(x.at[:, 3].set(9.0))[0][:, :3])
    np.testing.assert_allclose(masked, biased, atol=1e-6)
    assert jnp.abs(one_head - biased).max() > 1e-3


def test_a_chosen_layer_is_taken_and_no_output_is_kept_for_it():
    """In bfloat16, with the backward pass computing layers again or not."""
    spec = layers.Spec(width=8, heads=2, mlp_width=16, dtype="bfloat16")
    x = jax.random.normal(KEY, (2, 5, 8), jnp.bfloat16)
    plain = stacked.Blocks(spec, depth=3)
    params = closeness.random_params(plain, x)

    def loss(params, blocks):
        last, mean = blocks.apply({"params": params}, x, train=True, chosen=(2,))
        return jnp.square(mean).sum() + last.astype(jnp.float32).sum(), mean

    gradient = jax.grad(loss, has_aux=True)
    full = stacked.Blocks(spec, depth=3, remat="full")
    grads, mean = jax.jit(gradient, static_argnums=1)(params, plain)
    again, _ = jax.jit(gradient, static_argnums=1)(params, full)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0.05, atol=0.05),
        again,
        grads,
    )
    two = jax.tree.map(lambda leaf: leaf[:2], params)
    early, _ = stacked.Blocks(spec, depth=2).apply({"params": two}, x)
    assert mean.dtype == jnp.float32
    # The compiler may leave out the rounding of a sum that it adds up at once.
    np.testing.assert_allclose(mean, early.astype(jnp.float32), rtol=2**-7)
    steps = str(jax.make_jaxpr(lambda p: gradient(p, full))(params))
    assert "bf16[3,2,5,8]" in steps, "what the layers are computed again from"
    assert "f32[3,2,5,8]" not in steps
