"""microsoft/unilm beit2 `modeling_pretrain.py`: BEiT v2, one head for both ends."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from mimjax.convert import schemes, shapes
from mimjax.convert.layouts import beit
from mimjax.convert.names import Arrays, Entry

BRANCH = "cls_pt_layers.{}"


def recognises(arrays: Arrays) -> bool:
    """BEiT with the layers that see the class token."""
    return f"{BRANCH.format(0)}.norm1.weight" in arrays and "lm_head.weight" in arrays


def values(arrays: Arrays, said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The config groups of the model.

    Which layer the branch leaves from is not kept: three quarters of the way up, as
    officially (9 of 12, 21 of 24 is 7 / 8).
    """
    encoder = {**shapes.vit(arrays, said=said), "start": "beit"}
    early = {12: 9, 24: 21}.get(encoder["depth"], max(1, encoder["depth"] * 3 // 4))
    objective = {
        "name": "beit2",
        **shapes.hiding(encoder),
        "branch_depth": shapes.count(arrays, BRANCH),
    }
    return {"encoder": encoder, "objective": {**objective, "early_layer": early}}


resize = beit.resize


def misfit(objective: Any) -> str:
    """Why it cannot be written so, if it cannot."""
    return schemes.misfit(objective, ("vit",), ("beit2",), beit.FIELDS)


def entries(objective: Any) -> Iterator[Entry]:
    """The table of names."""
    yield from beit.entries(objective)
    encoder = objective.encoder
    spec = encoder.spec(encoder.width, encoder.heads)
    yield from schemes.layers("branch/layers", BRANCH, spec, objective.branch_depth)


def constants(objective: Any) -> dict[str, np.ndarray]:
    """The table of distances."""
    return shapes.indices(objective.encoder)
