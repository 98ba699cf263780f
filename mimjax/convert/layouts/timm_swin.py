"""timm `SwinTransformer`: stages merge at the start of the next, not at their end."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from mimjax.convert import schemes
from mimjax.convert.layouts import swin, timm_vit
from mimjax.convert.names import Arrays, Entry

NAMES = dataclasses.replace(swin.NAMES, late=1, head="head.fc")


def recognises(arrays: Arrays) -> bool:
    """Stages of layers with a relative table each, merging at their start."""
    return (
        "layers.0.blocks.0.attn.relative_position_bias_table" in arrays
        and "layers.0.downsample.reduction.weight" not in arrays
    )


def values(arrays: Arrays, said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The config groups of the model."""
    encoder = swin.fields(arrays, said, "", NAMES)
    return {"encoder": encoder, "objective": swin.classifier(arrays, NAMES.head)}


def resize(encoder: Any, said: dict[str, Any]) -> str:
    """How its code takes tables to another size."""
    return "geometric"


def misfit(objective: Any) -> str:
    """Why it cannot be written so, if it cannot."""
    wrong = schemes.misfit(objective, ("swin",), (), {"norm_eps": (1e-5,)})
    wrong = wrong or schemes.oblong(objective, "patch_size")
    wrong = wrong or schemes.mispooled(objective, "gap") or shrinking(objective)
    wrong = wrong or swin.uncut(objective)
    return wrong or timm_vit.headless(objective)


def shrinking(objective: Any) -> str:
    """Why windows cannot be told: its own shrink, and shift, a side for itself."""
    encoder = objective.encoder
    sides = swin.specs(encoder)[-1].grid
    filled = min(sides) <= encoder.window and sides[0] != sides[1]
    return "encoder.window: more than the last stage has, or as much" if filled else ""


def entries(objective: Any) -> Iterator[Entry]:
    """The table of names."""
    yield from swin.encoder(objective.encoder, "", NAMES)
    if timm_vit.classes_of(objective):
        yield from schemes.linear("head", NAMES.head)


def package(objective: Any, mean: Any, std: Any) -> dict[str, Any]:
    """The configuration beside the weights."""
    encoder = objective.encoder
    args = {
        "img_size": list(encoder.image_size),
        "patch_size": encoder.patch_size[0],
        "in_chans": encoder.channels,
        "embed_dim": encoder.width,
        "depths": list(encoder.depths),
        "num_heads": list(encoder.heads),
        "window_size": encoder.window,
        "mlp_ratio": swin.cut_ratio(encoder),
    }
    name = "swin_base_patch4_window7_224"
    return timm_vit.configuration(name, objective, args, mean, std, NAMES.head)
