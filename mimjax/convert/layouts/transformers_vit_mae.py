"""transformers `ViTMAEForPreTraining`."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from mimjax.convert import schemes, shapes, tables
from mimjax.convert.layouts import mae, transformers_vit
from mimjax.convert.layouts.transformers_vit import LAYER, NAMES, PREFIX
from mimjax.convert.names import COPY, Arrays, Entry

BLOCKS = "decoder.decoder_layers.{}"
FIELDS = {**transformers_vit.FIELDS, "position": ("sincos",)}


def recognises(arrays: Arrays) -> bool:
    """Its decoder, behind its encoder."""
    return {
        "decoder.decoder_embed.weight",
        f"{NAMES.patch}.weight",
    } <= set(arrays)


def values(arrays: Arrays, said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The config groups of the model."""
    objective = {
        "name": "mae",
        "decoder_width": arrays["decoder.decoder_embed.weight"].shape[0],
        "decoder_depth": shapes.count(arrays, BLOCKS),
        "decoder_heads": said.get("decoder_num_attention_heads", mae.DECODER_HEADS),
        # The weights on the hub predict pixels as they are, and say so.
        "norm_pixels": said.get("norm_pix_loss", False),
        # For features some say that nothing is to be hidden.
        "mask_ratio": said.get("mask_ratio") or 0.75,
    }
    encoder = shapes.vit(arrays, names=NAMES, said=said)
    return {"encoder": encoder, "objective": objective}


def misfit(objective: Any) -> str:
    """Why it cannot be written so, if it cannot."""
    wrong = schemes.misfit(objective, ("vit",), ("mae",), FIELDS)
    wrong = wrong or mae.variant(objective)
    return wrong or schemes.oblong(objective, "patch_size", "image_size")


def entries(objective: Any) -> Iterator[Entry]:
    """The table of names."""
    encoder = objective.encoder
    yield from schemes.vit(encoder, PREFIX, NAMES)
    yield from schemes.linear("decoder_embed", "decoder.decoder_embed")
    yield Entry("mask_token", ("decoder.mask_token",), COPY)
    spec = encoder.spec(objective.decoder_width, objective.decoder_heads)
    stack = ("decoder/layers", BLOCKS, spec, objective.decoder_depth, LAYER)
    yield from schemes.layers(*stack)
    yield from schemes.norm("decoder_norm", "decoder.decoder_norm")
    yield from schemes.linear("decoder_pred", "decoder.decoder_pred")


def constants(objective: Any) -> dict[str, np.ndarray]:
    """Both fixed tables of positions."""
    encoder = objective.encoder
    table = tables.sincos(encoder.grid, objective.decoder_width, encoder.cls)
    first = shapes.positions(encoder, PREFIX, NAMES)
    return {**first, "decoder.decoder_pos_embed": table[None]}


def package(objective: Any, mean: Any, std: Any) -> dict[str, Any]:
    """The configuration beside the weights, and that of the image processor."""
    said = {
        "model_type": "vit_mae",
        "architectures": ["ViTMAEForPreTraining"],
        **transformers_vit.transformer(objective.encoder),
        "decoder_hidden_size": objective.decoder_width,
        "decoder_num_hidden_layers": objective.decoder_depth,
        "decoder_num_attention_heads": objective.decoder_heads,
        "decoder_intermediate_size": round(
            objective.decoder_width * objective.encoder.mlp_ratio
        ),
        "mask_ratio": objective.mask_ratio,
        "norm_pix_loss": objective.norm_pixels,
    }
    images = transformers_vit.processor(objective, mean, std)
    return {"config.json": said, **images}
