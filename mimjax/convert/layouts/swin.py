"""microsoft/Swin-Transformer `models/swin_transformer.py`, and its variants' names."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from mimjax import posembed
from mimjax.backbones import windows
from mimjax.convert import schemes, shapes
from mimjax.convert.layouts import timm_vit
from mimjax.convert.names import Arrays, Entry

# Buffers of a layer, which the official code keeps.
INDEX, MASK = "attn.relative_position_index", "attn_mask"
VIT = schemes.Vit(blocks="layers.{}.blocks.{}")


@dataclasses.dataclass(frozen=True)
class Names:
    """Names of a Swin transformer; `late` 1: stages merge at the start of the next."""

    vit: schemes.Vit = VIT
    merge: str = "layers.{}.downsample"
    late: int = 0
    head: str = "head"


NAMES = Names()
FIELDS = {"norm_eps": (1e-5,)}


def recognises(arrays: Arrays) -> bool:
    """Stages of layers with a relative table each, merging at their end."""
    return (
        "layers.0.blocks.0.attn.relative_position_bias_table" in arrays
        and "layers.0.downsample.reduction.weight" in arrays
    )


def values(arrays: Arrays, said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The config groups of the model."""
    encoder = fields(arrays, said, "", NAMES)
    return {"encoder": encoder, "objective": classifier(arrays, NAMES.head)}


def classifier(arrays: Arrays, head: str) -> dict[str, Any]:
    """The objective of a classifier of the mean of all tokens."""
    found: dict[str, Any] = {"name": "classify", "pool": "gap"}
    if f"{head}.weight" in arrays:
        found["num_classes"] = arrays[f"{head}.weight"].shape[0]
    return found


def masked(encoder: dict[str, Any]) -> dict[str, Any]:
    """The objective of masked image modelling."""
    side = encoder["patch_size"][0] * 2 ** (len(encoder["depths"]) - 1)
    return {"name": "simmim", **shapes.cells(encoder, side)}


