"""Reductions by products, beside numpy; and what other devices are given instead."""

import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from mimjax import flops, posembed, reductions, sharding, updates
from mimjax.backbones import attention, relative

# Compiled whole, as a step takes them.
sum_of_rows = jax.jit(reductions.sum_of_rows, static_argnums=1)
sum_of_last = jax.jit(reductions.sum_of_last)
sum_of_squares = jax.jit(reductions.sum_of_squares)
place_of_largest = jax.jit(reductions.place_of_largest)

X = np.random.default_rng(0).normal(size=(3, 50, 40)).astype(np.float32)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_sums(dtype):
    x = jnp.asarray(X, dtype)
    known = np.asarray(x, np.float64)
    rows, last = sum_of_rows(x, 2), sum_of_last(x)
    assert rows.dtype == last.dtype == np.float32
    np.testing.assert_allclose(rows, known.sum(axis=(0, 1)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(last, known.sum(axis=2, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 48, 4), (3, 5, 4), (2, 3, 17, 4), (9, 4), (4,)])
def test_sums_of_rows_of_any_number(shape):
    """Whole parts, none, axes before and behind; and stacks too long to be one."""
    lead = len(shape) - 1
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    found = sum_of_rows(jnp.asarray(x), lead)
    known = x.sum(axis=tuple(range(lead)), dtype=np.float64)
    np.testing.assert_allclose(found, known, rtol=1e-5, atol=1e-6)
    for stack in (x, x[:0], x[None], np.stack([x] * (reductions.LAYERS + 1))):
        found = sum_of_squares(jnp.asarray(stack))
        known = np.square(stack, dtype=np.float64).sum()
        np.testing.assert_allclose(found, known, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_place_of_largest(dtype):
    x = np.round(2 * X)  # the largest is there several times
    found = place_of_largest(jnp.asarray(x, dtype))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, x.argmax(axis=-1))
    assert (np.sort(x, axis=-1)[..., -1] == np.sort(x, axis=-1)[..., -2]).any()
    # No place is outside, whatever there is.
    odd = jnp.asarray([[0.0, np.nan, 1.0], [np.nan] * 3], dtype)
    found = place_of_largest(odd)
    assert ((found >= 0) & (found < 3)).all()


TABLE = X[0, :9, :2]  # of a grid of 2 x 2 patches, two heads
Q, V = jnp.asarray(X[0, :2, :4]), jnp.asarray(X[1, :2, :4])


@pytest.mark.parametrize(
    ("function", "x", "own"),
    [
        (lambda x: reductions.sum_of_rows(x, 2), X, "dot_general"),
        (reductions.sum_of_last, X, "dot_general"),
        (reductions.sum_of_squares, X, "dot_general"),
        (reductions.place_of_largest, X, "stablehlo.minimum"),
        (lambda x: relative.added(x, (2, 2), cls=False), TABLE, "dot_general"),
        (lambda x: attention.joined(x, V), Q, "dot_general"),
    ],
)
def test_each_kind_of_device_has_its_own_way(function, x, own):
    x = jnp.asarray(x)
    traced = jax.jit(function).trace(x)
    texts = {
        name: traced.lower(lowering_platforms=(name,)).as_text()
        for name in ("cpu", "cuda", "tpu")
    }
    assert own in texts["cpu"]
    assert own not in texts["cuda"] + texts["tpu"]
    if own == "dot_general":
        # What is no product of the model is not counted as one, nor of its gradient.
        gradient = jax.grad(lambda x: (function(x) ** 2).sum())
        batched = jax.vmap(function)
        for mesh in (None, tiny.mesh_of()):
            with jax.set_mesh(mesh):
                assert flops.matmul_flops(function, x) == 0
                assert flops.matmul_flops(gradient, x) == 0
                assert flops.matmul_flops(batched, x[None]) == 0
                found = jax.jit(batched)(x[None])[0]
            np.testing.assert_allclose(found, jax.jit(function)(x), rtol=1e-5)


def test_where_the_devices_are_known_only_their_way_is_traced(monkeypatch):
    def change(x):
        return sharding.for_platform(x, cpu=jnp.sin, default=jnp.cos)

    def trace(mesh):
        with jax.set_mesh(mesh):
            return str(jax.jit(change).trace(1.0).jaxpr)

    both, cpu = trace(None), trace(tiny.mesh_of())
    assert " sin " in both and " cos " in both
    assert " sin " in cpu and " cos " not in cpu
    device = types.SimpleNamespace(platform="tpu")
    mesh = types.SimpleNamespace(abstract_device=device)
    monkeypatch.setattr(jax.sharding, "get_abstract_mesh", lambda: mesh)
    assert change(0.0) == 1.0


def test_what_a_table_adds():
    index = posembed.relative_index((2, 2), cls=False)

    def plain(table):
        return table[index].transpose(2, 0, 1)[None]

    def ours(table):
        return relative.added(table, (2, 2), cls=False)

    found, back = jax.vjp(ours, jnp.asarray(TABLE))
    known, plain_back = jax.vjp(plain, jnp.asarray(TABLE))
    np.testing.assert_array_equal(found, known)
    g = jnp.asarray(X[1, :4, :8]).reshape(known.shape)
    np.testing.assert_allclose(back(g)[0], plain_back(g)[0], rtol=1e-6)


@pytest.mark.parametrize("on_cpu", [True, False])
def test_gradients_of_attention_are_alike_everywhere(on_cpu, monkeypatch):
    """Other devices are given the second of two ways to the same numbers."""
    if not on_cpu:
        monkeypatch.setattr(attention, "_turned", attention._straight)
    random = np.random.default_rng(1)
    qkv, g = (
        jnp.asarray(random.normal(size=shape), jnp.float32)
        for shape in ((3, 7, 3, 2, 4), (3, 7, 2, 4))
    )

    def plain(qkv):
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)
        shares = jax.nn.softmax(jnp.einsum("baqh,bakh->baqk", q, k) / 2)
        return jnp.einsum("baqk,bakh->bqah", shares, v)

    @jax.jit
    def gradients(qkv, g):
        ways = (lambda x: attention.attend(x, None, None)), plain
        return [jax.vjp(way, qkv)[1](g)[0] for way in ways]

    np.testing.assert_allclose(*gradients(qkv, g), rtol=1e-4, atol=1e-5)


def test_norm_of_all_gradients_and_the_clip_are_those_of_optax():
    grads = {"a": jnp.asarray(X), "b": [jnp.asarray(X[0, 0]), jnp.float32(2.0)]}
    norm = optax.tree.norm(grads)
    np.testing.assert_allclose(updates.norm_of(grads), norm, rtol=1e-6)
    for most in (1.0, 1e3):
        ours, theirs = updates.clip_by_norm(most), optax.clip_by_global_norm(most)
        # A checkpoint holds the state of either.
        assert ours.init(grads) == theirs.init(grads)
        found, _ = ours.update(grads, ours.init(grads))
        known, _ = theirs.update(grads, theirs.init(grads))
        chex.assert_trees_all_close(found, known, rtol=1e-6)
