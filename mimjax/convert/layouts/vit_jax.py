"""google-research/vision_transformer `models_vit.py`: ViT, AugReg and hybrids, npz."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from mimjax.backbones import hybrid
from mimjax.convert import schemes, shapes
from mimjax.convert.names import COPY, Arrays, Entry, Rule, reshaped

BLOCK = "Transformer/encoderblock_{}"
POSITION = "Transformer/posembed_input/pos_embedding"
# By flax linen; released files have the older numbers, which `plain.SAME` makes these.
ATTENTION, NORM, MLP = "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0"
# The tanh approximation of GELU is theirs (`nn.gelu`); timm and transformers use the
# exact one with the same weights.
FIELDS = schemes.fields(position=("learned",), gelu_tanh=(True,), cls=None)


def recognises(arrays: Arrays) -> bool:
    """Flax names of a transformer, its first layer by itself."""
    return f"{BLOCK.format(0)}/LayerNorm_0/scale" in arrays


def values(arrays: Arrays, said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The config groups of the model."""
    *patch, channels, width = arrays["embedding/kernel"].shape
    block, cls = BLOCK.format(0), "cls" in arrays
    tokens = arrays[POSITION].shape[1] - cls
    stem = "conv_root/kernel" in arrays
    stages = stages_of(arrays)
    if stem:
        patch = [p * hybrid.stride_of(stages) for p in patch]
        channels = arrays["conv_root/kernel"].shape[2]
    grid = shapes.grid_of(tokens, patch, said)
    encoder = {
        "name": "hybrid" if stem else "vit",
        "width": width,
        "depth": depth_of(arrays),
        "heads": arrays[f"{block}/{ATTENTION}/query/kernel"].shape[1],
        "mlp_ratio": arrays[f"{block}/{MLP}/Dense_0/bias"].shape[0] / width,
        "channels": channels,
        "patch_size": tuple(patch),
        "image_size": (grid[0] * patch[0], grid[1] * patch[1]),
        "cls": cls,
        "position": "learned",
        "gelu_tanh": True,
        "start": "vit",
    }
    if stem:
        root = arrays["conv_root/kernel"].shape[3]
        encoder |= {"stages": stages, "stem_width": root}
    objective = {"name": "classify", "pool": "token" if cls else "gap"}
    if "head/bias" in arrays:
        objective["num_classes"] = arrays["head/bias"].shape[0]
    if "pre_logits/bias" in arrays:
        objective["representation"] = arrays["pre_logits/bias"].shape[0]
    data = {"normalise": "inception"}
    return {"encoder": encoder, "objective": objective, "data": data}


def depth_of(arrays: Arrays) -> int:
    """How many layers."""
    depth = 0
    while f"{BLOCK.format(depth)}/LayerNorm_0/scale" in arrays:
        depth += 1
    return depth


def stages_of(arrays: Arrays) -> tuple[int, ...]:
    """How many units each stage of the ResNet has."""
    stages: list[int] = []
    while f"block{len(stages) + 1}/unit1/conv1/kernel" in arrays:
        stage, units = len(stages) + 1, 0
        while f"block{stage}/unit{units + 1}/conv1/kernel" in arrays:
            units += 1
        stages.append(units)
    return tuple(stages)


def resize(encoder: Any, said: dict[str, Any]) -> str:
    """How its code takes tables to another size."""
    return "corner-aligned"


def misfit(objective: Any) -> str:
    """Why it cannot be written so, if it cannot."""
    kinds = ("vit", "hybrid")
    wrong = schemes.misfit(objective, kinds, ("classify",), FIELDS)
    return wrong or schemes.mispooled(objective, "token", "gap")


