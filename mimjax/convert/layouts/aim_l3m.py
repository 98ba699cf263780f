"""apple/ml-l3m: AIM as pretrained, its trunk and its MLP head (`SimpleDecoder`)."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from mimjax.convert import schemes, shapes, tables
from mimjax.convert.layouts import aim
from mimjax.convert.names import Arrays, Entry

NAMES = dataclasses.replace(
    aim.NAMES,
    layer=schemes.Layer(
        norm1="norm_1",
        norm2="norm_2",
        qkv=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    ),
)
# Of the config that trains it (`configs/aimv1`), where what builds masks is beside it.
WHOLE = dataclasses.replace(
    NAMES,
    patch="preprocessor.blocks.0.patchifier.proj",
    patch_norm="preprocessor.blocks.0.patchifier.norm",
    position="preprocessor.blocks.0.pos_embed",
)
HEAD = "head.decoder_blocks.{}"
FIELDS = {**aim.FIELDS, "norm_eps": (1e-5,)}


def recognises(arrays: Arrays) -> bool:
    """A trunk whose query, key and value are apart."""
    return "trunk.blocks.0.attn.q_proj.weight" in arrays


def values(arrays: Arrays, said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The config groups of the model."""
    objective: dict[str, Any] = {"name": "aim"}
    if "head.decoder_projection.weight" in arrays:
        attends = f"{HEAD.format(0)}.attn.q_proj.weight" in arrays
        objective["head"] = "transformer" if attends else "mlp"
        objective["head_width"] = arrays["head.decoder_projection.weight"].shape[0]
        objective["head_depth"] = shapes.count(arrays, HEAD)
    elif "head.decoder_pred.weight" in arrays:
        objective["head"] = "none"
    encoder = {**aim.trunk(arrays, NAMES, said), "norm_eps": 1e-5}
    return {"encoder": encoder, "objective": objective}


def misfit(objective: Any) -> str:
    """Why it cannot be written so, if it cannot."""
    return schemes.misfit(objective, ("vit",), ("aim",), FIELDS)


def entries(objective: Any) -> Iterator[Entry]:
    """The table of names."""
    encoder = objective.encoder
    yield from schemes.vit(encoder, names=WHOLE)
    if objective.head != "none":
        yield from schemes.linear("head_embed", "head.decoder_projection")
        attends = objective.head == "transformer"
        spec = dataclasses.replace(
            encoder.spec(objective.head_width, objective.head_heads), bias=False
        )
        stack = ("head_blocks/layers", HEAD, spec, objective.head_depth, NAMES.layer)
        for entry in schemes.layers(*stack):
            if attends or "/attn/" not in entry.ours:
                yield entry
        yield from schemes.norm("head_norm", "head.decoder_norm")
    yield from schemes.linear("head_pred", "head.decoder_pred")


def constants(objective: Any) -> dict[str, np.ndarray]:
    """Both fixed tables of positions."""
    found = shapes.positions(objective.encoder, names=WHOLE)
    if objective.head != "none":
        table = tables.sincos(objective.encoder.grid, objective.head_width, False)
        found["head.decoder_pos_embed"] = table[None]
    return found
