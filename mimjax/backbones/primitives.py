"""What layers are made of, with gradients written by hand.

What autodiff makes of them is right but slow: products of bfloat16 are asked for in
bfloat16 where the sums are float32 anyway (many times slower on CPU), float32 values
are kept for the way back, and XLA on CPU computes the gradient of the residual stream
anew, through all layers behind, wherever a kernel needs it.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

# The name of what `linear` gives.
PRODUCT = "product"


def wide(x: Array) -> Array:
    """In float32, or float64 if it is."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def product(
    x: Array, y: Array, over_x: Any, over_y: Any, precision: Any = None
) -> Array:
    """The sum over axes of x and of y of one type, in a wide one."""
    axes = tuple(over_x), tuple(over_y)
    kind = jnp.promote_types(x.dtype, jnp.float32)
    return jax.lax.dot_general(
        x, y, (axes, ((), ())), precision=precision, preferred_element_type=kind
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def linear(
    x: Float[Array, "*b_c"],
    kernel: Float[Array, "*c_d"],
    bias: Float[Array, "*d"] | None,
    axes: int = 1,
) -> Float[Array, "*b_d"]:
    """x times kernel over the last `axes` of x and the first of the kernel, plus bias.

    The result is of the type of x, and so are the factors of all products; sums are
    float32, and so are the gradients of kernel and bias.
    """
    return _linear(x, kernel, bias, axes)[0]


def _linear(x: Array, kernel: Array, bias: Any, axes: int) -> tuple[Array, Any]:
    y = product(x, kernel.astype(x.dtype), range(x.ndim - axes, x.ndim), range(axes))
    y = (y if bias is None else y + bias).astype(x.dtype)
    # What blocks.REMAT keeps.
    return checkpoint_name(y, PRODUCT), (x, kernel, bias)


def _linear_back(axes: int, kept: Any, dy: Array) -> tuple[Array, Array, Any]:
    x, kernel, bias = kept
    lead = x.ndim - axes
    out = range(lead, dy.ndim), range(axes, kernel.ndim)
    dx = product(dy, kernel.astype(x.dtype), *out).astype(x.dtype)
    d_kernel = _kernel_gradient(x, dy, lead).reshape(kernel.shape)
    return dx, d_kernel, None if bias is None else sum_of_rows(dy, lead)


@functools.partial(jax.jit, static_argnums=1)
def sum_of_rows(dy: Float[Array, "*b_d"], lead: int) -> Float[Array, "*d"]:
    """The sum over the first `lead` axes, as a product with a few rows of ones.

    A sum XLA on CPU computes column by column, and with it anew all that makes dy. It
    is called by a name of its own so that flops.py leaves it out.
    """
    ones = jnp.ones((4, *dy.shape[:lead]), dy.dtype)
    exact = jax.lax.Precision.HIGHEST  # as a sum is
    return product(ones, dy, range(1, lead + 1), range(lead), exact)[0]


def _kernel_gradient(x: Array, dy: Array, lead: int) -> Array:
    """The product of x and dy over their leading axes, in the form XLA on CPU likes.

    Of float32 that is one over a single axis. Of bfloat16 it is one over several: of
    those it first turns the axes of the left factor, which had better be the smaller.
    """
    both = range(lead), range(lead)
    if x.dtype != jnp.bfloat16:
        x, dy = (y.reshape(-1, *y.shape[lead:]) for y in (x, dy))
        return product(x, dy, (0,), (0,))
    if dy.size < x.size and x.shape[-1] % 2 == 0 and x.ndim == lead + 1 == dy.ndim:
        # In halves, or XLA would swap the factors back.
        halves = x.reshape(*x.shape[:-1], 2, -1)
        return jnp.moveaxis(product(dy, halves, *both), 0, 2)
    return product(x, dy, *both)


linear.defvjp(_linear, _linear_back)


@jax.custom_vjp
def gelu(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """x times the normal distribution up to x (arXiv 1606.08415), exact, in float32."""
    return _gelu(x)[0]


def _normal(x: Array) -> Array:
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


def _gelu(x: Array) -> tuple[Array, Array]:
    y = wide(x)
    return (y * _normal(y)).astype(x.dtype), x


def _gelu_back(x: Array, dy: Array) -> tuple[Array]:
    y = wide(x)
    density = jnp.exp(-0.5 * y * y) / math.sqrt(2 * math.pi)
    slope = _normal(y) + y * density
    return ((slope * wide(dy)).astype(x.dtype),)


gelu.defvjp(_gelu, _gelu_back)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "*s D"],
    scale: Float[Array, " D"],
    bias: Float[Array, " D"],
    eps: float,
) -> Float[Array, "*s D"]:
    """LayerNorm with float32 statistics in two passes, as PyTorch computes them."""
    return _layer_norm(x, scale, bias, eps)[0]


