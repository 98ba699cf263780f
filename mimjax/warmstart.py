"""A new run from the parameters of others: `init_from`, and models kept frozen."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mimjax import origins, sharding
from mimjax.checkpoint import StorageError
from mimjax.convert import tables
from mimjax.convert.schemes import kind_of
from mimjax.frozen import COLLECTION
from mimjax.objectives import MOVING
from mimjax.origins import Origin, put
from mimjax.schema import schema_of
from mimjax.train import State
from mimjax.trees import Leaves, named_leaves, nested, placed_like, shapes_of

# Fields of an encoder that its arrays do not show, though it is another function.
FUNCTION = ("norm_eps", "gelu_tanh")
# Fields that they do not show either, or that they are fitted to.
UNSEEN = (*FUNCTION, "image_size", "window", "layer_scale", "dropout", "drop_path")
UNSEEN += ("start", "remat", "unroll", "attention", "float8", "dtype")


class NothingFitsError(StorageError):
    """It is another model's; the message is one line."""


def begin(
    state: State, origin: Origin, scope: str, encoder: Any
) -> tuple[State, dict[str, list[str]]]:
    """Parameters of an origin put into a fresh state of a model with `encoder`.

    `scope` is "encoder" or "all", which also takes what an update moves beside the
    parameters (MOVING) where all of it fits. The report lists the names that are
    "matched", of these the tables of positions that were "resized", the names that are
    "missing" there, of another "shape" (both keep their fresh start) and "unexpected".
    Raises StorageError where nothing matches, or what is there is damaged.
    """
    here, there = named_leaves(state.params), origin.there
    wanted = {n: x for n, x in here.items() if scope == "all" or n[0] == "encoder"}
    same = {n: x for n, x in wanted.items() if n in there and there[n].shape == x.shape}
    if encoder and origin.encoder:
        pair = origin.encoder, encoder
        same = {n: x for n, x in same.items() if not tables.differ(n, *pair)}
    if not same:
        why = unlike(origin.encoder, encoder) or scope
        raise NothingFitsError(f"nothing of {origin.name} fits this model ({why})")
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


def unlike(theirs: Any, ours: Any, fields: tuple[str, ...] = ()) -> str:
    """How two encoders differ, by these fields or those that their arrays show.

    Empty where they do not, or it is not known.
    """
    if not theirs or not ours:
        return ""
    if type(theirs) is not type(ours):
        pairs = {} if fields else {"name": (kind_of(theirs), kind_of(ours))}
    else:
        own = schema_of(type(ours))
        names = [n for n in own if (n in fields if fields else n not in UNSEEN)]
        pairs = {n: (getattr(theirs, n), getattr(ours, n)) for n in names}
    differ = {n: pair for n, pair in pairs.items() if pair[0] != pair[1]}
    lines = (f"encoder.{n} is {a} there, {b} here" for n, (a, b) in differ.items())
    return "; ".join(lines)


def unseen(theirs: Any, ours: Any) -> str:
    """How two encoders make something else of the same arrays; empty as above."""
    positions = {getattr(encoder, "position", "") for encoder in (theirs, ours)}
    computed = positions == {"sincos", "none"}
    return unlike(theirs, ours, FUNCTION + ("position",) * computed)


def computed_anew(theirs: Any, ours: Any) -> str:
    """That fixed positions are those of another grid here; empty where they are not."""
    fixed = {getattr(encoder, "position", "") for encoder in (theirs, ours)}
    if fixed != {"sincos"} or theirs.grid == ours.grid:
        return ""
    there, here = (" x ".join(map(str, encoder.grid)) for encoder in (theirs, ours))
    resized = f"--config.encoder.position=learned resizes those of {there}"
    return f"positions are computed for {here} patches, as AIM's; {resized}, as MAE's"


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
            table = tables.sincos(theirs.grid, theirs.width, encoder.cls)[None]
        else:
            continue
        try:
            table = tables.fitted(name[1:], table, encoder, origin.how, origin.encoder)
            found[name] = put(np.broadcast_to(table, like.shape), like)
        except ValueError:
            continue  # it is of another width, or of other heads
    return found


def with_frozen(state: State, sources: dict[str, str]) -> tuple[State, list[str]]:
    """A fresh state with the models of other runs in it, and where they come from.

    `sources` are workdirs by the model's name in the collection "frozen". The averaged
    parameters are taken where the other run has them. Raises StorageError if one has no
    checkpoint or it is damaged, NothingFitsError, which names it, if it does not fit.
    """
    models, remarks = {}, []
    for name, source in sources.items():
        origin = origins.of_workdir(pathlib.Path(source))
        wanted = dict(state.frozen[COLLECTION][name])
        params = named_leaves(wanted.pop("params"))
        leaves = params | named_leaves(wanted)
        there = origin.there | named_leaves({MOVING: origin.moving})
        for place, x in leaves.items():
            if place not in there or there[place].shape != x.shape:
                what = "/".join(place)
                told = f"{name}: {origin.name} holds no {what} of {x.shape}"
                raise NothingFitsError(told)
        loaded = origin.load({place: placed_like(x) for place, x in leaves.items()})
        own = {place: x for place, x in loaded.items() if place in params}
        moving = {place: x for place, x in loaded.items() if place not in params}
        models[name] = {"params": nested(own), **nested(moving)}
        remarks.append(f"{name}: {origin.name}")
    if not models:
        return state, []
    kept = {**state.frozen, COLLECTION: models}
    return dataclasses.replace(state, frozen=kept), remarks
