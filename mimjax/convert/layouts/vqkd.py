"""microsoft/unilm beit2 `modeling_vqkd.py`: VQ-KD, BEiT v2's tokenizer."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from mimjax.convert import schemes, shapes
from mimjax.convert.names import COPY, Arrays, Entry, Rule

NAMES = schemes.Vit(norm="fc_norm")
CODES = "quantize.embedding.weight"
DECODER_HEADS = 12
"""Of every released decoder (`modeling_vqkd.py`); the shapes do not tell."""
FIELDS = schemes.fields(position=("learned",), qkv_bias=("qv",))
BESIDE = ("teacher", "scaling", "loss")
"""The teacher whole, and what prepares its images: the official loader drops them."""


def recognises(arrays: Arrays) -> bool:
    """A codebook between an encoder and a decoder."""
    return CODES in arrays and "encoder.patch_embed.proj.weight" in arrays


def values(arrays: Arrays, said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The config groups of the model."""
    codes, code_width = arrays[CODES].shape
    objective = {"name": "vqkd", "num_codes": codes, "code_width": code_width}
    if "decoder.blocks.0.norm1.weight" in arrays:
        width = arrays["decoder.patch_embed.proj.weight"].shape[0]
        depth = shapes.count(arrays, "decoder.blocks.{}")
        objective |= {"decoder_width": width, "decoder_depth": depth}
        objective["decoder_heads"] = DECODER_HEADS
    encoder = {**shapes.vit(arrays, "encoder.", NAMES, said), "start": "beit"}
    data = {"normalise": "inception"}
    return {"encoder": encoder, "objective": objective, "data": data}


def misfit(objective: Any) -> str:
    """Why it cannot be written so, if it cannot."""
    return schemes.misfit(objective, ("vit",), ("vqkd",), FIELDS)


def entries(objective: Any) -> Iterator[Entry]:
    """The table of names."""
    encoder = objective.encoder
    yield from schemes.vit(encoder, "encoder.", NAMES)
    decoder = encoder.clone(
        image_size=encoder.grid,
        patch_size=(1, 1),
        channels=objective.code_width,
        width=objective.decoder_width,
        depth=objective.decoder_depth,
        heads=objective.decoder_heads,
    )
    for entry in schemes.vit(decoder, "decoder.", NAMES):
        ours = entry.ours.replace("encoder/", "decoder/", 1)
        yield dataclasses.replace(entry, ours=ours)
    yield from schemes.linear("code_hidden", "encode_task_layer.0")
    yield from schemes.linear("code", "encode_task_layer.2")
    yield from schemes.linear("decoder_hidden", "decode_task_layer.0")
    # As wide as the teacher, which the file does not hold.
    for entry in schemes.linear("decoder_pred", "decode_task_layer.2"):
        yield dataclasses.replace(entry, droppable=True)
    yield Entry("moving/codes", (CODES,), COPY)
    flag = Rule(lambda x: x.reshape(()), lambda x: (x.reshape(1).astype(np.float32),))
    yield Entry("moving/started", ("quantize.embedding.initted",), flag)


def constants(objective: Any) -> dict[str, np.ndarray]:
    """What the quantiser counts of codes, which nothing here asks for."""
    ones = np.ones(objective.num_codes, np.float32)
    average = np.zeros((objective.num_codes, objective.code_width), np.float32)
    return {
        "quantize.cluster_size": ones,
        "quantize.embedding.cluster_size": ones,
        "quantize.embedding.embed_avg": average,
    }
