"""A new run from the parameters of others: `init_from`, and models kept frozen."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from mimjax import config, sharding
from mimjax.checkpoint import StorageError, attempt, differing
from mimjax.convert import resize, tables
from mimjax.convert.resize import Way
from mimjax.frozen import COLLECTION
from mimjax.objectives import MOVING
from mimjax.train import State
from mimjax.trees import Leaves, named_leaves, nested, placed_like, shapes_of


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
        how: how its tables of positions are taken to another size.
    """

    name: str
    there: Leaves
    moving: Any
    load: Callable[[Leaves], Leaves]
    encoder: Any = None
    how: Way = resize.bicubic


def warm_start(
    state: State, source: pathlib.Path, scope: str, encoder: Any = None
) -> tuple[State, dict[str, list[str]]]:
    """Parameters of another run's newest checkpoint put into a fresh state: `begin`.

    The averaged parameters are taken where the other run has them. Raises StorageError
    if there is no checkpoint, it is damaged, or nothing matches.
    """
    return begin(state, of_run(source), scope, encoder)


def of_run(source: pathlib.Path) -> Origin:
    """The newest checkpoint of a run."""
    path, tree = newest(source)
    origin = "ema" if tree.get("ema") else "params"

    def load(wanted: Leaves) -> Leaves:
        heads = {name: "frozen" if name[0] == MOVING else origin for name in wanted}
        abstract = nested({(heads[name], *name): x for name, x in wanted.items()})
        loaded = named_leaves(read_part(path, abstract))
        return {name[1:]: x for name, x in loaded.items()}

    encoder, how = None, resize.bicubic
    if (source / "config.json").exists():
        try:
            other = config.of_workdir(str(source))
        except ValueError as error:
            raise StorageError(str(error)) from None
        encoder, how = other.encoder, tables.way_of(other.objective)
    moving = (tree["frozen"] or {}).get(MOVING, {})
    there = named_leaves(tree[origin])
    return Origin(str(path.parent), there, moving, load, encoder, how)


def begin(
    state: State, origin: Origin, scope: str, encoder: Any
) -> tuple[State, dict[str, list[str]]]:
    """Parameters of an origin put into a fresh state of a model with `encoder`.

    `scope` is "encoder" or "all", which also takes what an update moves beside the
    parameters (MOVING) where all of it fits. The report lists the names that are
    "matched", of these the tables of positions that were "resized", the names that are
    "missing" there, of another "shape" (both keep their fresh start) and "unexpected".
    """
    here, there = named_leaves(state.params), origin.there
    wanted = {n: x for n, x in here.items() if scope == "all" or n[0] == "encoder"}
    same = {n: x for n, x in wanted.items() if n in there and there[n].shape == x.shape}
    if not same:
        raise StorageError(f"nothing of {origin.name} fits this model ({scope})")
    others = {n: x for n, x in wanted.items() if n not in same}
    made = made_tables(origin, others, encoder) if encoder and origin.encoder else {}
    report = {
        "matched": [n for n in wanted if n in same or n in made],
        "resized": list(made),
        "missing": [n for n in others if n not in there and n not in made],
        "shape": [n for n in others if n in there and n not in made],
        "unexpected": [
            n for n in there if n not in here and (scope == "all" or n[0] == "encoder")
        ],
    }
    fresh = (state.frozen or {}).get(MOVING, {})
    if scope == "all" and fresh and shapes_of(fresh) == shapes_of(origin.moving):
        beside = named_leaves({MOVING: fresh})
        report["matched"] += list(beside)
        same |= beside
    loaded = origin.load({n: placed_like(x) for n, x in same.items()})
    moved = nested({n: x for n, x in loaded.items() if n[0] == MOVING})
    params = nested({n: made.get(n, loaded.get(n, x)) for n, x in here.items()})
    # A copy: a donated buffer may stand in one place only.
    ema = jax.tree.map(jnp.copy, params) if state.ema else state.ema
    names = {key: ["/".join(n) for n in found] for key, found in report.items()}
    kept = {**state.frozen, **moved}
    return dataclasses.replace(state, params=params, ema=ema, frozen=kept), names


def made_tables(origin: Origin, wanted: Leaves, encoder: Any) -> Leaves:
    """The tables of positions among `wanted` that can be made of what is there.

    Of one of another size; where all layers share one, it is that of each (official
    BEiT, `run_class_finetuning.py`); and a fixed one is where a learned one starts (MAE
    as it is fine-tuned).
    """
    found, shared = {}, ("encoder", "relative_table")
    for name, like in wanted.items():
        if name[0] != "encoder" or name[-1] not in tables.TABLES:
            continue
        source = name if name in origin.there else shared
        if source in origin.there and source[-1] == name[-1]:
            x, mesh = origin.there[source], like.sharding.mesh
            whole = sharding.replicated(mesh)
            abstract = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole)
            table = np.asarray(origin.load({source: abstract})[source])
        elif name[-1] == "pos_embed" and origin.encoder.position == "sincos":
            theirs = origin.encoder
            table = tables.sincos(theirs.grid, theirs.width, theirs.cls)[None]
        else:
            continue
        try:
            table = tables.fitted(name[1:], table, encoder, origin.how, origin.encoder)
            found[name] = put(np.broadcast_to(table, like.shape), like)
        except ValueError:
            continue  # it is of another width, or of other heads
    return found


def put(array: np.ndarray, like: jax.Array) -> jax.Array:
    """An array that every process has as another one lies on the devices."""
    array = np.asarray(array, like.dtype)
    return jax.make_array_from_callback(
        like.shape, like.sharding, lambda index: array[index]
    )


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
