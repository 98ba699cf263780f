"""Products of eight-bit numbers: against numpy's, and those of bfloat16."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tiny

from mimjax.backbones import float8, primitives

SHAPES = {
    # What comes in, the kernel, the axes they share: qkv, what joins heads, a layer.
    "apart": ((3, 5, 8), (8, 3, 2, 4), 1),
    "joined": ((3, 5, 2, 4), (2, 4, 8), 2),
    "flat": ((6, 8), (8, 12), 1),
}


FORTH, BACK = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2


def arrays(kind, dtype="float32"):
    shape, kernel, axes = SHAPES[kind]
    noise = np.random.default_rng(0)
    out = kernel[axes:]
    back = (*shape[: len(shape) - axes], *out)
    made = [noise.standard_normal(s) for s in (shape, kernel, out, back)]
    x, w, b, g = (jnp.asarray(y, jnp.float32) for y in made)
    return x.astype(dtype), w, b, g.astype(dtype), axes


def fitting(x, kind, power):
    """Near it, and exactly what is left of it when it is rounded: scaled by 2^power."""
    found = np.asarray(x * 2.0**power).astype(kind)
    found.flat[0] = ml_dtypes.finfo(kind).max
    return jnp.asarray(found.astype(np.float32) / np.float32(2.0**power))


@pytest.mark.parametrize("kind", SHAPES)
def test_what_is_not_rounded_is_multiplied_exactly(kind):
    x, w, b, g, axes = arrays(kind)
    x, w, g = fitting(x, FORTH, 5), fitting(w, FORTH, 5), fitting(g, BACK, 12)
    y, way = jax.vjp(lambda *given: float8.linear(*given, axes), x, w, b)
    x, w, b, g = (np.asarray(z, np.float64) for z in (x, w, b, g))
    lead, last = x.ndim - axes, w.ndim - axes
    ends = tuple(range(lead, g.ndim)), tuple(range(axes, axes + last))
    wanted = (
        np.tensordot(x, w, axes) + b,
        np.tensordot(g, w, ends),
        np.tensordot(x, g, (tuple(range(lead)),) * 2),
        g.sum(tuple(range(lead))),
    )
    found = y, *way(jnp.asarray(g, jnp.float32))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * abs(other).max())


@pytest.mark.parametrize(("kind", "bits"), [(FORTH, 3), (BACK, 2)])
def test_factors_are_rounded_to_the_nearest(kind, bits):
    x = jnp.asarray(np.random.default_rng(1).standard_normal(999), jnp.float32)
    small, back = jax.jit(lambda x: float8.scaled(x, kind))(x)
    found = np.asarray(small).astype(np.float32) * float(back)
    assert abs(np.asarray(small).astype(np.float32)).max() == ml_dtypes.finfo(kind).max
    # Half of the last bit, and a little for what lies in the middle.
    assert (abs(found - x) <= 0.501 * 2.0**-bits * abs(x) + 1e-5).all()


@pytest.mark.parametrize("kind", SHAPES)
def test_they_are_near_those_of_bfloat16(kind):
    x, w, b, g, axes = arrays(kind, jnp.bfloat16)
    found = []
    for linear in (primitives.linear, float8.linear):
        y, way = jax.vjp(lambda *given, f=linear: f(*given, axes), x, w, b)
        assert [z.dtype for z in (y, *way(g))] == [x.dtype, x.dtype, w.dtype, b.dtype]
        found.append([np.asarray(z, np.float32) for z in (y, *way(g))])
    for one, other in zip(*found, strict=True):
        assert np.linalg.norm(one - other) < 0.1 * np.linalg.norm(one)
    assert np.abs(found[0][0] - found[1][0]).max() > 0


def test_zeros_are_no_numbers_divided_by_none():
    x, w, b, g, axes = arrays("flat")
    y, way = jax.vjp(lambda *given: float8.linear(*given, axes), 0 * x, w, b)
    np.testing.assert_array_equal(y, np.broadcast_to(b, y.shape))
    assert all(np.isfinite(z).all() for z in way(0 * g))


def test_a_model_learns_with_them_as_with_bfloat16():
    found = []
    for chosen in (False, True):
        changes = {"encoder__float8": chosen, "encoder__dtype": "bfloat16"}
        run = tiny.Run(tiny.resolve("mae", **changes))
        found.append([run.step()["loss"] for _ in range(4)])
        assert ("f8e4m3fn" in run.program.as_text()) == chosen
    assert found[0] != found[1]
    assert found[1] == pytest.approx(found[0], rel=0.05)
