"""Reductions of large arrays, as every kind of device does them fast.

XLA on CPU computes a sum in steps, with an array of all terms before it, or anew for
every column; so there it is a product with a few rows or columns of ones, of what is
left where a few parts can be added up first.
"""

import functools
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mimjax.sharding import for_platform

# Columns of ones, of which one is used: with fewer the product is a slower kind.
FEW = 4

# Parts of the rows that are read side by side: of more a processor loses track.
PARTS = 8

# The scope of products that are none of the model's; `flops.py` leaves them out.
NO_PRODUCT = "no_product"

# The longest stack whose layers are added one by one.
LAYERS = 64


def wide(x: Array) -> Array:
    """In float32, or float64 if it is."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def exact_product(
    x: Array, y: Array, over_x: tuple[int, ...], over_y: tuple[int, ...]
) -> Array:
    """The product over axes of x and y, of one type, in a wide one, exact as a sum.

    For what is no product of the model: it is not counted as one.
    """
    with jax.named_scope(NO_PRODUCT):
        return jax.lax.dot_general(
            x,
            y,
            ((over_x, over_y), ((), ())),
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
        )


def _added(parts: Sequence[Array]) -> Array:
    return functools.reduce(operator.add, parts)


def sum_of_rows(x: Float[Array, "*b_d"], lead: int) -> Float[Array, "*d"]:
    """The sum over the first `lead` axes, in a wide type."""
    by_ones, plainly = _sums_of_rows(lead)
    return for_platform(x, cpu=by_ones, default=plainly)


# The same functions for the same axes: without a mesh JAX traces those it knows once.
@functools.cache
def _sums_of_rows(lead: int) -> tuple[Callable[[Array], Array], ...]:
    rows = tuple(range(lead))

    def by_ones(x: Array) -> Array:
        ones = jnp.ones((FEW, *x.shape[:lead]), x.dtype)
        return exact_product(ones, x, tuple(range(1, lead + 1)), rows)[0]

    def in_parts(x: Array) -> Array:
        # Parts of the last of the axes: the first may be cut over devices.
        length = x.shape[rows[-1]] // PARTS if lead > 1 else 0
        if not length:
            return by_ones(x)
        # Parts are added as they are read; an eighth of the rows is left to multiply.
        cut = functools.partial(jax.lax.slice_in_dim, x, axis=rows[-1])
        parts = [wide(cut(i * length, (i + 1) * length)) for i in range(PARTS)]
        return by_ones(_added(parts)) + by_ones(cut(PARTS * length, None))

    def plainly(x: Array) -> Array:
        return wide(x).sum(axis=rows)

    return in_parts, plainly


def sum_of_last(x: Float[Array, "*b k"]) -> Float[Array, "*b 1"]:
    """The sum over the last axis, in a wide type."""
    return for_platform(x, cpu=_last_by_ones, default=_last_plainly)


def _last_by_ones(x: Array) -> Array:
    ones = jnp.ones((x.shape[-1], FEW), x.dtype)
    return exact_product(x, ones, (x.ndim - 1,), (0,))[..., :1]


def _last_plainly(x: Array) -> Array:
    return wide(x).sum(axis=-1, keepdims=True)


def sum_of_squares(x: Float[Array, "*s"]) -> Float[Array, ""]:
    """The sum over all axes of the squares, in a wide type."""
    if not x.ndim:
        return _squares_plainly(x)
    return for_platform(x, cpu=_squares_by_ones, default=_squares_plainly)


def _squares_by_ones(x: Array) -> Array:
    if x.ndim > 2 and 0 < len(x) <= LAYERS:
        # Of a stack, what is left to multiply is as large as one layer.
        return sum_of_last(_added([jnp.square(wide(layer)) for layer in x])).sum()
    return sum_of_last(jnp.square(wide(x))).sum()


def _squares_plainly(x: Array) -> Array:
    return jnp.square(wide(x)).sum()


def place_of_largest(x: Float[Array, "*b k"]) -> Int[Array, "*b"]:
    """Where the largest of the last axis is; of equals the first, with a NaN anywhere.

    As argmax, for which XLA on CPU carries places along and takes five times as long.
    """

    def by_value(x: Array) -> Array:
        # Of float32, whose least XLA finds faster; exact up to 2^24.
        count = x.shape[-1]
        places = jax.lax.broadcasted_iota(jnp.float32, x.shape, x.ndim - 1)
        largest = x == x.max(axis=-1, keepdims=True)
        first = jnp.where(largest, places, count - 1).min(axis=-1)
        return first.astype(jnp.int32)

    def plainly(x: Array) -> Array:
        return x.argmax(axis=-1).astype(jnp.int32)

    return for_platform(x, cpu=by_value, default=plainly)
