"""timm `VisionTransformer`: ViT, DeiT, hybrids; MAE fine-tuned names it so."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from mimjax.backbones import hybrid
from mimjax.convert import schemes, shapes
from mimjax.convert.names import CONV, Arrays, Entry

NAMES = schemes.Vit(
    layer=schemes.Layer(scales=("ls1.gamma", "ls2.gamma")),
)
STEM = "patch_embed.backbone"
FIELDS = schemes.fields(layer_scale=None, cls=None, gelu_tanh=None)


def recognises(arrays: Arrays) -> bool:
    """Its names, and no head or token of masked image modelling."""
    others = {"mask_token", "lm_head.weight", "reg_token", "norm_pre.weight"}
    others |= {"head.last_layer.weight_v"}
    return (
        {"patch_embed.proj.weight", "blocks.0.attn.qkv.bias", "pos_embed"}
        <= set(arrays)
        and not others & set(arrays)
        and not any(name.startswith("decoder") for name in arrays)
    )


def values(arrays: Arrays, said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The config groups of the model."""
    stem = stem_of(arrays) if f"{STEM}.stem.conv.weight" in arrays else {}
    stride = hybrid.stride_of(stem["stages"]) if stem else 1
    encoder = shapes.vit(arrays, "", NAMES, said, stride) | stem
    return {
        "encoder": {**encoder, "start": "vit"},
        "objective": classifier(arrays, encoder["cls"]),
    }


def classifier(arrays: Arrays, cls: bool) -> dict[str, Any]:
    """The objective: where there is a norm behind the mean, that of patches."""
    pool = "token" if cls else "gap"
    if "fc_norm.weight" in arrays:
        pool = "mean"
    found: dict[str, Any] = {"name": "classify", "pool": pool}
    if "head.weight" in arrays:
        found["num_classes"] = arrays["head.weight"].shape[0]
    return found


def stem_of(arrays: Arrays) -> dict[str, Any]:
    """The fields of a hybrid's ResNet."""
    stages: list[int] = []
    while f"{STEM}.stages.{len(stages)}.blocks.0.conv1.weight" in arrays:
        stages.append(shapes.count(arrays, f"{STEM}.stages.{len(stages)}.blocks.{{}}"))
    width, channels, *_ = arrays[f"{STEM}.stem.conv.weight"].shape
    return {
        "name": "hybrid",
        "stages": tuple(stages),
        "stem_width": width,
        "channels": channels,
    }


def resize(encoder: Any, said: dict[str, Any]) -> str:
    """timm's own, where its configuration is there; MAE and DeiT have plain bicubic."""
    return "bicubic, antialias" if "architecture" in said else "bicubic"


def misfit(objective: Any) -> str:
    """Why it cannot be written so, if it cannot."""
    encoder = objective.encoder
    wrong = schemes.misfit(objective, ("vit", "hybrid"), (), FIELDS)
    if isinstance(encoder, hybrid.Encoder):
        wrong = wrong or schemes.oblong(objective, "patch_size") or stemless(encoder)
    return wrong or headless(objective)


def stemless(encoder: Any) -> str:
    """Why the ResNet of a hybrid cannot be written, if it cannot."""
    if encoder.stem_width != 64:
        return f"encoder.stem_width: {encoder.stem_width} is not 64"
    known = encoder.stages in HYBRIDS
    return "" if known else f"encoder.stages: no hybrid of timm has {encoder.stages}"


def headless(objective: Any) -> str:
    """Why the head cannot be written, if it cannot."""
    if getattr(objective, "representation", 0):
        return "objective.representation: there is no tanh layer before the head"
    return ""


