"""Dense layers whose products are of eight-bit numbers, for GPUs that have them.

Two formats (arXiv 2209.05433): E4M3 on the way forth, E5M2, which reaches farther, for
gradients. Each array is scaled as a whole so that its largest number is the largest
there is, by which images of a batch depend a little on each other; sums are float32.
On other devices it is emulated, and slow.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from mimjax import reductions
from mimjax.backbones.primitives import PRODUCT
from mimjax.reductions import wide

FORTH, BACK = jnp.float8_e4m3fn, jnp.float8_e5m2


def scaled(x: Float[Array, "*s"], kind: Any) -> tuple[Array, Float[Array, ""]]:
    """x as large as `kind` can be, and what to multiply it by to have it back."""
    most = jnp.abs(x).max().astype(jnp.float32)
    back = most / float(jnp.finfo(kind).max)
    back = jnp.maximum(back, jnp.finfo(jnp.float32).tiny)  # of zeros too
    return (wide(x) / back).astype(kind), back


def product(
    x: tuple[Array, Array], y: tuple[Array, Array], over_x: Any, over_y: Any
) -> Float[Array, "*s"]:
    """The sum over axes of x and of y, both as `scaled` gives them, in float32."""
    axes = ((tuple(over_x), tuple(over_y)), ((), ()))
    found = jax.lax.dot_general(x[0], y[0], axes, preferred_element_type=jnp.float32)
    return found * (x[1] * y[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def linear(
    x: Float[Array, "*b_c"],
    kernel: Float[Array, "*c_d"],
    bias: Float[Array, "*d"] | None,
    axes: int = 1,
) -> Float[Array, "*b_d"]:
    """What `primitives.linear` computes, of rounded factors."""
    return _linear(x, kernel, bias, axes)[0]


def _linear(x: Array, kernel: Array, bias: Any, axes: int) -> tuple[Array, Any]:
    small, weights = scaled(x, FORTH), scaled(kernel, FORTH)
    y = product(small, weights, range(x.ndim - axes, x.ndim), range(axes))
    y = (y if bias is None else y + bias).astype(x.dtype)
    return checkpoint_name(y, PRODUCT), (small, weights, bias)


def _linear_back(axes: int, kept: Any, dy: Array) -> tuple[Array, Array, Any]:
    small, weights, bias = kept
    lead, ends = small[0].ndim - axes, range(axes, weights[0].ndim)
    slope = scaled(dy, BACK)
    dx = product(slope, weights, range(lead, dy.ndim), ends).astype(dy.dtype)
    d_kernel = product(small, slope, range(lead), range(lead))
    return dx, d_kernel, None if bias is None else reductions.sum_of_rows(dy, lead)


linear.defvjp(_linear, _linear_back)
