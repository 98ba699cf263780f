"""microsoft/unilm beit `modeling_pretrain.py`: BEiT as pretrained, with its head."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from mimjax.convert import names, shapes
from mimjax.convert.names import Arrays, Entry


def recognises(arrays: Arrays) -> bool:
    """A head over a vocabulary, and one relative table for all layers."""
    return {"lm_head.weight", "mask_token", names.RELATIVE_TABLE} <= set(arrays)


def values(arrays: Arrays) -> dict[str, dict[str, Any]]:
    """The config groups of the model."""
    return {"encoder": shared(arrays), "objective": {"name": "beit"}}


def shared(arrays: Arrays, prefix: str = "") -> dict[str, Any]:
    """The encoder of BEiT, which SimMIM's vision transformer has as well."""
    rows, heads = arrays[prefix + names.RELATIVE_TABLE].shape
    # (2 g - 1)^2 distances of patches, and three of the class token.
    grid = (math.isqrt(rows - 3) + 1) // 2
    return {
        **shapes.vit(arrays, prefix, tokens=grid * grid),
        "heads": heads,
        "position": "relative",
        "qkv_bias": "qv",
        # Where LayerScale started is not kept; that there is one decides.
        "layer_scale": 0.1 if f"{prefix}blocks.0.gamma_1" in arrays else 0.0,
        "start": "beit",
    }


def entries(objective: Any) -> Iterator[Entry]:
    """The table of names."""
    yield from names.vit_encoder(objective.encoder)
    yield Entry("mask_token", ("mask_token",), names.COPY)
    yield from names.linear("head", "lm_head")


def constants(objective: Any) -> dict[str, np.ndarray]:
    """The table of distances."""
    return {"rel_pos_bias.relative_position_index": shapes.index(objective.encoder)}
