"""transformers `SwinModel`, its classifier and `SwinForMaskedImageModeling`."""

from collections.abc import Iterator
from typing import Any

from mimjax.convert import schemes
from mimjax.convert.layouts import simmim, swin, timm_vit, transformers_vit
from mimjax.convert.names import Arrays, Entry

PREFIX = "swin."
TABLE = "attention.self.relative_position_bias_table"
NAMES = swin.Names(
    vit=schemes.Vit(
        layer=schemes.Layer(
            norm1="layernorm_before",
            qkv=tuple(f"attention.self.{name}" for name in ("query", "key", "value")),
            out="attention.output.dense",
            norm2="layernorm_after",
            mlp=("intermediate.dense", "output.dense"),
            table=TABLE,
        ),
        patch="embeddings.patch_embeddings.projection",
        patch_norm="embeddings.norm",
        blocks="encoder.layers.{}.blocks.{}",
        norm="layernorm",
    ),
    merge="encoder.layers.{}.downsample",
    head="classifier",
)


def recognises(arrays: Arrays) -> bool:
    """Its names."""
    return f"{NAMES.vit.blocks.format(0, 0)}.{TABLE}" in arrays


def values(arrays: Arrays, said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The config groups of the model."""
    encoder = swin.fields(arrays, said, "", NAMES)
    if encoder["norm_eps"] not in swin.FIELDS["norm_eps"]:
        told = f"its layer_norm_eps is {encoder['norm_eps']}"
        raise ValueError(f"{told}, which not all of its norms take; here all do")
    if "decoder.0.weight" in arrays:
        return {"encoder": encoder, "objective": swin.masked(encoder)}
    objective = {"name": "classify", "pool": "gap", **transformers_vit.classes(arrays)}
    return {"encoder": encoder, "objective": objective}


def misfit(objective: Any) -> str:
    """Why it cannot be written so, if it cannot."""
    # What comes before the layers and merges between them has one eps there.
    wrong = schemes.misfit(objective, ("swin",), (), swin.FIELDS)
    wrong = wrong or schemes.oblong(objective, "patch_size")
    if schemes.head_of(objective) == "simmim":  # it makes a square of the tokens
        wrong = wrong or schemes.oblong(objective, "image_size")
    wrong = wrong or schemes.mispooled(objective, "gap") or swin.uncut(objective)
    if not wrong and swin.shrinks(objective.encoder):
        # Its tables of distances are all of the whole window.
        wrong = "encoder.window: more than the last stage has"
    return wrong or timm_vit.headless(objective)


def entries(objective: Any) -> Iterator[Entry]:
    """The table of names."""
    yield from swin.encoder(objective.encoder, prefix(objective), NAMES)
    kind = schemes.head_of(objective)
    if kind == "simmim":
        yield from simmim.pixels(objective, f"{PREFIX}embeddings.")
    if kind == "classify":
        yield from schemes.linear("head", NAMES.head)


def prefix(objective: Any) -> str:
    """What the names of the encoder begin with."""
    return PREFIX if schemes.head_of(objective) in ("simmim", "classify") else ""


def package(objective: Any, mean: Any, std: Any) -> dict[str, Any]:
    """The configuration beside the weights, and that of the image processor."""
    encoder, kind = objective.encoder, schemes.head_of(objective)
    heads = {
        "simmim": "SwinForMaskedImageModeling",
        "classify": "SwinForImageClassification",
    }
    height, width = encoder.image_size
    said = {
        "model_type": "swin",
        "architectures": [heads.get(kind, "SwinModel")],
        "image_size": height if height == width else [height, width],
        "patch_size": encoder.patch_size[0],
        "num_channels": encoder.channels,
        "embed_dim": encoder.width,
        "depths": list(encoder.depths),
        "num_heads": list(encoder.heads),
        "window_size": encoder.window,
        "mlp_ratio": swin.cut_ratio(encoder),
        "layer_norm_eps": encoder.norm_eps,
        "encoder_stride": encoder.cell[0],
        "drop_path_rate": 0.0,
        "dtype": "float32",
        **transformers_vit.labels(objective),
    }
    images = transformers_vit.processor(objective, mean, std)
    return {"config.json": said, **images}
