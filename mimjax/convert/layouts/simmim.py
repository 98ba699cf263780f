"""microsoft/SimMIM `models/simmim.py` on its vision transformer."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from mimjax.convert import names, shapes
from mimjax.convert.layouts import beit
from mimjax.convert.names import Arrays, Entry

PREFIX = "encoder."


def recognises(arrays: Arrays) -> bool:
    """A pixel-shuffle decoder behind an encoder with a relative table."""
    table = PREFIX + names.RELATIVE_TABLE
    return {"decoder.0.weight", f"{PREFIX}mask_token", table} <= set(arrays)


def values(arrays: Arrays) -> dict[str, dict[str, Any]]:
    """The config groups of the model."""
    return {"encoder": beit.shared(arrays, PREFIX), "objective": {"name": "simmim"}}


def entries(objective: Any) -> Iterator[Entry]:
    """The table of names."""
    yield from names.vit_encoder(objective.encoder, PREFIX)
    yield Entry("mask_token", (f"{PREFIX}mask_token",), names.COPY)
    side = objective.encoder.cell[0]
    weight, bias = names.shuffle_kernel(side), names.shuffle_bias(side)
    yield Entry("decoder/kernel", ("decoder.0.weight",), weight)
    yield Entry("decoder/bias", ("decoder.0.bias",), bias)


def constants(objective: Any) -> dict[str, np.ndarray]:
    """The table of distances."""
    name = f"{PREFIX}rel_pos_bias.relative_position_index"
    return {name: shapes.index(objective.encoder)}