def _standard(x: Array, eps: float) -> tuple[Array, Array]:
    centred = wide(x) - wide(x).mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    rate = jax.lax.rsqrt(variance + eps)
    return centred * rate, rate


def _layer_norm(
    x: Array, scale: Array, bias: Array, eps: float
) -> tuple[Array, tuple[Array, Array]]:
    y, _ = _standard(x, eps)
    return (y * scale + bias).astype(x.dtype), (x, scale)


def _layer_norm_back(
    eps: float, kept: tuple[Array, Array], dy: Array
) -> tuple[Array, Array, Array]:
    x, scale = kept
    y, rate = _standard(x, eps)
    dy = wide(dy)
    rows = tuple(range(x.ndim - 1))
    g = dy * scale
    along = y * (g * y).mean(axis=-1, keepdims=True)
    dx = rate * (g - g.mean(axis=-1, keepdims=True) - along)
    return dx.astype(x.dtype), (dy * y).sum(rows), dy.sum(rows)


layer_norm.defvjp(_layer_norm, _layer_norm_back)


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
        groups = scores.reshape(-1, *bias.shape) + bias
        scores = groups.reshape(scores.shape)
    if allowed is not None:
        lowest = jnp.finfo(scores.dtype).min
        scores = jnp.where(allowed[:, None], scores, lowest)
    shares = jnp.exp(scores - scores.max(axis=-1, keepdims=True)).astype(qkv.dtype)
    return shares, wide(shares).sum(axis=-1, keepdims=True)


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
    sum over keys (as in arXiv 2205.14135, appendix B). Axes are moved of all three at
    once: of one alone XLA on CPU makes part of the product, in float32. A query that is
    allowed nothing takes of all keys alike.
    """
    return _attend(qkv, bias, allowed)[0]


def _attend(qkv: Array, bias: Any, allowed: Any) -> tuple[Array, Any]:
    shares, total = shares_of(qkv, bias, allowed)
    v = qkv.transpose(2, 0, 3, 1, 4)[2]
    mixed = _batched("baqk,bakh->baqh", shares, v) / total
    mixed = mixed.astype(qkv.dtype).transpose(0, 2, 1, 3)
    return mixed, (qkv, bias, shares, total, mixed)


def _attend_back(kept: Any, g: Array) -> tuple[Array, Any, None]:
    qkv, bias, shares, total, mixed = kept
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)
    scale, part = qkv.shape[-1] ** -0.5, g.transpose(0, 2, 1, 3)
    along = (wide(g) * wide(mixed)).sum(axis=-1).transpose(0, 2, 1)[..., None]
    slope = (_batched("baqh,bakh->baqk", part, v) - along) * (wide(shares) / total)
    d_scores = slope.astype(qkv.dtype)
    dq = _batched("baqk,bakh->baqh", d_scores, k) * scale
    dk = _batched("baqk,baqh->bakh", d_scores, q * q.dtype.type(scale))
    dv = _batched("baqk,baqh->bakh", shares, (part / total).astype(qkv.dtype))
    d_qkv = jnp.stack([dq, dk, dv]).astype(qkv.dtype).transpose(1, 3, 0, 2, 4)
    d_bias = None
    if bias is not None:
        d_bias = slope.reshape(-1, *bias.shape).sum(axis=0)
    return d_qkv, d_bias, None


attend.defvjp(_attend, _attend_back)
