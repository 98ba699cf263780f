"""Encoders: image to tokens. They know nothing of masks, targets or losses.

`encoder.name = "swin"` is `mimjax/backbones/swin.py`; those of tokenizers are in
`mimjax/tokenizers`. Such a file holds a Flax module
`Encoder`, whose fields are the config group; `SIZES`, the fields that a named size
stands for; and `problems(fields)`, what cannot work, one line each. An encoder has

- `embed(image)`: patch embeddings [B, N, D], where tokens may be replaced;
- a call `(tokens, train)` -> tokens [B, T, out_width] after the last norm, each of
  which stands for `cell` pixels; before those of patches come a class token if there is
  one (`cls`) and `registers`, together `num_prefix`;
- `run(tokens, chosen)`: the same before that norm, and the mean of the layers chosen,
  counted from 1, where there are `layer_widths`;
- `layer_of(path)`: the layer of a parameter, where there are `layer_widths`: 0 for
  what embeds, then counted from 1, one more than all of them for what follows; of a
  stack an array, that of each;
- `image_size`, `patch_size`, `channels`, `grid` and `num_tokens` of the embeddings,
  `layer_widths` (none where no layer can be chosen), `remat`, `unroll`, `dtype`.
"""

import importlib
import math
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mimjax import patches

# Name -> the package it is in.
NAMES = {
    "vit": "backbones",
    "swin": "backbones",
    "hybrid": "backbones",
    "dvae": "tokenizers",
}


def load(name: str) -> Any:
    """The module of an encoder in NAMES."""
    return importlib.import_module(f"mimjax.{NAMES[name]}.{name}")


class Patched:
    """What every encoder has alike: its grid of patches, and features of an image."""

    image_size: tuple[int, int]
    patch_size: Any  # (rows, columns) of pixels
    channels: int
    cls: Any  # whether there is a class token
    registers: Any = 0  # how many tokens without a place follow it
    layer_widths: Any
    embed: Any
    run: Any

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return patches.grid_of(self.image_size, self.patch_size)

    @property
    def cell(self) -> tuple[int, int]:
        """The pixels, down and across, that a token coming out stands for."""
        return self.patch_size

    @property
    def num_tokens(self) -> int:
        """Patches of an image; a class token and registers are not counted."""
        return self.grid[0] * self.grid[1]

    @property
    def num_prefix(self) -> int:
        """Tokens before those of the patches: the class token and registers."""
        return int(self.cls) + self.registers

    @property
    def patch_values(self) -> int:
        """Numbers that a patch is made of."""
        return self.patch_size[0] * self.patch_size[1] * self.channels

    def values(self, image: Float[Array, "B H W C"]) -> Float[Array, "B N P"]:
        """These numbers of each patch."""
        return patches.patchify(image, self.patch_size)

    def grid_of(self, count: int) -> tuple[int, int]:
        """Rows and columns of so many tokens of patches, merged by 2 x 2, 4 x 4 ..."""
        times = math.isqrt(self.num_tokens // count)
        return self.grid[0] // times, self.grid[1] // times

    def patch_tokens(self, x: Float[Array, "B T D"]) -> Float[Array, "B N D"]:
        """The tokens of patches alone, without class token and registers."""
        return x[:, self.num_prefix :]

    def numbered(self, layers: tuple[int, ...]) -> tuple[int, ...]:
        """Layers as `run` counts them, from 1, of such as -1, which is the last."""
        after = len(self.layer_widths) + 1
        return tuple(layer % after for layer in layers)

    def layer_of(self, path: tuple[str, ...]) -> int | np.ndarray:
        """The layer of a parameter of one stack, "blocks", and what is around it.

        As in facebookresearch/mae `util/lr_decay.py` and microsoft/unilm beit
        `optim_factory.py`: a table that all layers share comes after them.
        """
        depth = len(self.layer_widths)
        if path[0] == "blocks":
            return np.arange(1, depth + 1)
        return depth + 1 if path[0] in ("norm", "relative_table") else 0

    def features(
        self,
        image: Float[Array, "B H W C"],
        pool: str = "mean",
        chosen: tuple[int, ...] = (),
    ) -> Float[Array, "B D"]:
        """One float32 vector an image, of the whole image: no patch is hidden.

        `pool` is "cls" (the class token), or "mean" or "max" over the patches: of what
        the last norm gives or, before it, of the mean of the layers `chosen`.
        """
        tokens, call = self.embed(image), cast(Any, self)
        x = self.run(tokens, chosen=chosen)[1] if chosen else call(tokens)
        x = x.astype(jnp.float32)
        if pool == "cls":
            return x[:, 0]
        x = self.patch_tokens(x)
        return x.max(axis=1) if pool == "max" else x.mean(axis=1)