def fields(
    arrays: Arrays, said: dict[str, Any], prefix: str, names: Names
) -> dict[str, Any]:
    """The encoder; how large images are the shapes do not tell, but a mask may."""
    if shapes.gelu_tanh(said):
        raise ValueError("its activation is an approximation of gelu")
    arrays = {n.removeprefix(prefix): x for n, x in arrays.items()}
    vit = names.vit
    width, channels, *patch = shapes.convolution(arrays, vit.patch)
    depths, heads, windows_ = [], [], []
    while f"{vit.blocks.format(len(depths), 0)}.{vit.layer.norm1}.weight" in arrays:
        stage = len(depths)
        rows, count = arrays[f"{vit.blocks.format(stage, 0)}.{vit.layer.table}"].shape
        depths.append(shapes.count(arrays, vit.blocks.replace("{}", str(stage), 1)))
        heads.append(count)
        windows_.append((math.isqrt(rows) + 1) // 2)
    window, first = windows_[0], vit.blocks.format(0, 0)
    # Smaller ones are of stages that are themselves no larger.
    if sorted(windows_, reverse=True) != windows_:
        raise ValueError(f"its stages have windows {windows_}, not one for all")
    up = arrays[f"{first}.{vit.layer.mlp[0]}.weight"]
    found = {
        "name": "swin",
        "width": width,
        "depths": tuple(depths),
        "heads": tuple(heads),
        "window": window,
        "mlp_ratio": up.shape[0] / width,
        "channels": channels,
        "patch_size": tuple(patch),
        "norm_eps": said.get("layer_norm_eps", 1e-5),
    }
    size = shapes.sized(said.get("image_size"))
    size = size or size_of(arrays, names, found, windows_)
    return {**found, "image_size": size}


def size_of(
    arrays: Arrays, names: Names, found: dict[str, Any], sides: list[int]
) -> tuple[int, int]:
    """A square image: by the mask of a shifted layer, or the last stage's window.

    Without masks the last stage is as large as its window, as officially (7 of 224
    pixels, 12 of 384; 6 of 192 in SimMIM).
    """
    last = len(sides) - 1
    for stage, side in enumerate(sides):
        mask = f"{names.vit.blocks.format(stage, 1)}.{MASK}"
        if mask in arrays:
            grid = side * shapes.square(len(arrays[mask])) * 2**stage
            break
    else:
        grid = sides[last] * 2**last
    return tuple(grid * p for p in found["patch_size"])


def misfit(objective: Any) -> str:
    """Why it cannot be written so, if it cannot."""
    wrong = schemes.misfit(objective, ("swin",), ("classify",), FIELDS)
    wrong = wrong or schemes.mispooled(objective, "gap")
    return wrong or timm_vit.headless(objective)


def entries(objective: Any) -> Iterator[Entry]:
    """The table of names."""
    yield from encoder(objective.encoder, "", NAMES)
    yield from schemes.linear("head", NAMES.head)


def encoder(swin: Any, prefix: str, names: Names) -> Iterator[Entry]:
    """The table of names of the encoder."""
    vit = names.vit
    yield from schemes.patch("encoder/patch", prefix + vit.patch, swin)
    yield from schemes.norm("encoder/patch_scale", prefix + vit.patch_norm)
    for stage, spec in enumerate(specs(swin)):
        stack = (
            f"encoder/stages_{stage}/layers",
            prefix + vit.blocks.replace("{}", str(stage), 1),
        )
        depth = swin.depths[stage]
        yield from schemes.layers(*stack, spec, depth, vit.layer, True)
        if stage + 1 < len(swin.depths):
            ours = f"encoder/merges_{stage}"
            merge = prefix + names.merge.format(stage + names.late)
            yield from schemes.norm(f"{ours}/norm", f"{merge}.norm")
            reduction = (f"{ours}/reduction", f"{merge}.reduction")
            yield from schemes.linear(*reduction, bias=False)
    yield from schemes.norm("encoder/norm", prefix + vit.norm)


def specs(swin: Any) -> list[Any]:
    """The layers of every stage."""
    grid, found = swin.grid, []
    for stage, heads in enumerate(swin.heads):
        found.append(
            windows.Spec(
                width=swin.width * 2**stage,
                heads=heads,
                mlp_width=0,
                grid=grid,
                window=min(swin.window, *grid),
            )
        )
        grid = (grid[0] // 2, grid[1] // 2)
    return found


def shrinks(swin: Any) -> bool:
    """Whether the last stage is smaller than the window, which shrinks there."""
    return specs(swin)[-1].window < swin.window


def cut_ratio(swin: Any) -> float:
    """That of its MLPs for timm and transformers; 0 where there is none."""
    return schemes.mlp_ratio([spec.width for spec in specs(swin)], swin.mlp_ratio)


def uncut(objective: Any) -> str:
    """Why its MLPs cannot be told where there is none."""
    told = "encoder.mlp_ratio: the MLPs of all stages follow from no one ratio"
    return "" if cut_ratio(objective.encoder) else told


def constants(objective: Any) -> dict[str, np.ndarray]:
    """Tables of distances, and masks of the layers that shift."""
    return buffers(objective.encoder, "", NAMES)


def buffers(swin: Any, prefix: str, names: Names) -> dict[str, np.ndarray]:
    """What their layers keep beside parameters."""
    found = {}
    for stage, spec in enumerate(specs(swin)):
        index = posembed.relative_index((spec.window, spec.window), cls=False)
        apart = (
            windows.apart(spec.grid, spec.window, spec.shift) if spec.shift else None
        )
        for number in range(swin.depths[stage]):
            block = prefix + names.vit.blocks.format(stage, number)
            found[f"{block}.{INDEX}"] = np.asarray(index, np.int64)
            if apart is not None and number % 2:
                mask = np.where(apart, np.float32(windows.APART), np.float32(0.0))
                found[f"{block}.{MASK}"] = mask
    return found
