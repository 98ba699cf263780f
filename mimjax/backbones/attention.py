"""Softmax attention with a gradient written by hand.

XLA on CPU leaves a product of bfloat16 to its library only if both factors are stored
in the order of their axes and the product turns neither; else it makes one of float32.
An array whose axes were just moved is not stored so. A slice of it is, and so is its
product with an array that is, if that stands first. So the axes of query, key and value
are moved at once, and on CPU the gradients of all three are made with their axes
turned, rather than by products that would turn the scores.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mimjax import reductions
from mimjax.reductions import wide
from mimjax.sharding import by_sample, for_platform, on_gpu


def joined(q: Float[Array, "A h"], v: Float[Array, "A h"]) -> Float[Array, "3 A h"]:
    """The biases of query, key and value where the key has none."""

    def by_stack(q: Array, v: Array) -> Array:
        return jnp.stack([q, jnp.zeros_like(q), v])

    def by_product(q: Array, v: Array) -> Array:
        # A stack XLA on CPU would make anew for every number it is added to.
        places = jnp.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]], q.dtype)
        return reductions.exact_product(places, jnp.stack([q, v]), (1,), (0,))

    return for_platform(q, v, cpu=by_product, default=by_stack)


def shares_of(
    qkv: Float[Array, "B T 3 A h"],
    bias: Float[Array, "n A T T"] | None,
    allowed: Bool[Array, "B T T"] | None,
) -> tuple[Float[Array, "B A T T"], Float[Array, "B A T 1"]]:
    """What every query takes of each key, to be divided by the sum that is returned.

    Of a row the largest is 1. Scores and softmax are float32; sample i takes row i mod
    n of the bias.
    """
    q, k, _ = qkv.transpose(2, 0, 3, 1, 4)
    scores = _batched("baqh,bakh->baqk", q * q.dtype.type(q.shape[-1] ** -0.5), k)
    if bias is not None:
        scores, bias = _stored(scores), _stored(bias)
        groups = scores.reshape(-1, *bias.shape) + bias
        scores = groups.reshape(scores.shape)
    if allowed is not None:
        lowest = jnp.finfo(scores.dtype).min
        scores = jnp.where(allowed[:, None], scores, lowest)
    shares = jnp.exp(scores - scores.max(axis=-1, keepdims=True)).astype(qkv.dtype)
    shares = _stored(shares)
    return shares, reductions.sum_of_last(shares)


def _stored(x: Array) -> Array:
    """On GPU made once, and read from memory wherever it is used.

    Else XLA there adds the bias to the scores in a kernel of its own, and in place of
    shares keeps and reads scores, which are twice as large.
    """
    return jax.lax.optimization_barrier(x) if on_gpu() else x


def _batched(axes: str, x: Array, y: Array) -> Array:
    kind = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.einsum(axes, x, y, preferred_element_type=kind)


@jax.custom_vjp
def attend(
    qkv: Float[Array, "B T 3 A h"],
    bias: Float[Array, "n A T T"] | None,
    allowed: Bool[Array, "B T T"] | None,
) -> Float[Array, "B T A h"]:
    """Softmax attention of all heads; `bias` and `allowed` as `shares_of` takes them.

    The division by the sum comes after the values are mixed, and the way back needs no
    sum over keys (as in arXiv 2205.14135, appendix B). A query that is allowed nothing
    takes of all keys alike.
    """
    return _attend(qkv, bias, allowed)[0]


def _attend(qkv: Array, bias: Any, allowed: Any) -> tuple[Array, Any]:
    shares, total = shares_of(qkv, bias, allowed)
    v = qkv.transpose(2, 0, 3, 1, 4)[2]
    mixed = _batched("baqk,bakh->baqh", shares, v) / total
    mixed = by_sample(mixed.astype(qkv.dtype).transpose(0, 2, 1, 3))
    return mixed, (qkv, bias, shares, total, mixed)


def _attend_back(kept: Any, g: Array) -> tuple[Array, Any, None]:
    qkv, bias, shares, total, mixed = kept
    v, rate = qkv.transpose(2, 0, 3, 1, 4)[2], 1 / total
    part = (rate * wide(g).transpose(0, 2, 1, 3)).astype(qkv.dtype)
    along = wide(part) * wide(mixed).transpose(0, 2, 1, 3)
    slope = _batched("baqh,bakh->baqk", part, v) - along.sum(axis=-1, keepdims=True)
    d_scores = (slope * wide(shares)).astype(qkv.dtype)
    # In bfloat16 the gradient of the bias, too, is of slopes that are rounded.
    given = qkv, g, rate, shares, d_scores
    d_qkv = for_platform(*given, cpu=_turned, default=_straight)
    d_bias = None
    if bias is not None:
        d_bias = reductions.sum_of_rows(d_scores.reshape(-1, *bias.shape), 1)
    return d_qkv, d_bias, None


def _turned(qkv: Array, g: Array, rate: Array, shares: Array, d_scores: Array) -> Array:
    q, k, _ = qkv.transpose(2, 0, 3, 4, 1)
    kind, scale = qkv.dtype, qkv.shape[-1] ** -0.5
    part = (rate.swapaxes(2, 3) * wide(g).transpose(0, 2, 3, 1)).astype(kind)
    dq = _batched("bahk,baqk->bahq", k, d_scores) * scale
    dk = _batched("bahq,baqk->bahk", q * kind.type(scale), d_scores)
    dv = _batched("bahq,baqk->bahk", part, shares)
    narrow = (y.astype(kind) for y in (dq, dk, dv))
    rows = [y.reshape(len(y), -1, y.shape[3]).swapaxes(1, 2) for y in narrow]
    return jnp.concatenate(rows, axis=2).reshape(qkv.shape)


def _straight(
    qkv: Array, g: Array, rate: Array, shares: Array, d_scores: Array
) -> Array:
    q, k, _ = qkv.transpose(2, 0, 3, 1, 4)
    kind, scale = qkv.dtype, qkv.shape[-1] ** -0.5
    part = (rate * wide(g).transpose(0, 2, 1, 3)).astype(kind)
    dq = _batched("baqk,bakh->baqh", d_scores, k) * scale
    dk = _batched("baqk,baqh->bakh", d_scores, q * kind.type(scale))
    dv = _batched("baqk,baqh->bakh", shares, part)
    return jnp.stack([dq, dk, dv]).astype(kind).transpose(1, 3, 0, 2, 4)


attend.defvjp(_attend, _attend_back)
