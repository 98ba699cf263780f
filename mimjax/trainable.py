"""Which parameters are trained: all but those that `config.optim.frozen` names."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mimjax.backbones.blocks import STILL
from mimjax.optim import Optim
from mimjax.trees import named_leaves, nested, shapes_of

# A path, and how many of the first layers below it, or all but how many of the last.
SLICE = re.compile(r"(.+)\[:(-?\d+)\]")

# Decayed in some papers, and not in every model: a config may name them all the same.
ALSO = {"cls_token", "mask_token", "relative_table"}


def slices(optim: Optim) -> dict[str, int]:
    """Where only the first layers are not trained: their number by path."""
    found = filter(None, map(SLICE.fullmatch, optim.frozen))
    return {match[1]: int(match[2]) for match in found}


def trained(
    optim: Optim, params: dict[str, Any], above: str = "", start: int = 0
) -> dict[str, Any]:
    """What is trained of nested dicts of parameters, the same dicts without the rest.

    `above` is the path of `params` itself, with a slash behind it, `start` the first
    layer of it.
    """
    learned = {}
    for name, part in params.items():
        path = above + name
        first = slices(optim).get(path, start)
        if path in optim.frozen:
            continue
        if isinstance(part, dict):
            learned[name] = trained(optim, part, f"{path}/", first)
        else:
            learned[name] = part[first:] if first else part
    return learned


def frozen_among(
    optim: Optim, params: dict[str, Any], names: list[str]
) -> dict[str, tuple[int, ...]]:
    """Those of the names that are not trained, or some layers of them; their shapes."""
    learned = jax.eval_shape(lambda params: trained(optim, params), params)
    whole, some = shapes_of(params), shapes_of(learned)
    places = {name: tuple(name.split("/")) for name in names}
    return {n: whole[p] for n, p in places.items() if some.get(p) != whole[p]}


def restored(learned: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """All parameters again: those of `learned`, and the rest of `params`."""

    def joined(new: Any, old: Any) -> Any:
        if np.shape(new) == np.shape(old):
            return new
        return jnp.concatenate([old[: len(old) - len(new)], new])

    return {
        name: part
        if name not in learned
        else restored(learned[name], part)
        if isinstance(part, dict)
        else joined(learned[name], part)
        for name, part in params.items()
    }


def variables(learned: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """Collections for a model: all parameters and, of stacks, what is not trained."""
    counts, left = {}, named_leaves(learned)
    for path, x in named_leaves(params).items():
        if "layers" in path:
            stack = (*path[: path.index("layers")], "count")
            still = len(x) - len(left.get(path, ()))
            counts[stack] = min(still, counts.get(stack, still))
    return {"params": restored(learned, params), STILL: nested(counts)}


def part_of(params: dict[str, Any], path: str) -> Any:
    """What is there at a path; ValueError saying which name is none."""
    part: Any = params
    for name in path.split("/"):
        known = ", ".join(part) if isinstance(part, dict) else "nothing"
        if not isinstance(part, dict) or name not in part:
            raise ValueError(f"is no parameter ({name!r} is none of {known})")
        part = part[name]
    return part


def problems(optim: Optim, params: dict[str, Any]) -> list[str]:
    """What cannot work in the names of parameters, one line each."""
    names = {path[-1] for path in named_leaves(params)}
    for name in optim.decay_also:
        if name not in names | ALSO:
            told = ", ".join(sorted(names))
            return [f"decay_also: {name!r} is the name of no parameter ({told})"]
    some = slices(optim)
    whole = tuple(path for path in optim.frozen if not SLICE.fullmatch(path))
    for path in (*whole, *some):
        if "[" in path:
            told = "of a stack the first layers can be named, as 'encoder/blocks[:2]'"
            return [f"frozen: {path!r}: {told}"]
        try:
            part = part_of(params, path)
        except ValueError as error:
            return [f"frozen: {path!r} {error}"]
        if path in some:
            leaves = named_leaves(part, tuple(path.split("/")))
            depth = min(len(x) if "layers" in n else 0 for n, x in leaves.items())
            told = f"frozen: '{path}[:{some[path]}]'"
            if not depth:
                return [f"{told} is no stack of layers (as 'encoder/blocks' is)"]
            if not 0 < abs(some[path]) < depth:
                return [f"{told} must be some of the {depth} layers (or {path!r})"]
    named = [SLICE.sub(r"\1", path) + "/" for path in optim.frozen]
    for path in some:
        if sum(map(f"{path}/".startswith, named)) > 1:
            return [f"frozen: {path!r} is named twice in {optim.frozen}"]
    if not jax.tree.leaves(trained(dataclasses.replace(optim, frozen=whole), params)):
        return [f"frozen: {optim.frozen} leaves nothing to train"]
    return []
