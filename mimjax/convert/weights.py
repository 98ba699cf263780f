"""Parameters of a model from the arrays of a file, and back, by a table of names."""

import dataclasses
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mimjax import checkpoint, config, train
from mimjax.convert import layouts, tables
from mimjax.convert.files import BadFileError, read, told
from mimjax.convert.names import Arrays
from mimjax.objectives import MOVING
from mimjax.run.workdir import write
from mimjax.schema import coerce
from mimjax.trees import Leaves, named_leaves, nested
from mimjax.warmstart import Origin, put


@dataclasses.dataclass(frozen=True)
class Converted:
    """A model from a file: its config, its parameters, and what did not match."""

    config: config.Config
    params: dict[str, Any]
    layout: str
    matched: list[str]
    missing: list[str]
    unexpected: list[str]


# What the same thing is called in files of the same layout; the first is kept out.
SAME: tuple[tuple[str, str], ...] = (
    # What a model of transformers that has a head calls its encoder; DINO and iBOT too.
    (r"^(vit|beit|swin|dinov2|dinov2_with_registers|backbone)\.", ""),
    # transformers 5.23 writes the decoder of ViTMAE so, and reads both.
    (r"\.decoder_encoder\.layer\.", ".decoder_layers."),
    (r"^preprocessor\.blocks\.0\.", "preprocessor."),  # ml-l3m
    # vit_jax numbered all parts of a layer before flax linen, and each kind since.
    (r"/MultiHeadDotProductAttention_1/", "/MultiHeadDotProductAttention_0/"),
    (r"/LayerNorm_2/", "/LayerNorm_1/"),
    (r"/MlpBlock_3/", "/MlpBlock_0/"),
)
SIZE = "encoder.image_size"
# What a file may hold beside parameters, computed from the sizes.
BUFFERS = ("relative_position_index", "relative_coords_table", "attn_mask")


def plain(name: str) -> str:
    """A name as all files of its layout have it."""
    for pattern, other in SAME:
        name = re.sub(pattern, other, name)
    return name


def plainly(arrays: Arrays) -> dict[str, np.ndarray]:
    """The same arrays by their plain names."""
    return {plain(name): x for name, x in arrays.items()}


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
        wrong = given.objective.problems()
    except (LookupError, ValueError, TypeError) as error:
        said = error.args[0] if error.args else error
        raise BadFileError(f"{path} is no {layout} model: {said}") from None
    if wrong:
        raise BadFileError(f"{path} is no {layout} model: {wrong[0]}")
    return matching(path, arrays, layout, given)


def together(paths: Sequence[pathlib.Path]) -> dict[str, np.ndarray]:
    """The arrays of all files by their plain names."""
    found: dict[str, np.ndarray] = {}
    for path in paths:
        arrays = plainly(read(path))
        # DALL-E's two files call their parts alike; in a decoder all groups have it.
        if "blocks.input.w" in arrays:
            side = (
                "decoder" if "blocks.group_1.block_1.id_path.w" in arrays else "encoder"
            )
            arrays = {f"{side}.{name}": x for name, x in arrays.items()}
        twice = found.keys() & arrays.keys()
        if twice:
            raise BadFileError(f"{path} holds {min(twice)}, as another file does")
        found |= arrays
    return found


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
    params, missing = {}, []
    for entry in table.entries(given.objective):
        entry = dataclasses.replace(entry, theirs=tuple(map(plain, entry.theirs)))
        place, names = tuple(entry.ours.split("/")), entry.names()
        if not all(name in arrays for name in names):
            missing.append(entry.ours)
            continue
        try:
            found = entry.read(arrays)
            if found.shape != wanted[place].shape:
                found = tables.fitted(place[1:], found, given.encoder, how)
        except ValueError:
            found = np.empty(0)
        if found.shape == wanted[place].shape:
            params[place] = found.astype(wanted[place].dtype, copy=False)
            left -= set(names)
        elif entry.droppable:
            missing.append(entry.ours)
        else:
            raise BadFileError(
                f"{path}: {names[0]} of {arrays[names[0]].shape} does not make "
                f"{entry.ours} of {wanted[place].shape}"
            )
    if not any(place[0] == "encoder" for place in params):
        raise BadFileError(f"{path} holds nothing of a {layout} encoder")
    names = ["/".join(place) for place in params]
    return Converted(given, nested(params), layout, names, missing, sorted(left))


def shapes_of(given: config.Config) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
    """Shape and type of every parameter, and of what moves beside them, by its path."""
    state = jax.eval_shape(lambda: train.init_state(given))
    moving = {MOVING: (state.frozen or {}).get(MOVING, {})}
    return named_leaves(state.params) | named_leaves(moving)


def origin(found: Converted, name: str) -> Origin:
    """What a run starts from."""
    params = dict(found.params)
    moving = params.pop(MOVING, {})
    leaves = named_leaves(found.params)
    how = layouts.resize_of(found.layout)

    def load(wanted: Leaves) -> Leaves:
        return {place: put(leaves[place], like) for place, like in wanted.items()}

    there = named_leaves(params)
    return Origin(name, there, moving, load, found.config.encoder, how)


def save(found: Converted, workdir: pathlib.Path) -> None:
    """Writes a workdir that holds the model as a run leaves it, after no update."""
    zero = np.zeros((), np.int32)
    params = dict(found.params)
    moving = params.pop(MOVING, None)
    frozen = {MOVING: moving} if moving else {}
    state = train.State(params, frozen, {}, {}, zero, zero, zero)
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
