"""The model in a file of another project, by the layout's table of names."""

import contextlib
import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from mimjax import backbones, checks, config, data, evaluate, train
from mimjax.convert import layouts, own, tables
from mimjax.convert.files import BadFileError, told
from mimjax.convert.names import Arrays
from mimjax.convert.parts import UNFIT, Converted, Part, fits
from mimjax.convert.pickles import short
from mimjax.convert.plain import BUFFERS, plain, together
from mimjax.objectives import MOVING
from mimjax.schema import coerce
from mimjax.trees import named_leaves

SIZE = "encoder.image_size"
# Only where one of these is asked for are tables taken to another size.
SIZES = {SIZE, "encoder.window", "encoder.position"}
# Of absolute positions beside the relative ones that Swin and BEiT have.
POSITIONS = (".pos_embed", ".absolute_pos_embed", ".embeddings.position_embeddings")


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
    return of_arrays(paths[0], together(paths), told(paths[0]), layout, changes)


def of_arrays(
    path: pathlib.Path,
    arrays: Arrays,
    said: dict[str, Any],
    layout: str = "",
    changes: tuple[tuple[str, str], ...] = (),
) -> Converted:
    """The same of arrays by their plain names, and the configuration beside them."""
    said, told = own.tables(said), said.get(own.LAYOUT)
    layout = layout or (told if told in layouts.names() else recognised(arrays))
    if not layout:
        known = ", ".join(layouts.names())
        names = ", ".join(map(short, sorted(arrays)[:3]))
        what = f"{path} has the names of no known layout ({known}): {names}"
        raise BadFileError(what + ", ..." * (len(arrays) > 3))
    try:
        given = config.rebuilt(values_of(arrays, layout, said, changes))
        check_heads(given.values["encoder"])
        encoder = given.encoder
        fields = given.values["encoder"]
        if wrong := backbones.load(fields["name"]).problems(fields):
            raise ValueError(wrong[0])
        wrong += given.objective.problems()
        # Not the images, which there are none of.
        colours = dataclasses.replace(given.data, source="synthetic")
        wrong += data.check(colours, encoder.image_size, encoder.channels)
        wrong += evaluate.check(given.evaluate) + checks.feature_problems(given)
        if wrong:
            raise ValueError(wrong[0])
        check_names(given, layout)
    except UNFIT as error:
        what = error.args[0] if error.args else type(error).__name__
        what = f"it has no {what}" if isinstance(error, KeyError) else what
        raise BadFileError(f"{path} is no {layout} model: {what}") from None
    how = layouts.resize_of(layout, encoder, said)
    source = encoder
    if SIZES & {*dict(changes)}:
        kept = tuple(one for one in changes if one[0] not in SIZES)
        # Of no square: what is asked for is the size of its tables.
        with contextlib.suppress(*UNFIT):
            found = config.rebuilt(values_of(arrays, layout, said, kept)).encoder
            source = found if found.grid else encoder
    return matching(path, arrays, layout, given, how, source)


def check_heads(encoder: dict[str, Any]) -> None:
    """Raises ValueError where it is as wide as none known."""
    if encoder.get("heads") == 0:
        what = f"no size known is {encoder['width']} wide, and weights tell no heads"
        raise ValueError(f"{what}: say --config.encoder.heads=N to mimjax.convert")


def check_names(given: config.Config, layout: str) -> None:
    """Raises ValueError where the layout has no table of names for the objective."""
    try:
        list(layouts.load(layout).entries(given.objective))
    except AttributeError:
        names = [given.values[group]["name"] for group in ("objective", "encoder")]
        what = f"this layout has no names for {' on '.join(names)}"
        raise ValueError(f"config.objective.name: {what}") from None


def recognised(arrays: Arrays) -> str:
    """The layout of these names; empty where there is none."""
    for name in layouts.names():
        # A table that is none would be looked into.
        with contextlib.suppress(*UNFIT):
            if layouts.load(name).recognises(arrays):
                return name
    return ""


