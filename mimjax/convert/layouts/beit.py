"""microsoft/unilm beit `modeling_pretrain.py`: BEiT as pretrained, with its head."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from mimjax.convert import resize, schemes, shapes
from mimjax.convert.names import COPY, Arrays, Entry

FIELDS = {**schemes.PLAIN, "position": ("relative",), "qkv_bias": ("qv",)}
FIELDS.pop("layer_scale")
NAMES = schemes.TIMM
RESIZE = resize.geometric


def recognises(arrays: Arrays) -> bool:
    """A head over a vocabulary, and one relative table for all layers."""
    wanted = {"lm_head.weight", "mask_token", NAMES.table}
    return wanted <= set(arrays) and "cls_pt_layers.0.norm1.weight" not in arrays


def values(arrays: Arrays, said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The config groups of the model."""
    encoder = {**shapes.vit(arrays), "start": "beit"}
    objective = {"name": "beit", **shapes.hiding(encoder)}
    return {"encoder": encoder, "objective": objective}


def misfit(objective: Any) -> str:
    """Why it cannot be written so, if it cannot."""
    return schemes.misfit(objective, ("vit",), ("beit",), FIELDS)


def entries(objective: Any) -> Iterator[Entry]:
    """The table of names."""
    yield from schemes.vit(objective.encoder, names=NAMES)
    yield Entry("mask_token", ("mask_token",), COPY)
    yield from schemes.linear("head", "lm_head")


def constants(objective: Any) -> dict[str, np.ndarray]:
    """The table of distances."""
    return shapes.indices(objective.encoder)
