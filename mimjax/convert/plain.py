"""The arrays of files by the names that all files of a layout share."""

import pathlib
import re
from collections.abc import Sequence

import numpy as np

from mimjax.convert.files import BadFileError, read
from mimjax.convert.names import Arrays
from mimjax.convert.pickles import short

# What the same thing is called in files of the same layout; the first is kept out.
SAME: tuple[tuple[str, str], ...] = (
    # What a model of transformers that has a head calls its encoder; DINO and iBOT too.
    (r"^(vit|beit|swin|dinov2|dinov2_with_registers|backbone)\.", ""),
    # transformers 5.23 writes the decoder of ViTMAE so, and reads both.
    (r"\.decoder_encoder\.layer\.", ".decoder_layers."),
    (r"^preprocessor\.blocks\.0\.", "preprocessor."),  # ml-l3m
    # vit_jax numbered all parts of a layer before flax linen, and each kind since.
    (r"/MultiHeadDotProductAttention_1/", "/MultiHeadDotProductAttention_0/"),
    (r"/LayerNorm_2/", "/LayerNorm_1/"),
    (r"/MlpBlock_3/", "/MlpBlock_0/"),
)
# What a file may hold beside parameters, computed from the sizes.
BUFFERS = ("relative_position_index", "relative_coords_table", "attn_mask")


def plain(name: str) -> str:
    """A name as all files of its layout have it."""
    for pattern, other in SAME:
        name = re.sub(pattern, other, name)
    return name


def plainly(arrays: Arrays) -> dict[str, np.ndarray]:
    """The same arrays by their plain names."""
    return {plain(name): x for name, x in arrays.items()}


def together(paths: Sequence[pathlib.Path]) -> dict[str, np.ndarray]:
    """The arrays of all files by their plain names."""
    found: dict[str, np.ndarray] = {}
    for path in paths:
        raw = read(path)
        arrays = plainly(raw)
        if len(arrays) < len(raw):
            raise BadFileError(f"{path} holds {doubled(raw)}: leave one of them out")
        # DALL-E's two files call their parts alike; in a decoder all groups have it.
        if "blocks.input.w" in arrays:
            side = (
                "decoder" if "blocks.group_1.block_1.id_path.w" in arrays else "encoder"
            )
            arrays = {f"{side}.{name}": x for name, x in arrays.items()}
        twice = found.keys() & arrays.keys()
        if twice:
            what = short(min(twice))
            raise BadFileError(f"{path} holds {what}, as another file does")
        found |= arrays
    return found


def doubled(arrays: Arrays) -> str:
    """Two names that are one by their plain names, for people."""
    first: dict[str, str] = {}
    for name in arrays:
        other = first.setdefault(plain(name), name)
        if other != name:
            return f"{short(other)} and {short(name)}, which are one thing here"
    return ""
