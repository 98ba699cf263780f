"""transformers `Dinov2Model`, and the same with registers."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from mimjax.convert import schemes, shapes
from mimjax.convert.layouts import dinov2, transformers_vit
from mimjax.convert.names import Arrays, Entry

SCALES = ("layer_scale1.lambda1", "layer_scale2.lambda1")
GATED = ("mlp.weights_in", "mlp.weights_out")
FIELDS = schemes.fields(
    position=("learned",),
    layer_scale=None,
    registers=None,
    swiglu=None,
    gelu_tanh=None,
    norm_eps=None,
)


def names_of(gated: bool) -> schemes.Vit:
    """The names of a model."""
    layer = dataclasses.replace(
        transformers_vit.LAYER,
        norm1="norm1",
        norm2="norm2",
        mlp=GATED if gated else ("mlp.fc1", "mlp.fc2"),
        scales=SCALES,
    )
    return dataclasses.replace(transformers_vit.NAMES, layer=layer)


def recognises(arrays: Arrays) -> bool:
    """Its names, with LayerScale."""
    return f"encoder.layer.0.{SCALES[0]}" in arrays


def values(arrays: Arrays, said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The config groups of the model: its encoder, and a classifier without a head.

    Theirs is of the class token beside the mean of patches, which is not here.
    """
    gated = f"encoder.layer.0.{GATED[0]}.weight" in arrays
    encoder = {**shapes.vit(arrays, "", names_of(gated), said), "start": "vit"}
    return {"encoder": encoder, "objective": {"name": "classify"}}


def resize(encoder: Any, said: dict[str, Any]) -> str:
    """To the size that is wanted, with antialias where there are registers."""
    return "bicubic, antialias" if encoder.registers else "bicubic"


def misfit(objective: Any) -> str:
    """Why it cannot be written so, if it cannot."""
    wrong = schemes.misfit(objective, ("vit",), (), FIELDS)
    if not wrong and not objective.encoder.layer_scale:
        wrong = "encoder.layer_scale: it has one in every layer"
    if not wrong and not ratio(objective.encoder):
        wrong = f"encoder.mlp_ratio: {objective.encoder.mlp_ratio} is no whole number"
    return wrong or schemes.oblong(objective, "patch_size", "image_size")


def ratio(encoder: Any) -> int:
    """The whole number that makes its MLP as wide as ours; 0 where there is none."""
    wanted = encoder.spec(encoder.width, encoder.heads).mlp_width
    for number in range(1, 33):
        width = encoder.width * number
        if encoder.swiglu:
            width = (int(width * 2 / 3) + 7) // 8 * 8
        if width == wanted:
            return number
    return 0


def entries(objective: Any) -> Iterator[Entry]:
    """The table of names."""
    encoder = objective.encoder
    yield from schemes.vit(encoder, names=names_of(encoder.swiglu))


def constants(objective: Any) -> dict[str, np.ndarray]:
    """What is put for hidden patches in its own pretraining, which is not here."""
    return {"embeddings.mask_token": dinov2.constants(objective)["mask_token"]}


def package(objective: Any, mean: Any, std: Any) -> dict[str, Any]:
    """The configuration beside the weights, and that of the image processor."""
    encoder = objective.encoder
    said = {
        "model_type": "dinov2_with_registers" if encoder.registers else "dinov2",
        "architectures": [
            "Dinov2WithRegistersModel" if encoder.registers else "Dinov2Model"
        ],
        **transformers_vit.transformer(encoder),
        "mlp_ratio": ratio(encoder),
        "layerscale_value": encoder.layer_scale,
        "num_register_tokens": encoder.registers,
        "use_swiglu_ffn": encoder.swiglu,
    }
    images = transformers_vit.processor(objective, mean, std)
    return {"config.json": said, **images}
