"""Nested dicts of arrays as flat ones, by path."""

from typing import Any

import jax

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
