"""facebookresearch/mae `models_mae.py`: pretraining weights, with or without decoder.

Files `mae_pretrain_vit_*.pth` (encoder), `..._full.pth` and `mae_visualize_vit_*.pth`
(with decoder; the latter predicts pixels as they are: objective.norm_pixels=False).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from mimjax import posembed
from mimjax.convert import names, shapes
from mimjax.convert.names import Arrays, Entry

DECODER_HEADS = 16
"""Of every released decoder (models_mae.py); the shapes do not tell."""


def recognises(arrays: Arrays) -> bool:
    """A fixed table of positions whose class token has none, and no classifier."""
    plain = "patch_embed.proj.weight" in arrays and "blocks.0.attn.qkv.bias" in arrays
    return (
        plain
        and not {"head.weight", "fc_norm.weight", "lm_head.weight"} & set(arrays)
        and "pos_embed" in arrays
        and not arrays["pos_embed"][0, 0].any()
    )


def values(arrays: Arrays) -> dict[str, dict[str, Any]]:
    """The config groups of the model."""
    tokens = arrays["pos_embed"].shape[1] - 1
    encoder = {**shapes.vit(arrays, tokens=tokens), "position": "sincos"}
    objective: dict[str, Any] = {"name": "mae"}
    if "decoder_embed.weight" in arrays:
        objective["decoder_width"] = arrays["decoder_embed.weight"].shape[0]
        objective["decoder_depth"] = shapes.count(arrays, "decoder_blocks")
        objective["decoder_heads"] = DECODER_HEADS
    return {"encoder": encoder, "objective": objective}


def entries(objective: Any) -> Iterator[Entry]:
    """The table of names."""
    encoder = objective.encoder
    yield from names.vit_encoder(encoder)
    yield from names.linear("decoder_embed", "decoder_embed")
    yield Entry("mask_token", ("mask_token",), names.COPY)
    spec = encoder.spec(objective.decoder_width, objective.decoder_heads)
    stack = ("decoder/layers", "decoder_blocks.{}")
    yield from names.layers(*stack, spec, objective.decoder_depth)
    yield from names.norm("decoder_norm", "decoder_norm")
    yield from names.linear("decoder_pred", "decoder_pred")


def constants(objective: Any) -> dict[str, np.ndarray]:
    """Both fixed tables of positions, the class token's zeros first."""
    encoder = objective.encoder
    tables = {
        "pos_embed": posembed.sincos_2d(encoder.grid, encoder.width),
        "decoder_pos_embed": posembed.sincos_2d(encoder.grid, objective.decoder_width),
    }
    return {
        name: np.concatenate([np.zeros_like(table[:1]), table])[None]
        for name, table in tables.items()
    }
