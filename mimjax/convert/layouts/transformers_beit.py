"""transformers `BeitModel`, its classifier and `BeitForMaskedImageModeling`."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from mimjax.convert import schemes, shapes
from mimjax.convert.layouts import beit, timm_vit, transformers_vit
from mimjax.convert.layouts.transformers_vit import NAMES
from mimjax.convert.names import COPY, Arrays, Entry

PREFIX = "beit."
NORM = "pooler.layernorm"
FIELDS = schemes.fields(
    position=("relative", "relative_layers"),
    qkv_bias=("qv",),
    layer_scale=None,
    gelu_tanh=None,
    norm_eps=None,
)


def recognises(arrays: Arrays) -> bool:
    """Its names, with LayerScale or relative tables."""
    first = NAMES.blocks.format(0)
    marks = {
        f"{first}.{NAMES.layer.scales[0]}",
        f"{first}.{NAMES.layer.table}",
        NAMES.table,
    }
    query = f"{first}.attention.attention.query.weight"
    return query in arrays and bool(marks & set(arrays))


def values(arrays: Arrays, said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The config groups of the model."""
    encoder = shapes.vit(arrays, names=NAMES, said=said)
    encoder["start"] = "beit"
    if "lm_head.weight" in arrays:
        objective = {"name": "beit", **shapes.hiding(encoder)}
    else:
        pool = "mean" if f"{NORM}.weight" in arrays else "token"
        objective = {"name": "classify", "pool": pool}
        objective |= transformers_vit.classes(arrays)
    # BEiT's own; what the folder says counts.
    data = {"normalise": "inception"}
    return {"encoder": encoder, "objective": objective, "data": data}


def resize(encoder: Any, said: dict[str, Any]) -> str:
    """How its code takes tables to another size: positions of patches as pictures."""
    return "bilinear" if encoder.is_relative else "bicubic"


def misfit(objective: Any) -> str:
    """Why it cannot be written so, if it cannot."""
    wrong = schemes.misfit(objective, ("vit",), (), FIELDS)
    wrong = wrong or schemes.oblong(objective, "patch_size", "image_size")
    return wrong or timm_vit.headless(objective)


def entries(objective: Any) -> Iterator[Entry]:
    """The table of names."""
    kind = schemes.head_of(objective)
    front = prefix(objective)
    # The last norm of a model with a head over a vocabulary is the head's.
    normed = timm_vit.normed(objective)
    for entry in schemes.vit(objective.encoder, front, NAMES, normed):
        theirs = entry.theirs
        if kind == "beit" and entry.ours.startswith("encoder/norm/"):
            theirs = tuple(name.removeprefix(front) for name in theirs)
        yield dataclasses.replace(entry, theirs=theirs)
    if kind == "beit":
        yield Entry("mask_token", (f"{front}embeddings.mask_token",), COPY)
        yield from beit.vocabulary()
    if not normed:
        yield from schemes.norm("fc_norm", f"{front}{NORM}")
    if kind == "classify":
        yield from schemes.linear("head", "classifier")


def prefix(objective: Any) -> str:
    """What the names of the encoder begin with."""
    return PREFIX if schemes.head_of(objective) in ("beit", "classify") else ""


def package(objective: Any, mean: Any, std: Any) -> dict[str, Any]:
    """The configuration beside the weights, and that of the image processor."""
    encoder, kind = objective.encoder, schemes.head_of(objective)
    heads = {
        "beit": "BeitForMaskedImageModeling",
        "classify": "BeitForImageClassification",
    }
    shared = encoder.position == "relative"
    said = {
        "model_type": "beit",
        "architectures": [heads.get(kind, "BeitModel")],
        **transformers_vit.transformer(encoder),
        "layer_scale_init_value": encoder.layer_scale,
        "use_absolute_position_embeddings": False,
        "use_relative_position_bias": not shared,
        "use_shared_relative_position_bias": shared,
        "use_mask_token": kind == "beit",
        # The last norm of the encoder is another's: the mean's, or the head's.
        "use_mean_pooling": kind == "beit" or not timm_vit.normed(objective),
        "vocab_size": objective.tokenizer.objective.num_codes
        if kind == "beit"
        else 8192,
        **transformers_vit.labels(objective),
    }
    images = transformers_vit.processor(objective, mean, std)
    return {"config.json": said, **images}
