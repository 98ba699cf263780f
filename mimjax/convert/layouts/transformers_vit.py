"""transformers `ViTModel`, its classifier and `ViTForMaskedImageModeling`."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from mimjax.convert import schemes, shapes
from mimjax.convert.layouts import simmim, timm_vit
from mimjax.convert.names import Arrays, Entry

LAYER = schemes.Layer(
    norm1="layernorm_before",
    qkv=tuple(f"attention.attention.{name}" for name in ("query", "key", "value")),
    out="attention.output.dense",
    norm2="layernorm_after",
    mlp=("intermediate.dense", "output.dense"),
    scales=("lambda_1", "lambda_2"),
    table="attention.attention.relative_position_bias.relative_position_bias_table",
)
NAMES = schemes.Vit(
    layer=LAYER,
    patch="embeddings.patch_embeddings.projection",
    cls="embeddings.cls_token",
    position="embeddings.position_embeddings",
    registers="embeddings.register_tokens",
    table="encoder.relative_position_bias.relative_position_bias_table",
    blocks="encoder.layer.{}",
    norm="layernorm",
)
PREFIX = "vit."
FIELDS = schemes.fields(gelu_tanh=None, norm_eps=None)


def recognises(arrays: Arrays) -> bool:
    """Its names, and nothing of the models that are built on it."""
    first = NAMES.blocks.format(0)
    return (
        f"{first}.attention.attention.query.weight" in arrays
        and f"{first}.layernorm_before.weight" in arrays
        and f"{first}.lambda_1" not in arrays
        and not any(LAYER.table in name or name == NAMES.table for name in arrays)
        and "decoder.decoder_embed.weight" not in arrays
    )


def values(arrays: Arrays, said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The config groups of the model."""
    encoder = shapes.vit(arrays, names=NAMES, said=said)
    encoder["start"] = "vit"
    if "decoder.0.weight" in arrays:
        cell = encoder["patch_size"][0]
        objective: dict[str, Any] = {"name": "simmim", "mask_cell": cell}
    else:
        objective = {"name": "classify", **classes(arrays)}
    return {"encoder": encoder, "objective": objective}


def classes(arrays: Arrays) -> dict[str, int]:
    """How many classes the head has, if there is one."""
    head = arrays.get("classifier.weight")
    return {} if head is None else {"num_classes": len(head)}


def misfit(objective: Any) -> str:
    """Why it cannot be written so, if it cannot."""
    wrong = schemes.misfit(objective, ("vit",), (), FIELDS)
    return wrong or schemes.oblong(objective, "patch_size") or headless(objective)


def headless(objective: Any) -> str:
    """Why the head cannot be written, if it cannot: theirs is of the class token."""
    if schemes.head_of(objective) == "simmim":
        if objective.encoder.position != "learned":
            return "encoder.position: it masks before learned positions"
        # It makes a square of the tokens.
        return schemes.oblong(objective, "image_size")
    return schemes.mispooled(objective, "token") or timm_vit.headless(objective)


def entries(objective: Any) -> Iterator[Entry]:
    """The table of names."""
    yield from schemes.vit(objective.encoder, prefix(objective), NAMES)
    kind = schemes.head_of(objective)
    if kind == "simmim":
        yield from simmim.pixels(objective, f"{PREFIX}embeddings.")
    if kind == "classify":
        yield from schemes.linear("head", "classifier")


def prefix(objective: Any) -> str:
    """What the names of the encoder begin with."""
    return PREFIX if schemes.head_of(objective) in ("simmim", "classify") else ""


def constants(objective: Any) -> dict[str, np.ndarray]:
    """The fixed table of positions."""
    return shapes.positions(objective.encoder, prefix(objective), NAMES)


def package(objective: Any, mean: Any, std: Any) -> dict[str, Any]:
    """The configuration beside the weights, and that of the image processor."""
    kind = schemes.head_of(objective)
    heads = {"simmim": "ViTForMaskedImageModeling", "classify": CLASSIFIER}
    said = {
        "model_type": "vit",
        "architectures": [heads.get(kind, "ViTModel")],
        **transformer(objective.encoder),
        "encoder_stride": objective.encoder.patch_size[0],
    }
    return {"config.json": said | labels(objective), **processor(objective, mean, std)}


CLASSIFIER = "ViTForImageClassification"


def transformer(encoder: Any) -> dict[str, Any]:
    """What all configurations of vision transformers say."""
    height, width = encoder.image_size
    return {
        "image_size": height if height == width else [height, width],
        "patch_size": encoder.patch_size[0],
        "num_channels": encoder.channels,
        "hidden_size": encoder.width,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "intermediate_size": round(encoder.width * encoder.mlp_ratio),
        "hidden_act": "gelu_pytorch_tanh" if encoder.gelu_tanh else "gelu",
        "layer_norm_eps": encoder.norm_eps,
        "qkv_bias": encoder.qkv_bias == "all",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "dtype": "float32",
    }


def labels(objective: Any) -> dict[str, Any]:
    """The classes of a head, by number."""
    classes = range(timm_vit.classes_of(objective))
    names = {str(i): f"LABEL_{i}" for i in classes}
    return {"id2label": names, "label2id": {v: int(k) for k, v in names.items()}}


def processor(objective: Any, mean: Any, std: Any) -> dict[str, Any]:
    """How images are prepared."""
    height, width = objective.encoder.image_size
    return {
        "preprocessor_config.json": {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "size": {"height": height, "width": width},
            "resample": 3,  # bicubic, by Pillow's number
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(mean),
            "image_std": list(std),
        }
    }
