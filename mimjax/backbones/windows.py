"""Attention in windows, shifted in every second layer, and what merges tokens.

The parts of Swin (arXiv 2103.14030; official code microsoft/Swin-Transformer
`models/swin_transformer.py`).
"""

import dataclasses
from typing import cast

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mimjax import patches, posembed
from mimjax.backbones import layers, relative, starts
from mimjax.masking import AttnMask
from mimjax.sharding import by_sample

# Added to the scores of tokens that the shift made neighbours (not minus infinity).
APART = -100.0


@dataclasses.dataclass(frozen=True)
class Spec(layers.Spec):
    """What the layers of a stage share: its tokens, and the side of a window."""

    grid: tuple[int, int] = (0, 0)
    window: int = 0

    @property
    def shift(self) -> int:
        """By how much every second layer shifts; 0 where a window is the whole side."""
        return 0 if self.window == min(self.grid) else self.window // 2


def apart(grid: tuple[int, int], window: int, shift: int) -> np.ndarray:
    """Which tokens of a shifted window were no neighbours, bool [windows, T, T]."""

    def part(side: int) -> np.ndarray:
        place = np.arange(side)
        return (place >= side - window).astype(int) + (place >= side - shift)

    label = 3 * part(grid[0])[:, None] + part(grid[1])[None]
    rows, columns = grid[0] // window, grid[1] // window
    label = label.reshape(rows, window, columns, window).swapaxes(1, 2)
    label = label.reshape(rows * columns, window * window)
    return label[:, :, None] != label[:, None, :]


class Block(layers.Block):
    """A layer whose attention stays within windows, shifted in every second layer."""

    def mix(
        self,
        x: Float[Array, "B N D"],
        number: Int[Array, ""],
        attn_mask: AttnMask,
        bias: Float[Array, "n A T T"] | None,
    ) -> Float[Array, "B N D"]:
        """Cuts the tokens into windows, shifted if need be, and puts them back."""
        spec = cast(Spec, self.spec)
        size, shift = (spec.window, spec.window), spec.shift
        shape = (posembed.relative_rows(size, cls=False), spec.heads)
        table = starts.param(self, "relative_table", spec.start.position, shape)
        added = relative.added(table, size, cls=False)
        image = x.reshape(-1, *spec.grid, spec.width)
        shifted = (number % 2 == 0) & (shift > 0)
        if shift:
            cuts = jnp.asarray(apart(spec.grid, spec.window, shift))[:, None]
            added = added + jnp.where(cuts & shifted, APART, 0.0)
            image = roll_if(shifted, image, -shift)
        windows = patches.patchify(image, size)
        tokens = windows.reshape(-1, spec.window**2, spec.width)
        mixed = layers.Attention(spec, name="attn")(tokens, number, None, added)
        image = patches.unpatchify(mixed.reshape(windows.shape), spec.grid, size)
        if shift:
            image = roll_if(shifted, image, shift)
        return by_sample(image.reshape(x.shape))


def roll_if(
    condition: Bool[Array, ""], image: Float[Array, "B R C D"], by: int
) -> Float[Array, "B R C D"]:
    """Moves rows and columns round by so many places, or leaves them."""
    # For a branch a GPU would wait until the host has read the condition.
    return jnp.where(condition, jnp.roll(image, (by, by), (1, 2)), image)


class Merge(nn.Module):
    """Four neighbours, column by column, as one token of twice the width."""

    grid: tuple[int, int]
    norm_eps: float
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B M E"]:
        width = x.shape[-1]
        rows, columns = self.grid[0] // 2, self.grid[1] // 2
        x = x.reshape(-1, rows, 2, columns, 2, width).transpose(0, 1, 3, 4, 2, 5)
        x = x.reshape(-1, rows * columns, 4 * width)
        x = layers.LayerNorm(self.norm_eps, self.dtype, name="norm")(x)
        normal = starts.STARTS["swin"].dense
        return layers.Dense(
            (2 * width,),
            use_bias=False,
            kernel_init=normal,
            dtype=self.dtype,
            name="reduction",
        )(x)
