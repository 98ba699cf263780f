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
from jaxtyping import Array, Float

from mimjax import reductions, sharding
from mimjax.reductions import wide

# The name of what `linear` gives.
PRODUCT = "product"


def product(x: Array, y: Array, over_x: Any, over_y: Any) -> Array:
    """The sum over axes of x and of y of one type, in a wide one."""
    axes = tuple(over_x), tuple(over_y)
    kind = jnp.promote_types(x.dtype, jnp.float32)
    return jax.lax.dot_general(x, y, (axes, ((), ())), preferred_element_type=kind)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def linear(
    x: Float[Array, "*b_c"],
    kernel: Float[Array, "*c_d"],
    bias: Float[Array, "*d"] | None,
    axes: int = 1,
    rounds: bool = True,
    merges: bool = False,
) -> Float[Array, "*b_d"]:
    """x times kernel over the last `axes` of x and the first of the kernel, plus bias.

    The factors of all products are of the type of x, and so is the result unless it is
    not rounded; sums are float32, and so are the gradients of kernel and bias. XLA on
    CPU is faster where it `merges` these axes, and those of the result, to one each.
    """
    return _linear(x, kernel, bias, axes, rounds, merges)[0]


def _linear(
    x: Array, kernel: Array, bias: Any, axes: int, rounds: bool, merges: bool
) -> tuple[Array, Any]:
    # Kept is what was given: a scan has that already, and of a new array makes a copy.
    kept, shape = (x, kernel, bias), (*x.shape[: x.ndim - axes], *kernel.shape[axes:])
    if merges:
        x, kernel, bias, axes = *_merged(x, kernel, bias, axes), 1
    y = product(x, kernel.astype(x.dtype), range(x.ndim - axes, x.ndim), range(axes))
    if rounds and sharding.on_gpu():
        # There XLA adds a bias that is a row of a stack in a kernel of its own, between
        # which and the product y would go through memory in float32.
        y = wide(y.astype(x.dtype))
    y = y if bias is None else y + bias
    y = y.astype(x.dtype) if rounds else y
    # What blocks.REMAT keeps.
    return checkpoint_name(y.reshape(shape), PRODUCT), kept


def _merged(x: Array, kernel: Array, bias: Any, axes: int) -> tuple[Array, Array, Any]:
    rows = math.prod(kernel.shape[:axes])
    bias = None if bias is None else bias.reshape(-1)
    x = x.reshape(*x.shape[: x.ndim - axes], rows)
    return x, kernel.reshape(rows, -1), bias


def _linear_back(
    axes: int, _: bool, merges: bool, given: Any, dy: Array
) -> tuple[Array, Array, Any]:
    x, kernel, bias = given
    lead = x.ndim - axes
    if merges:
        x, kernel, bias, axes = *_merged(x, kernel, bias, axes), 1
        dy = dy.reshape(*dy.shape[:lead], -1)
    d_bias = None if bias is None else reductions.sum_of_rows(dy, lead)
    dy = dy.astype(x.dtype)
    out = range(lead, dy.ndim), range(axes, kernel.ndim)
    dx = product(dy, kernel.astype(x.dtype), *out).astype(x.dtype)
    d_kernel = _kernel_gradient(x, dy, lead)
    d_bias = None if d_bias is None else d_bias.reshape(given[2].shape)
    return dx.reshape(given[0].shape), d_kernel.reshape(given[1].shape), d_bias


def _kernel_gradient(x: Array, dy: Array, lead: int) -> Array:
    """The product of x and dy over their leading axes, in the form XLA likes.

    Of float32 that is one over a single axis. Of bfloat16 it is one over several: of
    those XLA on CPU first turns the axes of the left factor, x, or dy where that has
    less to turn: then the gradient is turned as well.
    """
    straight = functools.partial(product, over_x=range(lead), over_y=range(lead))
    if x.dtype != jnp.bfloat16:
        x, dy = (y.reshape(-1, *y.shape[lead:]) for y in (x, dy))
        return product(x, dy, (0,), (0,))
    flat = x.ndim == lead + 1 == dy.ndim
    less = dy.size + x.shape[-1] * dy.shape[-1] < x.size
    if not (flat and less and x.shape[-1] % 2 == 0):
        return straight(x, dy)
    # Elsewhere a gradient that was turned is not cut while it is added up over devices.
    return sharding.for_platform(x, dy, cpu=_turned, default=straight)


