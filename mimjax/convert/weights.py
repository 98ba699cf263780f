"""Parameters of a model from the arrays of a file, and back, by a table of names."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from mimjax import checkpoint, config, train
from mimjax.convert import layouts
from mimjax.convert.files import BadFileError, read
from mimjax.convert.names import Arrays
from mimjax.run.workdir import write
from mimjax.warmstart import named_leaves, nested


@dataclasses.dataclass(frozen=True)
class Converted:
    """A model from a file: its config, its parameters, and what did not match."""

    config: config.Config
    params: dict[str, Any]
    layout: str
    matched: list[str]
    missing: list[str]
    unexpected: list[str]


def convert(
    path: pathlib.Path, layout: str = "", changes: tuple[tuple[str, str], ...] = ()
) -> Converted:
    """The model in a file of another project.

    Args:
        path: a file, or a folder of transformers.
        layout: one of `layouts.names()`; empty, it is recognised by the names.
        changes: what the arrays do not tell, such as ("encoder.heads", "4").

    Raises:
        BadFileError: the file cannot be used; the message is one line.
    """
    arrays = read(path)
    layout = layout or recognised(path, arrays)
    table = layouts.load(layout)
    try:
        values = table.values(arrays)
        for name, text in changes:
            group, _, field = name.partition(".")
            values.setdefault(group, {})[field] = text
        given = config.rebuilt(values)
        wrong = given.objective.problems()
    except (KeyError, ValueError) as error:
        said = error.args[0] if error.args else error
        raise BadFileError(f"{path} is no {layout} model: {said}") from None
    if wrong:
        raise BadFileError(f"{path} is no {layout} model: {wrong[0]}")
    return matching(path, arrays, layout, given)


def recognised(path: pathlib.Path, arrays: Arrays) -> str:
    """The layout of these names."""
    for name in layouts.names():
        if layouts.load(name).recognises(arrays):
            return name
    known = ", ".join(layouts.names())
    raise BadFileError(f"{path} has the names of no known layout ({known})")


def matching(
    path: pathlib.Path, arrays: Arrays, layout: str, given: config.Config
) -> Converted:
    """The parameters that are there, in our shapes."""
    table = layouts.load(layout)
    wanted, left = shapes_of(given), set(arrays)
    left -= table.constants(given.objective).keys()
    params, missing = {}, []
    for entry in table.entries(given.objective):
        left -= set(entry.names())
        if not all(name in arrays for name in entry.names()):
            missing.append(entry.ours)
            continue
        place = tuple(entry.ours.split("/"))
        try:
            found = entry.read(arrays)
        except ValueError:
            found = np.empty(0)
        if found.shape != wanted[place]:
            name = entry.names()[0]
            raise BadFileError(
                f"{path}: {name} of {arrays[name].shape} does not make {entry.ours} of "
                f"{wanted[place]}"
            )
        params[place] = found.astype(np.float32, copy=False)
    if not any(place[0] == "encoder" for place in params):
        raise BadFileError(f"{path} holds nothing of a {layout} encoder")
    names = ["/".join(place) for place in params]
    return Converted(given, nested(params), layout, names, missing, sorted(left))


def shapes_of(given: config.Config) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The shape of every parameter, by its path."""
    params = jax.eval_shape(lambda: train.init_state(given)).params
    return {place: x.shape for place, x in named_leaves(params).items()}


def save(found: Converted, workdir: pathlib.Path) -> None:
    """Writes a workdir that holds the model as a run leaves it, after no update."""
    zero = np.zeros((), np.int32)
    state = train.State(found.params, {}, {}, {}, zero, zero, zero)
    checkpoints = checkpoint.Checkpoints(workdir, 1, 0)
    try:
        checkpoints.save(state, 0)
    finally:
        checkpoints.close()
    write(workdir / "config.json", found.config.values)


def written(objective: Any, params: dict[str, Any], layout: str) -> dict[str, Any]:
    """The arrays of a file of that layout: what is there, and its constants."""
    table, leaves = layouts.load(layout), named_leaves(params)
    found = dict(table.constants(objective))
    for entry in table.entries(objective):
        place = tuple(entry.ours.split("/"))
        if place in leaves:
            found |= entry.write(np.asarray(leaves[place]))
    return found
