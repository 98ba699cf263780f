"""apple/ml-aim `aim-v1/aim/v1/torch`: AIM's trunk and attentive probe, as released.

They are two files; the trunk alone is of the objective `aim`.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from mimjax.convert import schemes, shapes
from mimjax.convert.names import COPY, Arrays, Entry, kernel, reshaped

NAMES = schemes.Vit(
    layer=schemes.Layer(norm1="norm_1", norm2="norm_2"),
    patch="preprocessor.patchifier.proj",
    patch_norm="preprocessor.patchifier.norm",
    position="preprocessor.pos_embed",
    blocks="trunk.blocks.{}",
    norm="trunk.post_trunk_norm",
)
FIELDS = schemes.fields(
    position=("sincos",),
    qkv_bias=("none",),
    bias=(False,),
    patch_norm=(True,),
    cls=(False,),
)


def recognises(arrays: Arrays) -> bool:
    """A trunk whose query, key and value share one weight."""
    return "trunk.blocks.0.attn.qkv.weight" in arrays


def values(arrays: Arrays, said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The config groups of the model."""
    objective: dict[str, Any] = {"name": "aim"}
    if "head.cls_token" in arrays:
        classes = arrays["head.linear.weight"].shape[0]
        objective = {"name": "attentive", "num_classes": classes}
    return {"encoder": trunk(arrays, NAMES, said), "objective": objective}


def trunk(arrays: Arrays, names: schemes.Vit, said: dict[str, Any]) -> dict[str, Any]:
    """The encoder; its positions are fixed, and not always kept."""
    found = shapes.vit(arrays, names=names, said=said)
    heads = said.get("num_attention_heads")
    heads = heads or shapes.heads_of(found["width"], aim=True)
    return {**found, "heads": heads, "position": "sincos"}


def misfit(objective: Any) -> str:
    """Why it cannot be written so, if it cannot."""
    return schemes.misfit(objective, ("vit",), ("aim", "attentive"), FIELDS)


def entries(objective: Any) -> Iterator[Entry]:
    """The table of names."""
    encoder = objective.encoder
    yield from schemes.vit(encoder, names=NAMES)
    if not probes(objective):
        return
    width, heads = encoder.width, (encoder.heads, encoder.width // encoder.heads)
    yield Entry("query", ("head.cls_token",), reshaped(heads, (1, 1, width)))
    for ours, theirs in (("key", "head.k"), ("value", "head.v")):
        rule = kernel((width, *heads), (width, width))
        yield Entry(f"{ours}/kernel", (f"{theirs}.weight",), rule)
    yield from schemes.linear("head", "head.linear", bias=False)
    for ours, theirs in (("mean", "mean"), ("variance", "var")):
        yield Entry(f"moving/{ours}", (f"head.bn.running_{theirs}",), COPY)


def probes(objective: Any) -> bool:
    """Whether it is the attentive probe."""
    return schemes.kind_of(objective) == "attentive"


def constants(objective: Any) -> dict[str, np.ndarray]:
    """How many batches the probe has seen, which nothing asks for.

    Positions are computed there too.
    """
    if not probes(objective):
        return {}
    return {"head.bn.num_batches_tracked": np.zeros((), np.int64)}