def entries(objective: Any) -> Iterator[Entry]:
    """The table of names; arrays are in Flax layout there as here."""
    encoder = objective.encoder
    width, heads = encoder.width, (encoder.heads, encoder.width // encoder.heads)
    stem = hasattr(encoder, "stages")
    yield from patch(encoder, stem)
    if stem:
        yield from resnet(encoder)
    if encoder.cls:
        yield Entry("encoder/cls_token", ("cls",), COPY)

    yield Entry("encoder/pos_embed", (POSITION,), COPY)
    ours, count = "encoder/blocks/layers", encoder.depth
    attention = f"{BLOCK}/{ATTENTION}"
    parts = [f"{attention}/{name}" for name in ("query", "key", "value")]
    for kind, rule in (("kernel", apart(1)), ("bias", apart(0))):
        theirs = tuple(f"{part}/{kind}" for part in parts)
        yield Entry(f"{ours}/attn/qkv/{kind}", theirs, rule, count)
    flat = reshaped((*heads, width), (*heads, width))
    yield Entry(f"{ours}/attn/out/kernel", (f"{attention}/out/kernel",), flat, count)
    yield Entry(f"{ours}/attn/out/bias", (f"{attention}/out/bias",), COPY, count)
    for one, two in (
        ("norm1", "LayerNorm_0"),
        ("norm2", NORM),
        ("mlp/up", f"{MLP}/Dense_0"),
        ("mlp/down", f"{MLP}/Dense_1"),
    ):
        yield from same(f"{ours}/{one}", f"{BLOCK}/{two}", count)
    yield from same("encoder/norm", "Transformer/encoder_norm")
    if objective.representation:
        yield from same("pre_logits", "pre_logits")
    yield from same("head", "head")


def same(ours: str, theirs: str, count: int = 0) -> Iterator[Entry]:
    """A dense layer, or a norm."""
    first = "scale" if "norm" in theirs.lower() else "kernel"
    for name in (first, "bias"):
        yield Entry(f"{ours}/{name}", (f"{theirs}/{name}",), COPY, count)


def patch(encoder: Any, stem: bool) -> Iterator[Entry]:
    """The patch embedding, of pixels or of the last map of a ResNet."""
    size, channels = encoder.patch_size, encoder.channels
    if stem:
        stride = hybrid.stride_of(encoder.stages)
        size = tuple(p // stride for p in size)
        channels = hybrid.width_of(encoder.stem_width, encoder.stages)
    flat = (size[0] * size[1] * channels, encoder.width)
    rule = reshaped(flat, (*size, channels, encoder.width))
    yield Entry("encoder/patch/kernel", ("embedding/kernel",), rule)
    yield Entry("encoder/patch/bias", ("embedding/bias",), COPY)


def resnet(encoder: Any) -> Iterator[Entry]:
    """The ResNet of a hybrid."""
    # Older files hold what belongs to norms as [1, 1, 1, channels].
    flat = Rule(lambda x: x.reshape(-1), lambda x: (x,))

    def pair(ours: tuple[str, str], conv: str, norm: str) -> Iterator[Entry]:
        yield Entry(f"encoder/stem/{ours[0]}/kernel", (f"{conv}/kernel",), COPY)
        for name in ("scale", "bias"):
            yield Entry(f"encoder/stem/{ours[1]}/{name}", (f"{norm}/{name}",), flat)

    yield from pair(("root", "root_norm"), "conv_root", "gn_root")
    before = encoder.stem_width
    for stage, units in enumerate(encoder.stages, 1):
        wide = encoder.stem_width * 2 ** (stage - 1) * 4
        for unit in range(1, units + 1):
            ours, theirs = f"stage_{stage}_unit_{unit}", f"block{stage}/unit{unit}"
            for n in (1, 2, 3):
                places = (f"{ours}/conv{n}", f"{ours}/norm{n}")
                yield from pair(places, f"{theirs}/conv{n}", f"{theirs}/gn{n}")
            if unit == 1 and (stage > 1 or before != wide):
                places = (f"{ours}/conv_skip", f"{ours}/norm_skip")
                yield from pair(places, f"{theirs}/conv_proj", f"{theirs}/gn_proj")
            before = wide


def apart(axis: int) -> Rule:
    """Query, key and value apart, side by side along an axis of ours."""
    return Rule(
        lambda *parts: np.stack(parts, axis),
        lambda x: tuple(np.moveaxis(x, axis, 0)),
    )
