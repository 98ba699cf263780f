"""A new run from the parameters of others: `init_from`, and models kept frozen."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from mimjax.checkpoint import StorageError, attempt, differing
from mimjax.frozen import COLLECTION
from mimjax.objectives import MOVING
from mimjax.train import State


def warm_start(
    state: State, source: pathlib.Path, scope: str
) -> tuple[State, dict[str, list[str]]]:
    """Parameters of another run's newest checkpoint put into a fresh state.

    `scope` is "encoder" or "all", which also takes what an update moves beside the
    parameters (MOVING) where all of it fits. The report lists the names that are
    "matched", "missing" there, of another "shape" (both keep their fresh start) and
    "unexpected".
    The averaged parameters are taken where the other run has them. Raises StorageError
    if there is no checkpoint, it is damaged, or nothing matches.
    """
    path, tree = newest(source)
    origin = "ema" if tree.get("ema") else "params"
    there = named_leaves(tree[origin])
    here = named_leaves(state.params)
    wanted = {n: x for n, x in here.items() if scope == "all" or n[0] == "encoder"}
    same = {n: x for n, x in wanted.items() if n in there and there[n].shape == x.shape}
    report = {
        "matched": list(same),
        "missing": [n for n in wanted if n not in there],
        "shape": [n for n in wanted if n in there and n not in same],
        "unexpected": [
            n for n in there if n not in here and (scope == "all" or n[0] == "encoder")
        ],
    }
    if not same:
        raise StorageError(f"nothing of {path.parent} fits this model ({scope})")
    abstract = {origin: nested({n: placed_like(x) for n, x in same.items()})}
    fresh, saved = ((s or {}).get(MOVING, {}) for s in (state.frozen, tree["frozen"]))
    if scope == "all" and fresh and shapes_of(fresh) == shapes_of(saved):
        abstract["frozen"] = {MOVING: jax.tree.map(placed_like, fresh)}
        report["matched"] += [(MOVING, *n) for n in named_leaves(fresh)]
    loaded = read_part(path, abstract)
    params = nested({**here, **named_leaves(loaded[origin])})
    # A copy: a donated buffer may stand in one place only.
    ema = jax.tree.map(jnp.copy, params) if state.ema else state.ema
    names = {key: ["/".join(n) for n in found] for key, found in report.items()}
    kept = {**state.frozen, **loaded.get("frozen", {})}
    return dataclasses.replace(state, params=params, ema=ema, frozen=kept), names


def shapes_of(tree: Any) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The shape of every array by its name."""
    return {name: x.shape for name, x in named_leaves(tree).items()}


def newest(source: pathlib.Path) -> tuple[pathlib.Path, dict[str, Any]]:
    """The saved state of another run's newest checkpoint, and what it holds."""
    folder = source / "checkpoints"
    steps = [int(p.name) for p in folder.glob("*") if p.name.isdigit()]
    if not steps:
        raise StorageError(f"{source} holds no checkpoint to start from")
    path = (folder / str(max(steps)) / "state").absolute()
    # Orbax answers None, not an error, where the description cannot be read.
    described = ocp.PyTreeCheckpointer().metadata(path).item_metadata
    if described is None:
        raise StorageError(f"the description of {path.parent} cannot be read")
    return path, described.tree


def with_frozen(state: State, sources: dict[str, str]) -> tuple[State, list[str]]:
    """A fresh state with the models of other runs in it, and where they come from.

    `sources` are workdirs by the model's name in the collection "frozen". The averaged
    parameters are taken where the other run has them. Raises StorageError if one has no
    checkpoint, it is damaged or does not fit.
    """
    models, remarks = {}, []
    for name, source in sources.items():
        path, tree = newest(pathlib.Path(source))
        origin = "ema" if tree.get("ema") else "params"
        wanted = dict(state.frozen[COLLECTION][name])
        abstract = {origin: wanted.pop("params"), "frozen": wanted}
        abstract = jax.tree.map(placed_like, {k: v for k, v in abstract.items() if v})
        there = named_leaves(tree)
        for place, x in named_leaves(abstract).items():
            if place not in there or there[place].shape != x.shape:
                what = "/".join(place)
                raise StorageError(f"{path.parent} holds no {what} of {x.shape}")
        loaded = read_part(path, abstract)
        models[name] = {"params": loaded[origin], **loaded.get("frozen", {})}
        remarks.append(f"{name}: {path.parent}")
    if not models:
        return state, []
    kept = {**state.frozen, COLLECTION: models}
    return dataclasses.replace(state, frozen=kept), remarks


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


def placed_like(x: jax.Array) -> jax.ShapeDtypeStruct:
    """Shape, type and sharding of an array."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def named_leaves(tree: Any, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """The leaves of nested dicts by path."""
    if not isinstance(tree, dict):
        return {above: tree}
    return {
        name: leaf
        for key, part in tree.items()
        for name, leaf in named_leaves(part, (*above, key)).items()
    }


def nested(leaves: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    """The inverse of `named_leaves`."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        place = tree
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = leaf
    return tree
