"""Relative positions: what a table adds to scores, and layers with a table each."""

import dataclasses
from typing import cast

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mimjax import posembed, reductions
from mimjax.backbones import layers, starts
from mimjax.masking import AttnMask
from mimjax.sharding import for_platform


def added(
    table: Float[Array, "R A"], grid: tuple[int, int], cls: bool
) -> Float[Array, "1 A T T"]:
    """What a table adds to the scores of every pair of tokens."""
    index = posembed.relative_index(grid, cls)

    def by_head(table: Array) -> Array:
        # XLA on CPU would move the axes anew wherever this is used; not of a product.
        rows = table[index.reshape(-1)]
        same = jnp.eye(rows.shape[1], dtype=rows.dtype)
        moved = reductions.exact_product(same, rows, (1,), (1,))
        return moved.reshape(1, -1, *index.shape)

    def by_row(table: Array) -> Array:
        return table[index].transpose(2, 0, 1)[None]

    return for_platform(table, cpu=by_head, default=by_row)


@dataclasses.dataclass(frozen=True)
class Spec(layers.Spec):
    """What layers with a table each share: also the places of their tokens."""

    grid: tuple[int, int] = (0, 0)
    cls: bool = False


class Block(layers.Block):
    """A layer with a table of its own, which starts at zero.

    BEiT's as it is fine-tuned (microsoft/unilm beit `modeling_finetune.py`).
    """

    def mix(
        self,
        x: Float[Array, "B T D"],
        number: Int[Array, ""],
        attn_mask: AttnMask,
        bias: Float[Array, "n A T T"] | None,
    ) -> Float[Array, "B T D"]:
        """Attention that knows how far tokens are apart."""
        spec = cast(Spec, self.spec)
        shape = (posembed.relative_rows(spec.grid, spec.cls), spec.heads)
        table = starts.param(self, "relative_table", nn.initializers.zeros, shape)
        bias = added(table, spec.grid, spec.cls)
        return layers.Attention(spec, name="attn")(x, number, attn_mask, bias)
