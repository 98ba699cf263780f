"""microsoft/unilm beit `modeling_pretrain.py`: BEiT as pretrained, with its head."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from mimjax.convert import schemes, shapes
from mimjax.convert.names import COPY, Arrays, Entry

FIELDS = schemes.fields(
    position=("relative", "learned"), qkv_bias=("qv",), layer_scale=None
)
NAMES = schemes.TIMM


def recognises(arrays: Arrays) -> bool:
    """A head over a vocabulary, and a table of positions."""
    return (
        {"lm_head.weight", "mask_token"} <= set(arrays)
        and bool({NAMES.table, NAMES.position} & set(arrays))
        and "cls_pt_layers.0.norm1.weight" not in arrays
    )


def values(arrays: Arrays, said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The config groups of the model."""
    encoder = {**shapes.vit(arrays, said=said), "start": "beit"}
    objective = {"name": "beit", **shapes.hiding(encoder)}
    # Those of ImageNet-22k have relative tables and half of white as the mean; the one
    # of ImageNet-1k has positions of its own (its README).
    relative = encoder["position"] == "relative"
    data = {"normalise": "inception" if relative else "imagenet"}
    return {"encoder": encoder, "objective": objective, "data": data}


def resize(encoder: Any, said: dict[str, Any]) -> str:
    """How its code takes tables to another size: positions of patches as pictures."""
    return "geometric" if encoder.is_relative else "bicubic"


def misfit(objective: Any) -> str:
    """Why it cannot be written so, if it cannot."""
    return schemes.misfit(objective, ("vit",), ("beit",), FIELDS)


def entries(objective: Any) -> Iterator[Entry]:
    """The table of names."""
    yield from schemes.vit(objective.encoder, names=NAMES)
    yield Entry("mask_token", ("mask_token",), COPY)
    yield from vocabulary()


def vocabulary() -> Iterator[Entry]:
    """The head: as wide as the tokenizer has codes, which the file does not hold."""
    for entry in schemes.linear("head", "lm_head"):
        yield dataclasses.replace(entry, droppable=True)


def constants(objective: Any) -> dict[str, np.ndarray]:
    """The table of distances."""
    return shapes.indices(objective.encoder)
