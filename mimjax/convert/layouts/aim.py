"""apple/ml-aim `aim/v1/torch`: the trunk of AIM, as released."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from mimjax.convert import schemes, shapes
from mimjax.convert.names import Arrays, Entry

NAMES = schemes.Vit(
    layer=schemes.Layer(norm1="norm_1", norm2="norm_2"),
    patch="preprocessor.patchifier.proj",
    patch_norm="preprocessor.patchifier.norm",
    position="preprocessor.pos_embed",
    blocks="trunk.blocks.{}",
    norm="trunk.post_trunk_norm",
)
FIELDS = {
    **schemes.PLAIN,
    "position": ("sincos",),
    "qkv_bias": ("none",),
    "bias": (False,),
    "patch_norm": (True,),
    "cls": (False,),
}
HEAD_WIDTH = 128
"""Of every model of the paper (arXiv 2401.08541, table 1)."""


def recognises(arrays: Arrays) -> bool:
    """A trunk whose query, key and value share one weight."""
    return "trunk.blocks.0.attn.qkv.weight" in arrays


def values(arrays: Arrays, said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The config groups of the model."""
    return {"encoder": trunk(arrays, NAMES), "objective": {"name": "aim"}}


def trunk(arrays: Arrays, names: schemes.Vit) -> dict[str, Any]:
    """The encoder; its positions are fixed, and not always kept."""
    found = shapes.vit(arrays, names=names)
    heads = max(1, found["width"] // HEAD_WIDTH)
    return {**found, "heads": heads, "position": "sincos", "norm_eps": 1e-5}


def misfit(objective: Any) -> str:
    """Why it cannot be written so, if it cannot."""
    return schemes.misfit(objective, ("vit",), ("aim",), FIELDS)


def entries(objective: Any) -> Iterator[Entry]:
    """The table of names."""
    yield from schemes.vit(objective.encoder, names=NAMES)


def constants(objective: Any) -> dict[str, np.ndarray]:
    """Nothing: positions are computed there too."""
    return {}
