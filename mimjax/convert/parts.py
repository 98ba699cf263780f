"""A converted model: its parameters, each read when it is asked for."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mimjax import config
from mimjax.convert.archives import release
from mimjax.convert.files import BadFileError
from mimjax.convert.names import Arrays, Entry
from mimjax.trees import nested

# What reading arrays of wrong shapes may raise.
UNFIT = (LookupError, ValueError, TypeError, ArithmeticError)


@dataclasses.dataclass(frozen=True)
class Part:
    """A parameter of ours in the arrays of a file."""

    entry: Entry
    like: jax.ShapeDtypeStruct
    arrays: Arrays
    fit: Callable[[np.ndarray], np.ndarray] | None

    @property
    def resized(self) -> bool:
        """Whether it is a table of positions of another grid."""
        return self.fit is not None

    def read(self) -> np.ndarray:
        """The parameter; one of UNFIT where what is there does not make it."""
        found = self.entry.read(self.arrays)
        for name in self.entry.names():
            release(self.arrays[name])
        if self.fit:
            found = self.fit(found)
        if found.shape != self.like.shape:
            raise ValueError(f"{found.shape} is not {self.like.shape}")
        return found.astype(self.like.dtype, copy=False)


@dataclasses.dataclass(frozen=True)
class Converted:
    """A model in a file, of which a parameter is read when it is asked for.

    Attributes:
        path: of the file.
        config: what it tells of the model.
        layout: whose names these are.
        parts: the parameters, by path; what moves beside them below MOVING.
        missing: names of ours that have no array there.
        unexpected: names of theirs that have no place here.
        how: how tables of positions are taken to another size (`tables.RESIZES`).
        source: the encoder of the size that they are of.
    """

    path: pathlib.Path
    config: config.Config
    layout: str
    parts: dict[tuple[str, ...], Part]
    missing: list[str]
    unexpected: list[str]
    how: str
    source: Any

    @property
    def matched(self) -> list[str]:
        """Names of ours that are there."""
        return ["/".join(place) for place in self.parts]

    def read(self, place: tuple[str, ...]) -> np.ndarray:
        """One parameter."""
        part = self.parts[place]
        try:
            return part.read()
        except UNFIT as error:
            told = str(error).partition(" ")[0]
            names = part.entry.names()
            name = told if told in names else names[0]
            # Why a table cannot be resized, its shape does not tell.
            why = f": {error}" if part.resized else ""
            raise BadFileError(
                f"{self.path}: {name} of {part.arrays[name].shape} does not make "
                f"{part.entry.ours} of {part.like.shape}{why}"
            ) from None

    @property
    def resized(self) -> list[str]:
        """Those of another size there."""
        return [part.entry.ours for part in self.parts.values() if part.resized]

    @property
    def params(self) -> dict[str, Any]:
        """All of them, nested."""
        return nested({place: self.read(place) for place in self.parts})


def fits(part: Part) -> bool:
    """Whether the parameter can be made."""
    try:
        part.read()
    except UNFIT:
        return False
    return True