def _turned(x: Array, dy: Array) -> Array:
    # In halves, or XLA would swap the factors back.
    lead, halves = range(x.ndim - 1), x.reshape(*x.shape[:-1], 2, -1)
    found = jnp.moveaxis(product(dy, halves, lead, lead), 0, 2)
    return found.reshape(x.shape[-1], dy.shape[-1])


linear.defvjp(_linear, _linear_back)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gelu(x: Float[Array, "*s"], tanh: bool = False) -> Float[Array, "*s"]:
    """x times the normal distribution up to x, in float32 (arXiv 1606.08415).

    Exact, or by the approximation with tanh of section 2 there.
    """
    return _gelu(x, tanh)[0]


def _normal(x: Array, tanh: bool) -> Array:
    if tanh:
        return 0.5 + 0.5 * jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


# The slope of GELU is 1/2 + x P(x^2) / Q(x^2) within 4e-7 for |x| up to EDGE, and stays
# what it is there. Coefficients of P and of Q from the lowest power on, of the exact
# form and of the other: fits of our own to the least greatest error. It is less to
# compute than erf and exp, for which XLA on CPU takes three times as long, and it would
# keep erf in float32 from the way forth.
EDGE = 5.8, 5.4
# fmt: off
OVER = (
    (0.797885361, -3.09958686e-2, 1.42303068e-2, 1.92202937e-5, 3.59559447e-5,
     1.92929289e-7),
    (0.797884394, -9.88989976e-3, 1.11798354e-2, 3.84202178e-4, 1.63086044e-5,
     1.64816187e-6, 1.17218314e-8),
)
UNDER = (
    (1.0, 0.294494024, 4.09802068e-2, 3.52303443e-3, 1.92036347e-4, 8.95241984e-6),
    (1.0, 0.322586102, 4.53633172e-2, 3.38757787e-3, 2.23530907e-4, 9.82450972e-6,
     4.71369275e-7),
)
# fmt: on


def slope_of_gelu(x: Float[Array, "*s"], tanh: bool) -> Float[Array, "*s"]:
    """The derivative of GELU, in float32; by its formula where x is float64."""
    if x.dtype == jnp.float64:
        return jax.jvp(lambda x: x * _normal(x, tanh), (x,), (jnp.ones_like(x),))[1]
    x = jnp.clip(x, -EDGE[tanh], EDGE[tanh])
    square = x * x

    def polynomial(coefficients: tuple[float, ...]) -> Array:
        total = jnp.full_like(x, coefficients[-1])
        for coefficient in coefficients[-2::-1]:
            total = total * square + coefficient
        return total

    return 0.5 + x * polynomial(OVER[tanh]) / polynomial(UNDER[tanh])


def _gelu(x: Array, tanh: bool) -> tuple[Array, Array]:
    y = wide(x)
    return (y * _normal(y, tanh)).astype(x.dtype), x


def _gelu_back(tanh: bool, x: Array, dy: Array) -> tuple[Array]:
    return ((slope_of_gelu(wide(x), tanh) * wide(dy)).astype(x.dtype),)


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
    lead, g = x.ndim - 1, wide(dy) * scale
    along = y * (g * y).mean(axis=-1, keepdims=True)
    dx = rate * (g - g.mean(axis=-1, keepdims=True) - along)
    return (
        dx.astype(x.dtype),
        reductions.sum_of_rows(wide(dy) * y, lead),
        reductions.sum_of_rows(dy, lead),
    )


layer_norm.defvjp(_layer_norm, _layer_norm_back)


@jax.custom_vjp
def scaled(x: Float[Array, "*s D"], scale: Float[Array, " D"]) -> Float[Array, "*s D"]:
    """Every column times a number of its own, rounded to the type of x."""
    return _scaled(x, scale)[0]


def _scaled(x: Array, scale: Array) -> tuple[Array, tuple[Array, Array]]:
    return x * scale.astype(x.dtype), (x, scale)


def _scaled_back(kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, scale = kept
    d_scale = reductions.sum_of_rows(wide(dy) * wide(x), x.ndim - 1)
    return dy * scale.astype(x.dtype), d_scale


scaled.defvjp(_scaled, _scaled_back)
