"""Encoders: image to tokens. They know nothing of masks, targets or losses.

`encoder.name = "swin"` is `mimjax/backbones/swin.py`; those of tokenizers are in
`mimjax/tokenizers`. Such a file holds a Flax module
`Encoder`, whose fields are the config group; `SIZES`, the fields that a named size
stands for; and `problems(fields)`, what cannot work, one line each. An encoder has

- `embed(image)`: patch embeddings [B, N, D], where tokens may be replaced;
- a call `(tokens, train)` -> tokens [B, T, out_width] after the last norm, each of
  which stands for `cell` pixels; `patch_tokens` of them leaves out a class token;
- `features(image, pool, chosen)`: one vector an image, of the layers chosen;
- `image_size`, `patch_size`, `channels`, `grid` and `num_tokens` of the embeddings,
  `layer_widths` (none where no layer can be chosen), `head_counts`, `cls`, `remat`,
  `unroll`, `dtype`.
"""

import importlib
from typing import Any

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


def pooled(x: Float[Array, "B N D"], pool: str) -> Float[Array, "B D"]:
    """The "mean" or "max" over the tokens of an image."""
    return x.max(axis=1) if pool == "max" else x.mean(axis=1)


class Patched:
    """What follows from the sizes of image and patch, in every encoder."""

    image_size: tuple[int, int]
    patch_size: Any  # (rows, columns) of pixels
    channels: int

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return patches.grid_of(self.image_size, self.patch_size)

    @property
    def num_tokens(self) -> int:
        """Patches of an image, a class token not counted."""
        return self.grid[0] * self.grid[1]

    @property
    def patch_values(self) -> int:
        """Numbers in a patch."""
        return self.patch_size[0] * self.patch_size[1] * self.channels
