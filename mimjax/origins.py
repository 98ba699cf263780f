"""Where parameters come from: a run's checkpoint, or a file of another project."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mimjax import config
from mimjax.checkpoint import StorageError, attempt
from mimjax.convert import tables
from mimjax.convert.archives import release
from mimjax.convert.files import BadFileError, read
from mimjax.metrics import read_metrics
from mimjax.objectives import MOVING
from mimjax.optim import Optim
from mimjax.settings import CONVERTED, PARAMS
from mimjax.trainable import trained
from mimjax.trees import Leaves, differing, named_leaves, nested


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where parameters come from.

    Attributes:
        name: for people.
        there: the arrays, or their shapes and types, by path.
        moving: the same of what an update moves beside the parameters, nested.
        load: arrays for some of these (paths of `moving` begin with MOVING), given
            their shapes, types and shardings.
        encoder: of that model, None where it is not known.
        how: how its tables of positions are taken to another size (`tables.RESIZES`).
        step: updates it has seen.
    """

    name: str
    there: Leaves
    moving: Any
    load: Callable[[Leaves], Leaves]
    encoder: Any = None
    how: str = "bicubic"
    step: int = 0


def of_workdir(source: pathlib.Path) -> Origin:
    """The newest checkpoint of a run, or what a file of another project was made into.

    Of a grid of rates it is the member that was the most accurate when they were judged
    last, or what all share where that was before the first update. Raises StorageError
    if there is no checkpoint, or it is damaged.
    """
    encoder, how, given = model_of(source)
    if (source / PARAMS).exists():
        return of_file(source / PARAMS, encoder, how)
    path, tree = newest(source)
    origin = "ema" if tree.get("ema") else "params"

    def load(wanted: Leaves) -> Leaves:
        heads = {name: "frozen" if name[0] == MOVING else origin for name in wanted}
        abstract = nested({(heads[name], *name): x for name, x in wanted.items()})
        loaded = named_leaves(read_part(path, abstract))
        return {name[1:]: x for name, x in loaded.items()}

    moving = (tree["frozen"] or {}).get(MOVING, {})
    there = named_leaves(tree[origin])
    step = int(path.parent.name)
    found = Origin(str(path.parent), there, moving, load, encoder, how, step)
    return of_member(found, given, source) if given.rates else found


def of_member(whole: Origin, given: Optim, source: pathlib.Path) -> Origin:
    """One member of what a grid has saved."""
    members = named_leaves(trained(given, nested(whole.there)))
    there = {n: x for n, x in whole.there.items() if n not in members}
    judged = [r for r in read_metrics(source) if "eval/rate" in r]
    # Before the first update all are alike: the rate told then was not chosen.
    judged = [r["eval/rate"] for r in judged if 0 < r["step"] <= whole.step]
    if not judged:
        return dataclasses.replace(whole, there=there)
    number, name = given.rates.index(judged[-1]), f"{whole.name}, rate {judged[-1]}"
    for n, x in members.items():
        there[n] = jax.ShapeDtypeStruct(x.shape[1:], x.dtype)

    def load(wanted: Leaves) -> Leaves:
        # On the host: how one member lies on the devices is not how all would.
        arrays = {n: np.empty(x.shape, x.dtype) for n, x in members.items()}
        found = whole.load({n: arrays.get(n, x) for n, x in wanted.items()})
        one = {n: put(found[n][number], x) for n, x in wanted.items() if n in members}
        return found | one

    return dataclasses.replace(whole, name=name, there=there, load=load)


def model_of(source: pathlib.Path) -> tuple[Any, str, Optim]:
    """The encoder of a workdir, how its tables are resized, how it is trained.

    As far as it is told.
    """
    if not (source / "config.json").exists():
        return None, "bicubic", Optim()
    try:
        other = config.of_workdir(str(source))
    except ValueError as error:
        raise StorageError(str(error)) from None
    how = tables.resize_of(other.objective)
    if (source / CONVERTED).exists():
        how = json.loads((source / CONVERTED).read_text())["resize"]
    return other.encoder, how, other.optim


def of_file(path: pathlib.Path, encoder: Any, how: str) -> Origin:
    """Parameters under our names in a file."""
    try:
        arrays = {tuple(name.split("/")): x for name, x in read(path).items()}
    except BadFileError as error:
        raise StorageError(str(error)) from None
    there = {n: x for n, x in arrays.items() if n[0] != MOVING}
    moving = nested({n: x for n, x in arrays.items() if n[0] == MOVING})

    def load(wanted: Leaves) -> Leaves:
        found = {}
        for place, like in wanted.items():
            found[place] = put(arrays[place], like)
            release(arrays[place])
        return found

    return Origin(str(path), there, moving.get(MOVING, {}), load, encoder, how)


def newest(source: pathlib.Path) -> tuple[pathlib.Path, dict[str, Any]]:
    """The saved state of another run's newest checkpoint, and what it holds."""
    folder = source / "checkpoints"
    steps = [int(p.name) for p in folder.glob("*") if p.name.isdigit()]
    if not steps:
        raise StorageError(f"{source} holds no checkpoint to start from")
    path = (folder / str(max(steps)) / "state").absolute()
    described, problem = attempt(
        lambda: ocp.PyTreeCheckpointer().metadata(path).item_metadata
    )
    # Orbax may answer None, not an error, where the description cannot be read.
    if described is None:
        what = f"the description of {path.parent} cannot be read"
        raise StorageError(f"{what}: {problem}" if problem else what)
    return path, described.tree


def read_part(path: pathlib.Path, abstract: dict[str, Any]) -> dict[str, Any]:
    """Some of the arrays of a saved state, verified."""
    arguments = ocp.args.PyTreeRestore(
        item=abstract,
        restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
        partial_restore=True,
    )
    loaded, problem = attempt(
        lambda: ocp.PyTreeCheckpointer().restore(path, args=arguments)
    )
    meta, torn = attempt(
        lambda: json.loads((path.parent / "meta" / "metadata").read_text())
    )
    if problem or torn:
        raise StorageError(f"cannot read {path.parent}: {problem or torn}")
    wrong = differing(loaded, meta)
    if wrong:
        raise StorageError(f"{path.parent}: {wrong[0]} is not what was saved")
    return loaded


def put(array: np.ndarray, like: Any) -> jax.Array:
    """An array that every process has as another one lies on the devices."""
    array = np.asarray(array, like.dtype)
    return jax.make_array_from_callback(
        like.shape, like.sharding, lambda index: array[index]
    )
