"""facebookresearch/dinov2 `vision_transformer.py`: with and without registers."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from mimjax.convert import schemes, shapes
from mimjax.convert.names import Arrays, Entry

SCALES = ("ls1.gamma", "ls2.gamma")
GATED = ("mlp.w12", "mlp.w3")
FIELDS = schemes.fields(
    position=("learned",), layer_scale=None, registers=None, swiglu=None
)


def names_of(gated: bool) -> schemes.Vit:
    """The names of a model."""
    mlp = GATED if gated else schemes.Layer.mlp
    return schemes.Vit(layer=schemes.Layer(scales=SCALES, mlp=mlp))


def recognises(arrays: Arrays) -> bool:
    """timm's names with a mask token and LayerScale."""
    return {"mask_token", "blocks.0.ls1.gamma", "pos_embed"} <= set(arrays)


def values(arrays: Arrays, said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The config groups of the model: its encoder, and a classifier without a head."""
    names = names_of(f"blocks.0.{GATED[0]}.weight" in arrays)
    return {
        "encoder": {**shapes.vit(arrays, names=names, said=said), "start": "vit"},
        "objective": {"name": "classify"},
    }


def resize(encoder: Any, said: dict[str, Any]) -> str:
    """The scale factors are (grid + 0.1) / source; with registers all is plain.

    `hub/backbones.py`: offset 0.1 without antialias, offset 0 with.
    """
    return "bicubic, antialias" if encoder.registers else "bicubic, offset 0.1"


def misfit(objective: Any) -> str:
    """Why it cannot be written so, if it cannot."""
    return schemes.misfit(objective, ("vit",), (), FIELDS)


def entries(objective: Any) -> Iterator[Entry]:
    """The table of names."""
    encoder = objective.encoder
    yield from schemes.vit(encoder, names=names_of(encoder.swiglu))


def constants(objective: Any) -> dict[str, np.ndarray]:
    """What is put for hidden patches in its own pretraining, which is not here."""
    return {"mask_token": np.zeros((1, objective.encoder.width), np.float32)}
