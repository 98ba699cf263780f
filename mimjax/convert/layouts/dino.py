"""facebookresearch/dino `vision_transformer.py`: timm's names, another resizing."""

from collections.abc import Iterator
from typing import Any

from mimjax.convert import schemes, shapes
from mimjax.convert.names import Arrays, Entry

FIELDS = schemes.fields(position=("learned",))


def recognises(arrays: Arrays) -> bool:
    """timm's names beside its own head; of a bare backbone `--layout=dino` says it."""
    return {"head.last_layer.weight_v", "blocks.0.attn.qkv.bias"} <= set(arrays)


def values(arrays: Arrays, said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The config groups of the model: its encoder, and a classifier without a head."""
    return {
        "encoder": {**shapes.vit(arrays, said=said), "start": "vit"},
        "objective": {"name": "classify"},
    }


def resize(encoder: Any, said: dict[str, Any]) -> str:
    """`interpolate_pos_encoding` takes (grid + 0.1) / source as scale factors."""
    return "bicubic, offset 0.1"


def misfit(objective: Any) -> str:
    """Why it cannot be written so, if it cannot."""
    return schemes.misfit(objective, ("vit",), (), FIELDS)


def entries(objective: Any) -> Iterator[Entry]:
    """The table of names."""
    yield from schemes.vit(objective.encoder)