def entries(objective: Any) -> Iterator[Entry]:
    """The table of names."""
    encoder = objective.encoder
    if isinstance(encoder, hybrid.Encoder):
        yield from resnet(encoder)
        # The transformer sees the last map as an image.
        stride = hybrid.stride_of(encoder.stages)
        encoder = encoder.clone(
            patch_size=tuple(p // stride for p in encoder.patch_size),
            image_size=tuple(p // stride for p in encoder.image_size),
            channels=hybrid.width_of(encoder.stem_width, encoder.stages),
        )
    yield from schemes.vit(encoder, names=NAMES, normed=normed(objective))
    yield from head(objective)


def normed(objective: Any) -> bool:
    """Whether the encoder's last norm is used, and so is in a file."""
    return schemes.pool_of(objective) != "mean"


def head(objective: Any) -> Iterator[Entry]:
    """That of a classifier, and the norm before it."""
    if not normed(objective):
        yield from schemes.norm("fc_norm", "fc_norm")
    if classes_of(objective):
        yield from schemes.linear("head", "head")


def resnet(encoder: Any) -> Iterator[Entry]:
    """The ResNet of a hybrid."""

    def pair(ours: tuple[str, str], conv: str, norm: str) -> Iterator[Entry]:
        name = f"encoder/stem/{ours[0]}/kernel"
        yield Entry(name, (f"{STEM}.{conv}.weight",), CONV)
        yield from schemes.norm(f"encoder/stem/{ours[1]}", f"{STEM}.{norm}")

    yield from pair(("root", "root_norm"), "stem.conv", "stem.norm")
    before = encoder.stem_width
    for stage, units in enumerate(encoder.stages):
        wide = encoder.stem_width * 2**stage * 4
        for unit in range(units):
            ours = f"stage_{stage + 1}_unit_{unit + 1}"
            theirs = f"stages.{stage}.blocks.{unit}"
            for n in (1, 2, 3):
                places = (f"{ours}/conv{n}", f"{ours}/norm{n}")
                yield from pair(places, f"{theirs}.conv{n}", f"{theirs}.norm{n}")
            if not unit and (stage or before != wide):
                places = (f"{ours}/conv_skip", f"{ours}/norm_skip")
                skip = f"{theirs}.downsample"
                yield from pair(places, f"{skip}.conv", f"{skip}.norm")
            before = wide


def constants(objective: Any) -> dict[str, np.ndarray]:
    """The fixed table of positions."""
    return shapes.positions(objective.encoder)


def package(objective: Any, mean: Any, std: Any) -> dict[str, Any]:
    """The configuration beside the weights."""
    encoder = objective.encoder
    args = {
        **transformer(encoder),
        "class_token": encoder.cls,
        "act_layer": "gelu_tanh" if encoder.gelu_tanh else "gelu",
        # Where the mean comes before the norm, timm calls it fc_norm.
        "fc_norm": schemes.pool_of(objective) == "mean",
    }
    name = "vit_base_patch16_224"
    if isinstance(encoder, hybrid.Encoder):
        name = HYBRIDS[encoder.stages]
        stride = hybrid.stride_of(encoder.stages)
        args["patch_size"] = encoder.patch_size[0] // stride
    return configuration(name, objective, args, mean, std)


HYBRIDS = {
    (2, 2, 2, 2): "vit_small_r26_s32_224",
    (3, 4, 9): "vit_base_r50_s16_224",
    (3, 4, 6, 3): "vit_large_r50_s32_224",
}
"""timm's models whose ResNets have these stages; no argument changes a stem."""


def classes_of(objective: Any) -> int:
    """How many a classifier scores that timm has too; 0 where there is none."""
    return objective.num_classes if schemes.kind_of(objective) == "classify" else 0


def transformer(encoder: Any) -> dict[str, Any]:
    """Arguments of timm that ViT and BEiT share."""
    return {
        "img_size": list(encoder.image_size),
        "patch_size": list(encoder.patch_size),
        "in_chans": encoder.channels,
        "embed_dim": encoder.width,
        "depth": encoder.depth,
        "num_heads": encoder.heads,
        "mlp_ratio": schemes.mlp_ratio([encoder.width], encoder.mlp_ratio),
        "init_values": encoder.layer_scale or None,
    }


def configuration(
    name: str,
    objective: Any,
    args: dict[str, Any],
    mean: Any,
    std: Any,
    head: str = "head",
) -> dict[str, Any]:
    """The config.json that `timm.create_model("local-dir:...")` reads.

    `head` is the name of the layer that is left out where other classes are asked for.
    """
    encoder = objective.encoder
    pool = "token" if schemes.pool_of(objective) == "token" else "avg"
    classes = classes_of(objective)
    images = {
        "input_size": [encoder.channels, *encoder.image_size],
        "fixed_input_size": True,
        "interpolation": "bicubic",
        # The shorter side at 256/224, as evaluations have it here (`data/scaled.py`).
        "crop_pct": 224 / 256,
        "mean": list(mean),
        "std": list(std),
        "num_classes": classes,
        "classifier": head,
    }
    if encoder.channels in (1, 3):
        # Older timm takes what is named so for one of three channels, and leaves it
        # as it starts where there are others.
        stem = isinstance(encoder, hybrid.Encoder)
        images["first_conv"] = f"{STEM}.stem.conv" if stem else "patch_embed.proj"
    said = {
        "architecture": name,
        "num_classes": classes,
        "num_features": encoder.out_width,
        "global_pool": pool,
        "model_args": {**args, "global_pool": pool, "num_classes": classes},
        "pretrained_cfg": images,
    }
    return {"config.json": said}
