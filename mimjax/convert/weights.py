"""Parameters of a model from the arrays of a file, and back, by a table of names."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from mimjax import backbones, config, train
from mimjax.convert import layouts, tables, writing
from mimjax.convert.archives import release
from mimjax.convert.files import BadFileError, told
from mimjax.convert.names import Arrays, Entry
from mimjax.convert.plain import BUFFERS, plain, together
from mimjax.objectives import MOVING
from mimjax.origins import Origin, of_workdir, put
from mimjax.run.workdir import write
from mimjax.schema import coerce
from mimjax.settings import PARAMS, holds_model
from mimjax.trees import Leaves, named_leaves, nested


@dataclasses.dataclass(frozen=True)
class Part:
    """A parameter of ours in the arrays of a file."""

    entry: Entry
    like: jax.ShapeDtypeStruct
    arrays: Arrays
    fit: Callable[[np.ndarray], np.ndarray]

    def read(self) -> np.ndarray:
        """The parameter; ValueError where what is there does not make it."""
        found = self.entry.read(self.arrays)
        for name in self.entry.names():
            release(self.arrays[name])
        if found.shape != self.like.shape:
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
    """

    path: pathlib.Path
    config: config.Config
    layout: str
    parts: dict[tuple[str, ...], Part]
    missing: list[str]
    unexpected: list[str]

    @property
    def matched(self) -> list[str]:
        """Names of ours that are there."""
        return ["/".join(place) for place in self.parts]

    def read(self, place: tuple[str, ...]) -> np.ndarray:
        """One parameter."""
        part = self.parts[place]
        try:
            return part.read()
        except ValueError:
            name = part.entry.names()[0]
            raise BadFileError(
                f"{self.path}: {name} of {part.arrays[name].shape} does not make "
                f"{part.entry.ours} of {part.like.shape}"
            ) from None

    @property
    def params(self) -> dict[str, Any]:
        """All of them, nested."""
        return nested({place: self.read(place) for place in self.parts})


SIZE = "encoder.image_size"


def convert(
    paths: Sequence[pathlib.Path],
    layout: str = "",
    changes: tuple[tuple[str, str], ...] = (),
) -> Converted:
    """The model in a file of another project, or in several.

    Args:
        paths: files, or a folder of transformers or timm.
        layout: one of `layouts.names()`; empty, it is recognised by the names.
        changes: what the arrays do not tell, such as ("encoder.heads", "4"), or
            another image size.

    Raises:
        BadFileError: the file cannot be used; the message is one line.
    """
    path = paths[0]
    arrays = together(paths)
    layout = layout or recognised(path, arrays)
    table = layouts.load(layout)
    try:
        # The size that is asked for may be that of the file, where it is no square.
        said = told(path)
        if SIZE in dict(changes):
            size = coerce(dict(changes)[SIZE], tuple[int, int])
            said |= {"image_size": list(size)}
        values = table.values(arrays, said)
        colours = {name: said[name] for name in ("mean", "std") if name in said}
        channels = values["encoder"].get("channels", 3)
        if all(np.shape(x) == (channels,) for x in colours.values()):
            values["data"] = values.get("data", {}) | colours
        for name, text in changes:
            group, _, field = name.partition(".")
            values.setdefault(group, {})[field] = text
        given = config.rebuilt(values)
        name = given.values["encoder"]["name"]
        wrong = backbones.load(name).problems(given.values["encoder"])
        wrong += given.objective.problems()
    except (LookupError, ValueError, TypeError) as error:
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
    table, how = layouts.load(layout), layouts.resize_of(layout)
    wanted = shapes_of(given)
    left = {name for name in arrays if not name.endswith(BUFFERS)}
    left -= set(map(plain, table.constants(given.objective)))
    parts, missing = {}, []
    for entry in table.entries(given.objective):
        entry = dataclasses.replace(entry, theirs=tuple(map(plain, entry.theirs)))
        place, names = tuple(entry.ours.split("/")), entry.names()
        if not all(name in arrays for name in names):
            missing.append(entry.ours)
            continue
        fit = functools.partial(fitted, place, given.encoder, how)
        part = Part(entry, wanted[place], arrays, fit)
        if entry.droppable and not fits(part):
            missing.append(entry.ours)
            continue
        parts[place] = part
        left -= set(names)
    if not any(place[0] == "encoder" for place in parts):
        raise BadFileError(f"{path} holds nothing of a {layout} encoder")
    return Converted(path, given, layout, parts, missing, sorted(left))


def fitted(place: tuple[str, ...], encoder: Any, how: Any, x: np.ndarray) -> np.ndarray:
    """A table of positions at the encoder's size."""
    return tables.fitted(place[1:], x, encoder, how)


def fits(part: Part) -> bool:
    """Whether the parameter can be made."""
    try:
        part.read()
    except ValueError:
        return False
    return True


def shapes_of(given: config.Config) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
    """Shape and type of every parameter, and of what moves beside them, by its path."""
    state = jax.eval_shape(lambda: train.init_state(given))
    moving = {MOVING: (state.frozen or {}).get(MOVING, {})}
    return named_leaves(state.params) | named_leaves(moving)


def origin(found: Converted) -> Origin:
    """What a run starts from."""
    there = {place: part.like for place, part in found.parts.items()}
    moving = nested({n: x for n, x in there.items() if n[0] == MOVING}).get(MOVING, {})

    def load(wanted: Leaves) -> Leaves:
        return {place: put(found.read(place), like) for place, like in wanted.items()}

    own = {n: x for n, x in there.items() if n[0] != MOVING}
    how, encoder = layouts.resize_of(found.layout), found.config.encoder
    return Origin(str(found.path), own, moving, load, encoder, how)


def origin_of(source: pathlib.Path, encoder: Any) -> Origin:
    """What `init_from` names, for a run with that encoder.

    Raises BadFileError or StorageError, one line.
    """
    if holds_model(str(source)):
        return of_workdir(source)
    # How many heads share the weights of attention most files do not tell.
    heads = getattr(encoder, "heads", None)
    changes = (("encoder.heads", str(heads)),) if isinstance(heads, int) else ()
    return origin(convert([source], changes=changes))


def save(found: Converted, workdir: pathlib.Path) -> None:
    """Writes a workdir that a run starts from, or builds on."""
    places = {"/".join(place): place for place in found.parts}
    shapes = {name: found.parts[place].like for name, place in places.items()}
    try:
        writing.write(workdir / PARAMS, shapes, lambda name: found.read(places[name]))
    except BadFileError:
        with contextlib.suppress(OSError):
            workdir.rmdir()
        raise
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
