"""facebookresearch/mae `models_mae.py`: pretraining weights, with or without decoder.

Files `mae_pretrain_vit_*.pth` (encoder), `..._full.pth` and `mae_visualize_vit_*.pth`
(with decoder; the latter predicts pixels as they are: objective.norm_pixels=False).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from mimjax.convert import schemes, shapes, tables
from mimjax.convert.names import COPY, Arrays, Entry

DECODER_HEADS = 16
"""Of every released decoder (models_mae.py); the shapes do not tell."""
FIELDS = schemes.fields(position=("sincos",))


def recognises(arrays: Arrays) -> bool:
    """A table of positions whose class token has none, and no classifier."""
    plain = {"patch_embed.proj.weight", "blocks.0.attn.qkv.bias", "norm.weight"}
    return (
        plain <= set(arrays)
        and not {"head.weight", "lm_head.weight"} & set(arrays)
        and "pos_embed" in arrays
        and not arrays["pos_embed"][0, 0].any()
    )


def values(arrays: Arrays, said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The config groups of the model."""
    objective: dict[str, Any] = {"name": "mae"}
    if "decoder_embed.weight" in arrays:
        objective["decoder_width"] = arrays["decoder_embed.weight"].shape[0]
        objective["decoder_depth"] = shapes.count(arrays, "decoder_blocks.{}")
        objective["decoder_heads"] = DECODER_HEADS
    return {"encoder": shapes.vit(arrays, said=said), "objective": objective}


def misfit(objective: Any) -> str:
    """Why it cannot be written so, if it cannot."""
    return schemes.misfit(objective, ("vit",), ("mae",), FIELDS) or variant(objective)


def variant(objective: Any) -> str:
    """Why one of our variants cannot be written, if it is one."""
    if objective.mask_in_encoder:
        return "objective.mask_in_encoder: theirs shows its encoder no mask tokens"
    if objective.tokenizer:
        return "objective.tokenizer: theirs predicts pixels"
    return ""


def entries(objective: Any) -> Iterator[Entry]:
    """The table of names."""
    encoder = objective.encoder
    yield from schemes.vit(encoder)
    yield from schemes.linear("decoder_embed", "decoder_embed")
    yield Entry("mask_token", ("mask_token",), COPY)
    spec = encoder.spec(objective.decoder_width, objective.decoder_heads)
    stack = ("decoder/layers", "decoder_blocks.{}")
    yield from schemes.layers(*stack, spec, objective.decoder_depth)
    yield from schemes.norm("decoder_norm", "decoder_norm")
    yield from schemes.linear("decoder_pred", "decoder_pred")


def constants(objective: Any) -> dict[str, np.ndarray]:
    """Both fixed tables of positions, the class token's zeros first."""
    encoder = objective.encoder
    table = tables.sincos(encoder.grid, objective.decoder_width, encoder.cls)
    return {**shapes.positions(encoder), "decoder_pos_embed": table[None]}
