"""microsoft/SimMIM `models/simmim.py` on its vision transformer."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from mimjax.convert import names, schemes, shapes
from mimjax.convert.layouts import beit
from mimjax.convert.names import Arrays, Entry

PREFIX = "encoder."


def recognises(arrays: Arrays) -> bool:
    """A pixel-shuffle decoder behind an encoder with a relative table."""
    table = PREFIX + beit.NAMES.table
    return {"decoder.0.weight", f"{PREFIX}mask_token", table} <= set(arrays)


def values(arrays: Arrays, said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The config groups of the model."""
    encoder = {**shapes.vit(arrays, PREFIX, said=said), "start": "beit"}
    cells = shapes.cells(encoder, encoder["patch_size"][0])
    return {"encoder": encoder, "objective": {"name": "simmim", **cells}}


resize = beit.resize


def misfit(objective: Any) -> str:
    """Why it cannot be written so, if it cannot."""
    return schemes.misfit(objective, ("vit",), ("simmim",), beit.FIELDS)


def entries(objective: Any) -> Iterator[Entry]:
    """The table of names."""
    yield from schemes.vit(objective.encoder, PREFIX, beit.NAMES)
    yield from pixels(objective, PREFIX)


def pixels(objective: Any, prefix: str) -> Iterator[Entry]:
    """What is put for hidden patches, and what makes pixels of tokens."""
    yield Entry("mask_token", (f"{prefix}mask_token",), names.COPY)
    side = objective.encoder.cell[0]
    weight, bias = names.shuffle_kernel(side), names.shuffle_bias(side)
    yield Entry("decoder/kernel", ("decoder.0.weight",), weight)
    yield Entry("decoder/bias", ("decoder.0.bias",), bias)


def constants(objective: Any) -> dict[str, np.ndarray]:
    """The table of distances."""
    return shapes.indices(objective.encoder, PREFIX)
