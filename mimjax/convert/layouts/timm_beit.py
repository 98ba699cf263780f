"""timm `Beit`, and microsoft/unilm beit `modeling_finetune.py`: BEiT as fine-tuned."""

from collections.abc import Iterator
from typing import Any

from mimjax.convert import schemes, shapes
from mimjax.convert.layouts import beit, timm_vit
from mimjax.convert.names import Arrays, Entry

FIELDS = {**beit.FIELDS, "position": ("relative", "relative_layers")}


def recognises(arrays: Arrays) -> bool:
    """timm's names with relative tables, and no head over a vocabulary."""
    own = f"blocks.0.{beit.NAMES.layer.table}"
    return bool({own, beit.NAMES.table} & set(arrays)) and not any(
        name in arrays for name in ("mask_token", "lm_head.weight")
    )


def values(arrays: Arrays, said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The config groups of the model."""
    encoder = {**shapes.vit(arrays, said=said), "start": "beit"}
    objective = timm_vit.classifier(arrays, encoder["cls"])
    # BEiT's own; what is said of timm's files counts. BEiT v2 and SimMIM name theirs
    # alike and have those of ImageNet.
    data = {"normalise": "inception"}
    return {"encoder": encoder, "objective": objective, "data": data}


resize = beit.resize


def misfit(objective: Any) -> str:
    """Why it cannot be written so, if it cannot."""
    wrong = schemes.misfit(objective, ("vit",), (), FIELDS)
    return wrong or timm_vit.headless(objective)


def entries(objective: Any) -> Iterator[Entry]:
    """The table of names."""
    normed = timm_vit.normed(objective)
    yield from schemes.vit(objective.encoder, names=beit.NAMES, normed=normed)
    yield from timm_vit.head(objective)


def package(objective: Any, mean: Any, std: Any) -> dict[str, Any]:
    """The configuration beside the weights."""
    encoder = objective.encoder
    shared = encoder.position == "relative"
    args = {
        **timm_vit.transformer(encoder),
        "use_abs_pos_emb": False,
        "use_rel_pos_bias": not shared,
        "use_shared_rel_pos_bias": shared,
        "use_fc_norm": schemes.pool_of(objective) == "mean",
    }
    name = "beit_base_patch16_224"
    return timm_vit.configuration(name, objective, args, mean, std)
