"""microsoft/SimMIM `models/simmim.py` on its Swin transformer."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from mimjax.convert import schemes
from mimjax.convert.layouts import simmim, swin
from mimjax.convert.names import Arrays, Entry

PREFIX = "encoder."
NAMES = swin.NAMES


def recognises(arrays: Arrays) -> bool:
    """A pixel-shuffle decoder behind stages."""
    table = f"{PREFIX}layers.0.blocks.0.attn.relative_position_bias_table"
    return {"decoder.0.weight", table} <= set(arrays)


def values(arrays: Arrays, said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The config groups of the model."""
    encoder = swin.fields(arrays, said, PREFIX, NAMES)
    return {"encoder": encoder, "objective": swin.masked(encoder)}


def resize(encoder: Any, said: dict[str, Any]) -> str:
    """How its code takes tables to another size."""
    return "geometric"


def misfit(objective: Any) -> str:
    """Why it cannot be written so, if it cannot."""
    return schemes.misfit(objective, ("swin",), ("simmim",), swin.FIELDS)


def entries(objective: Any) -> Iterator[Entry]:
    """The table of names."""
    yield from swin.encoder(objective.encoder, PREFIX, NAMES)
    yield from simmim.pixels(objective, PREFIX)


def constants(objective: Any) -> dict[str, np.ndarray]:
    """Tables of distances, and masks of the layers that shift."""
    return swin.buffers(objective.encoder, PREFIX, NAMES)