def values_of(
    arrays: Arrays,
    layout: str,
    said: dict[str, Any],
    changes: tuple[tuple[str, str], ...],
) -> dict[str, Any]:
    """The config groups of the model, `changes` on top."""
    table, asked = layouts.load(layout), dict(changes)
    try:
        values = table.values(arrays, said)
    except ValueError:
        if SIZE not in asked:
            raise
        # Its tables are of no square: what is asked for is their size.
        size = list(coerce(asked[SIZE], tuple[int, int]))
        values = table.values(arrays, said | {"image_size": size})
    colours = {name: said[name] for name in ("mean", "std") if name in said}
    channels = values["encoder"].get("channels", 3)
    if all(np.shape(x) == (channels,) for x in colours.values()):
        values["data"] = values.get("data", {}) | colours
    own.add(values, said)
    if "data.normalise" in asked:
        # Numbers count before a name, and these are of the folder.
        for name in ("mean", "std"):
            values.get("data", {}).pop(name, None)
    for name, text in changes:
        if name == "encoder.size":
            raise ValueError(f"config.{name}: the file tells it, leave it out")
        group, _, field = name.partition(".")
        values.setdefault(group, {})[field] = text
    return values


def matching(
    path: pathlib.Path,
    arrays: Arrays,
    layout: str,
    given: config.Config,
    how: str = "bicubic",
    source: Any = None,
) -> Converted:
    """The parameters that are there, in our shapes.

    Tables of positions are made to fit where `source`, the encoder that the arrays are
    of, has another grid than that of `given`.
    """
    table, wanted = layouts.load(layout), shapes_of(given)
    source = source or given.encoder
    left = {name for name in arrays if not name.endswith(BUFFERS)}
    left -= set(map(plain, layouts.constants_of(layout, given.objective)))
    parts, missing = {}, []
    for entry in table.entries(given.objective):
        entry = dataclasses.replace(entry, theirs=tuple(map(plain, entry.theirs)))
        place, names = tuple(entry.ours.split("/")), entry.names()
        absent = [name for name in names if name not in arrays]
        if absent and len(absent) < len(names):
            # One layer that is not there would leave all of them as they start.
            raise BadFileError(
                f"{path} is no whole {layout} model: no {absent[0]} in it"
            )
        if absent:
            missing.append(entry.ours)
            continue
        fit, encoder = None, given.encoder
        if place[0] == "encoder" and tables.differ(place, encoder, source):
            fit = functools.partial(
                tables.fitted, place[1:], encoder=encoder, how=how, source=source
            )
        part = Part(entry, wanted[place], arrays, fit)
        if entry.droppable and not fits(part):
            missing.append(entry.ours)
            continue
        parts[place] = part
        left -= set(names)
    if not any(place[0] == "encoder" for place in parts):
        raise BadFileError(f"{path} holds nothing of a {layout} encoder")
    beside = getattr(table, "BESIDE", ())
    rest = (name for name in left if not name.startswith(beside))
    strange = min(filter(inside(parts), rest), default="")
    if strange:
        raise BadFileError(
            f"{path} is no {layout} model: it has no place for {short(strange)}"
        )
    return Converted(path, given, layout, parts, missing, sorted(left), how, source)


def inside(parts: dict[tuple[str, ...], Part]) -> Callable[[str], bool]:
    """Whether a name is of the patch embedding, of a layer found, or of positions.

    What has no place there is of another model, which computes otherwise.
    """
    theirs = [p.entry.names() for place, p in parts.items() if place[0] == "encoder"]
    numbered = (re.match(r"(.*?[._a-z])\d+[./]", n) for names in theirs for n in names)
    found = {match[1] for match in numbered if match}
    kernel = parts.get(("encoder", "patch", "kernel"))
    if kernel:
        found.add(kernel.entry.names()[0].rsplit(".", 2)[0] + ".")
    whole = tuple(found)
    return lambda name: name.startswith(whole) or f".{name}".endswith(POSITIONS)


def shapes_of(given: config.Config) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
    """Shape and type of every parameter, and of what moves beside them, by its path."""
    state = train.shapes_of(given)
    moving = {MOVING: (state.frozen or {}).get(MOVING, {})}
    return named_leaves(state.params) | named_leaves(moving)


def written(objective: Any, params: dict[str, Any], layout: str) -> dict[str, Any]:
    """The arrays of a file of that layout: what is there, and its constants."""
    table, leaves = layouts.load(layout), named_leaves(params)
    found = dict(layouts.constants_of(layout, objective))
    for entry in table.entries(objective):
        place = tuple(entry.ours.split("/"))
        if place in leaves:
            found |= entry.write(np.asarray(leaves[place]))
    return found
