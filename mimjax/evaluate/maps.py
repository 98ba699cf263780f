"""Attention of an encoder as maps over its patches, and the tokens of the patches."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mimjax import patches
from mimjax.evaluate import inside


class Maps(NamedTuple):
    """Where each head of a layer looks, over the grid of tokens of that layer.

    Attributes:
        whole: the weights that the class token gives or, where there is none, that all
            patches give on average.
        query: the weights that the patch in the middle gives.
    """

    whole: Float[Array, "B A r c"]
    query: Float[Array, "B A r c"]


def chosen_layers(encoder: Any) -> tuple[int, ...]:
    """One in the middle and the last, counted from 1; none where none has attention."""
    depth = len(encoder.layer_widths)
    return tuple(sorted({max(1, depth // 2), depth})) if depth else ()


def layer_maps(
    encoder: Any, params: Any, image: Float[Array, "B H W C"], layers: tuple[int, ...]
) -> list[Maps]:
    """Maps of some layers, counted from 1, of normalised images; to be jitted."""
    stages = inside.look(encoder, params, image)
    # Where a layer stands in its own stage tells whether its windows are shifted.
    numbers = [n + 1 for stage in stages for n in range(len(stage.tokens))]
    pairs = inside.layers_of(stages)
    found = []
    for layer in layers:
        tokens, attention = pairs[layer - 1]
        grid = encoder.grid_of(tokens.shape[1] - encoder.num_prefix)
        attention = attention.astype(jnp.float32)
        if attention.shape[-1] < tokens.shape[1]:
            found.append(of_windows(attention, grid, numbers[layer - 1]))
        else:
            found.append(of_whole(attention, grid, encoder.cls))
    return found


def middle(grid: tuple[int, int]) -> tuple[int, int]:
    """Row and column of the patch whose own map is shown."""
    return grid[0] // 2, grid[1] // 2


def of_whole(
    attention: Float[Array, "B A T T"], grid: tuple[int, int], cls: bool
) -> Maps:
    """Where every token sees all others; what precedes the patches has no place."""
    rows, columns = grid
    prefix = attention.shape[-1] - rows * columns
    row, column = middle(grid)
    keys = attention[..., prefix:]
    whole = keys[:, :, 0] if cls else keys[:, :, prefix:].mean(axis=2)
    query = keys[:, :, prefix + row * columns + column]
    shape = *attention.shape[:2], rows, columns
    return Maps(whole.reshape(shape), query.reshape(shape))


def of_windows(
    attention: Float[Array, "n A t t"], grid: tuple[int, int], number: int
) -> Maps:
    """Where a token sees its window alone (backbones/windows.py)."""
    side = math.isqrt(attention.shape[-1])
    shift = side // 2 if number % 2 == 0 and side != min(grid) else 0
    across = grid[1] // side
    windows = grid[0] // side * across
    n, heads, size, _ = attention.shape
    apart = attention.reshape(n // windows, windows, heads, size, size)

    def placed(weights: Float[Array, "B w A t"]) -> Float[Array, "B A r c"]:
        values = weights.swapaxes(2, 3).reshape(len(weights), windows, size * heads)
        image = patches.unpatchify(values, grid, (side, side))
        return jnp.moveaxis(jnp.roll(image, (shift, shift), (1, 2)), -1, 1)

    row, column = middle(grid)
    row, column = (row - shift) % grid[0], (column - shift) % grid[1]
    own = row // side * across + column // side
    inside_own = apart[:, own, :, row % side * side + column % side]
    query = jnp.zeros(apart.shape[:4]).at[:, own].set(inside_own)
    return Maps(placed(apart.mean(axis=3)), placed(query))


def patch_tokens(
    encoder: Any,
    params: Any,
    image: Float[Array, "B H W C"],
    layers: tuple[int, ...] = (),
) -> Float[Array, "B N D"]:
    """A float32 vector for every patch, of what `features` pools."""

    def of(module: Any, image: Array) -> Array:
        tokens = module.embed(image)
        x = module.run(tokens, chosen=layers)[1] if layers else module(tokens)
        return module.patch_tokens(x).astype(jnp.float32)

    return encoder.apply({"params": params}, image, method=of)
