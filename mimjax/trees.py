"""Trees of arrays by path: as flat dicts, and what tells whether one has changed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mimjax import sharding

Leaves = dict[tuple[str, ...], Any]


def placed_like(x: jax.Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Shape, type and sharding of an array that is there or told of."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def named_leaves(tree: Any, above: tuple[str, ...] = ()) -> Leaves:
    """The leaves of nested dicts by path."""
    if not isinstance(tree, dict):
        return {above: tree}
    return {
        name: leaf
        for key, part in tree.items()
        for name, leaf in named_leaves(part, (*above, key)).items()
    }


def nested(leaves: Leaves) -> dict[str, Any]:
    """The inverse of `named_leaves`."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        place = tree
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = leaf
    return tree


def shapes_of(tree: Any) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The shape of every array by its name."""
    return {name: x.shape for name, x in named_leaves(tree).items()}


@jax.jit
def fingerprint(tree: Any) -> list[Array]:
    """Two sums of the 32-bit words of each array, the second weighted by place.

    Sums of integers do not depend on order, so neither on how the array is sharded.
    """

    def sums(x: Array) -> Array:
        if x.dtype.itemsize != 4:
            x = x.astype(jnp.float32)
        words = jax.lax.bitcast_convert_type(x, jnp.uint32)
        # 2 * (place in the flat array) + 1, by axes: to flatten an array that is cut
        # would gather it on every device.
        place, stride = jnp.ones((), jnp.uint32), 2
        for axis in reversed(range(x.ndim)):
            along = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
            place = place + along * jnp.uint32(stride % 2**32)
            stride *= x.shape[axis]
        kinds = (words, words * place)
        return jnp.stack([kind.sum(dtype=jnp.uint32) for kind in kinds])

    return [sums(x) for x in jax.tree.leaves(tree)]


def named_fingerprints(state: Any) -> dict[str, list[int]]:
    """The fingerprint of each array by its path."""
    paths = [sharding.name_of(path) for path, _ in jax.tree.leaves_with_path(state)]
    sums = jax.device_get(fingerprint(state))
    return {p: np.asarray(s).tolist() for p, s in zip(paths, sums, strict=True)}


def differing(tree: Any, meta: dict[str, Any]) -> list[str]:
    """The arrays whose fingerprint is not the one in the `meta` of a checkpoint."""
    saved = meta.get("fingerprints", {})
    return [n for n, sums in named_fingerprints(tree).items() if saved.get(n) != sums]
