"""Gradients written by hand, beside those of plain forms and differences in float64."""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimjax.backbones import attention, primitives


def drawn(*shapes, dtype=np.float64, seed=0):
    """Normal numbers of those shapes."""
    random = np.random.default_rng(seed)
    return [jnp.asarray(random.normal(size=x).astype(dtype)) for x in shapes]


def plain_linear(x, kernel, bias, axes):
    y = jnp.tensordot(x, kernel, axes)
    return y if bias is None else y + bias


def plain_norm(x, scale, bias, eps):
    variance = x.var(axis=-1, keepdims=True)
    return (x - x.mean(axis=-1, keepdims=True)) / jnp.sqrt(
        variance + eps
    ) * scale + bias


def plain_attend(qkv, bias, allowed):
    q, k, v = (qkv[:, :, i] for i in range(3))
    scores = jnp.einsum("bqah,bkah->baqk", q, k) / np.sqrt(q.shape[-1])
    if bias is not None:
        scores += jnp.tile(bias, (len(scores) // len(bias), 1, 1, 1))
    if allowed is not None:
        scores = jnp.where(allowed[:, None], scores, -jnp.inf)
    return jnp.einsum("baqk,bkah->bqah", jax.nn.softmax(scores), v)


# Above the diagonal nothing is seen; a sample sees all.
SEEN = jnp.asarray(np.stack([np.tril(np.ones((5, 5), bool)), np.ones((5, 5), bool)]))
# Name: the function, its plain form, shapes of what has a gradient, what has none.
CASES = {
    "linear": (primitives.linear, plain_linear, [(2, 5, 6), (6, 8), (8,)], [1]),
    "linear that narrows": (
        primitives.linear,
        plain_linear,
        [(2, 5, 8), (8, 3), (3,)],
        [1],
    ),
    "linear of rows": (primitives.linear, plain_linear, [(5, 6), (6, 3), (3,)], [1]),
    "linear to heads": (
        primitives.linear,
        plain_linear,
        [(2, 5, 6), (6, 3, 2, 4), (3, 2, 4)],
        [1],
    ),
    "linear of heads": (
        primitives.linear,
        plain_linear,
        [(2, 5, 2, 4), (2, 4, 6), (6,)],
        [2],
    ),
    "gelu": (
        primitives.gelu,
        lambda x: jax.nn.gelu(x, approximate=False),
        [(7, 9)],
        [],
    ),
    "gelu by tanh": (
        lambda x: primitives.gelu(x, True),
        lambda x: jax.nn.gelu(x, approximate=True),
        [(7, 9)],
        [],
    ),
    "scale": (primitives.scaled, lambda x, scale: x * scale, [(2, 5, 8), (8,)], []),
    "joined": (
        attention.joined,
        lambda q, v: jnp.stack([q, 0 * q, v]),
        [(2, 4), (2, 4)],
        [],
    ),
    "norm": (primitives.layer_norm, plain_norm, [(2, 5, 8), (8,), (8,)], [1e-6]),
    "attention": (attention.attend, plain_attend, [(4, 5, 3, 2, 4)], [None, None]),
    "attention, biased": (
        lambda qkv, bias: attention.attend(qkv, bias, None),
        lambda qkv, bias: plain_attend(qkv, bias, None),
        [(4, 5, 3, 2, 4), (2, 2, 5, 5)],
        [],
    ),
    "attention, biased and masked": (
        lambda qkv, bias: attention.attend(qkv, bias, SEEN),
        lambda qkv, bias: plain_attend(qkv, bias, SEEN),
        [(2, 5, 3, 2, 4), (1, 2, 5, 5)],
        [],
    ),
    "attention, masked": (
        attention.attend,
        plain_attend,
        [(2, 5, 3, 2, 4)],
        [None, SEEN],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_of_float64(name):
    given, plain, shapes, rest = CASES[name]
    with jax.enable_x64(True):
        inputs = drawn(*shapes)

        def ours(*x):
            return given(*x, *rest)

        def theirs(*x):
            return plain(*x, *rest)

        @jax.jit
        def run(inputs, g, way):
            (y, back), (expected, plain_back) = (
                jax.vjp(function, *inputs) for function in (ours, theirs)
            )
            # Along one direction, by central differences.
            ends = [
                ours(*(x + step * d for x, d in zip(inputs, way, strict=True)))
                for step in (1e-6, -1e-6)
            ]
            slope = sum((x * d).sum() for x, d in zip(back(g), way, strict=True))
            slopes = slope, ((ends[0] - ends[1]) * g).sum() / 2e-6
            return (y, expected), (back(g), plain_back(g)), slopes

        (g,) = drawn(jax.eval_shape(ours, *inputs).shape, seed=1)
        (y, expected), gradients, slopes = run(inputs, g, drawn(*shapes, seed=2))
        assert y.dtype == np.float64
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
        for found, known in zip(*gradients, strict=True):
            np.testing.assert_allclose(found, known, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(*slopes, rtol=1e-6)


def test_without_a_bias_it_has_no_gradient():
    x, kernel = drawn((2, 5, 6), (6, 8), dtype=np.float32)
    _, back = jax.vjp(lambda x, k: primitives.linear(x, k, None, 1), x, kernel)
    (g,) = drawn((2, 5, 8), dtype=np.float32, seed=1)
    dx, dk = back(g)
    np.testing.assert_allclose(dx, g @ kernel.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        dk, jnp.einsum("btc,btd->cd", x, g), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("tanh", [False, True])
def test_slope_of_gelu_is_that_of_its_formula(tanh):
    """Which is known in float64 by automatic differentiation."""
    x = np.linspace(-12, 12, 48001)
    with jax.enable_x64(True):
        plain = jax.grad(lambda x: jax.nn.gelu(x, approximate=tanh).sum())
        known = np.asarray(plain(jnp.asarray(x)))
    found = primitives.slope_of_gelu(jnp.asarray(x, jnp.float32), tanh)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, known, rtol=0, atol=5e-7)
    far = jnp.asarray([-np.inf, -1e30, 1e30, np.inf, np.nan], jnp.float32)
    found = primitives.slope_of_gelu(far, tanh)
    np.testing.assert_allclose(found, [0, 0, 1, 1, np.nan], rtol=0, atol=5e-7)


def test_what_is_not_rounded_has_factors_that_are():
    x, kernel, bias = drawn((2, 5, 64), (64, 8), (8,), dtype=np.float32)
    narrow = x.astype(jnp.bfloat16)
    y = primitives.linear(narrow, kernel, bias, 1, False)
    assert y.dtype == np.float32
    left, right = (
        np.asarray(z, np.float64) for z in (narrow, kernel.astype(jnp.bfloat16))
    )
    np.testing.assert_allclose(y, left @ right + bias, rtol=1e-5, atol=1e-5)
    _, back = jax.vjp(lambda *x: primitives.linear(*x, 1, False), narrow, kernel, bias)
    dx, d_kernel, d_bias = back(jnp.ones_like(y))
    assert [z.dtype for z in (dx, d_kernel, d_bias)] == [
        jnp.bfloat16,
        *[np.float32] * 2,
    ]
    np.testing.assert_array_equal(d_bias, np.full(8, 10.0))


def close(found, known):
    """Within what a few roundings to bfloat16 make of it."""
    scale = float(np.abs(known).max())
    error = np.abs(np.asarray(found, np.float64) - np.asarray(known)).max()
    assert error <= 2**-6 * scale, (error, scale)


def forward_and_back(function, rest, *inputs):
    """The result and the gradients, all from one direction of numbers."""
    y, back = jax.vjp(lambda *x: function(*x, *rest), *inputs)
    (g,) = drawn(y.shape, dtype=jnp.bfloat16, seed=1)
    return y, *back(g.astype(y.dtype))


def run_in_bfloat16():
    """Everything forward and back in a few shapes; for a process of its own."""
    for rows, tokens, width, heads in ((3, 26, 96, 3), (2, 197, 128, 4), (2, 5, 66, 1)):
        qkv = rows, tokens, 3, heads, width // heads
        up = width, 4 * width
        shapes = {
            "linear": [(rows, tokens, width), up, up[1:]],
            "linear that narrows": [(rows, tokens, 4 * width), up[::-1], (width,)],
            "linear of rows": [(rows, width), (width, 10), (10,)],
            "linear to heads": [(rows, tokens, width), (width, *qkv[2:]), qkv[2:]],
            "linear of heads": [(*qkv[:2], *qkv[3:]), (*qkv[3:], width), (width,)],
            "gelu": [(rows, tokens, width)],
            "gelu by tanh": [(rows, tokens, width)],
            "scale": [(rows, tokens, width), (width,)],
            "norm": [(rows, tokens, width), (width,), (width,)],
            "attention": [qkv],
            "attention, biased": [qkv, (rows, heads, tokens, tokens)],
        }
        # Parameters are float32 always.
        wide = {name: drawn(*given, dtype=np.float32) for name, given in shapes.items()}
        narrow = {k: [x[0].astype(jnp.bfloat16), *x[1:]] for k, x in wide.items()}
        wide = {k: [x[0].astype(jnp.float32), *x[1:]] for k, x in narrow.items()}
        ours, plain = (
            jax.jit(
                lambda given, place=place: {
                    name: forward_and_back(CASES[name][place], CASES[name][3], *x)
                    for name, x in given.items()
                }
            )(given)
            for place, given in enumerate((narrow, wide))
        )
        for name, known in plain.items():
            found = ours[name]
            kinds = [jnp.bfloat16] * 2 + [jnp.float32] * (len(found) - 2)
            assert [x.dtype for x in found] == kinds, name
            for x, y in zip(found, known, strict=True):
                close(x, y)


def factors_of(function, *x):
    """The types of the factors of all products in the program."""
    text = jax.jit(function).lower(*x).compile().as_text()
    shapes = dict(re.findall(r"%?([\w.\-]+) = (\w+)\[", text))
    found = re.findall(r" dot\(%?([\w.\-]+), %?([\w.\-]+)\)", text)
    return [shapes[name] for pair in found for name in pair]


def run_in_products_of_bfloat16():
    """Attention's seven, where a plain one is; for a process of its own.

    A product whose form its library does not know XLA makes one of float32.
    """
    (x,) = drawn((64, 64), dtype=jnp.bfloat16)
    kinds = set(factors_of(lambda x: primitives.product(x, x, (1,), (0,)), x))
    (qkv,) = drawn((2, 50, 3, 4, 32), dtype=jnp.bfloat16)
    (g,) = drawn((2, 50, 4, 32), dtype=jnp.bfloat16, seed=1)

    def both(qkv, g):
        y, back = jax.vjp(lambda x: attention.attend(x, None, None), qkv)
        return y, back(g)

    found = factors_of(both, qkv, g)
    assert len(found) == 14
    assert set(found) == kinds, (found, kinds)


def test_bfloat16_as_a_run_compiles_it():
    """Elsewhere the tests leave out the compiler's rewriting of products.

    It knows some forms of bfloat16 and has refused others, at the first call.
    """
    left_out = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS")
    environment = {k: v for k, v in os.environ.items() if k not in left_out}
    code = "import test_primitives as t; t.run_in_bfloat16()"
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}; t.run_in_products_of_bfloat16()"],
        env={**environment, "PYTHONPATH": os.path.dirname(__file__)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
