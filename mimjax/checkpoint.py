"""Checkpoints by Orbax: saved in the background, verified, restored from the newest good.

Orbax does not check the arrays it reads back and does not fall back to an older step, so
a fingerprint of every array is saved with it, computed on the device before the copy and
again after the restore.
"""

import dataclasses
import logging
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import Array

from mimjax import sharding
from mimjax.train import State

# Orbax reports every phase of every save at level INFO and some at WARNING.
logging.getLogger("absl").setLevel(logging.ERROR)


class StorageError(Exception):
    """Saving or restoring failed; the message is one line."""


@jax.jit
def fingerprint(tree: Any) -> list[Array]:
    """Two sums of the 32-bit words of each array, the second weighted by place.

    Sums of integers do not depend on order, so neither on how the array is sharded.
    """

    def sums(x: Array) -> Array:
        if x.dtype.itemsize != 4:
            x = x.astype(jnp.float32)
        words = jax.lax.bitcast_convert_type(x, jnp.uint32).reshape(-1)
        place = jnp.arange(words.size, dtype=jnp.uint32) * 2 + 1
        return jnp.stack([words.sum(dtype=jnp.uint32), (words * place).sum(dtype=jnp.uint32)])

    return [sums(x) for x in jax.tree.leaves(tree)]


def named_fingerprints(state: Any) -> dict[str, list[int]]:
    """The fingerprint of each array by its path."""
    paths = [sharding.name_of(path) for path, _ in jax.tree.leaves_with_path(state)]
    sums = jax.device_get(fingerprint(state))
    return {p: np.asarray(s).tolist() for p, s in zip(paths, sums, strict=True)}


class Checkpoints:
    """The checkpoints of one workdir: the newest `keep_last`, and every `keep_every`th."""

    def __init__(self, workdir: pathlib.Path, keep_last: int, keep_every: int):
        self.folder = workdir / "checkpoints"
        self.aside = workdir / "bad_checkpoints"
        self.options = ocp.CheckpointManagerOptions(
            max_to_keep=keep_last,
            keep_period=keep_every or None,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        )
        self.manager = self.open()

    def open(self) -> ocp.CheckpointManager:
        """Orbax's manager of the folder as it is now."""
        return ocp.CheckpointManager(self.folder.absolute(), options=self.options)

    def steps(self) -> list[int]:
        """Steps there is a checkpoint of, oldest first."""
        return sorted(self.manager.all_steps())

    def save(self, state: State, step: int) -> None:
        """Copies the state to the host and writes it in the background."""
        if step in self.manager.all_steps():
            return
        try:
            self.manager.check_for_errors()
            arguments = ocp.args.Composite(
                state=ocp.args.StandardSave(plain(state)),
                meta=ocp.args.JsonSave({"fingerprints": named_fingerprints(plain(state))}),
            )
            self.manager.save(step, args=arguments, force=True)
        except Exception as error:
            raise StorageError(f"cannot save step {step}: {first_line(error)}") from error

    def restore(self, abstract: State) -> tuple[State | None, list[str]]:
        """The newest checkpoint that verifies, placed as `abstract` says, and remarks.

        A checkpoint that cannot be read, or whose arrays are not those that were saved,
        is moved to `bad_checkpoints` and the one before it is tried. (None, []) where
        there are none; StorageError where there are some and none is good.
        """
        remarks: list[str] = []
        for step in reversed(self.steps()):
            try:
                return self.read(step, abstract), remarks
            except Exception as error:
                remarks.append(f"checkpoint {step} is not usable: {first_line(error)}")
                self.set_aside(step)
        if remarks:
            raise StorageError(
                "; ".join([*remarks, f"nothing to resume from (see {self.aside})"])
            )
        return None, []

    def read(self, step: int, abstract: State) -> State:
        """The state of one step; raises whatever is wrong with it."""
        arguments = ocp.args.Composite(
            state=ocp.args.StandardRestore(plain(abstract)), meta=ocp.args.JsonRestore()
        )
        restored = self.manager.restore(step, args=arguments)
        saved = restored["meta"]["fingerprints"]
        found = named_fingerprints(restored["state"])
        wrong = [name for name in found if saved.get(name) != found[name]]
        if wrong:
            raise ValueError(f"{wrong[0]} is not what was saved ({len(wrong)} arrays)")
        return State(**restored["state"])

    def set_aside(self, step: int) -> None:
        """Moves a bad checkpoint out of the way; nothing is deleted."""
        self.manager.close()
        if jax.process_index() == 0:
            self.aside.mkdir(exist_ok=True)
            target = self.aside / str(step)
            while target.exists():
                target = target.with_name(target.name + "_")
            shutil.move(self.folder / str(step), target)
        barrier(f"set aside {step}")
        self.manager = self.open()

    def wait(self) -> None:
        """Until the last save is on disk; raises StorageError if it failed."""
        try:
            self.manager.wait_until_finished()
            self.manager.check_for_errors()
        except Exception as error:
            raise StorageError(f"the last save failed: {first_line(error)}") from error

    def close(self) -> None:
        """Waits, on every way out."""
        try:
            self.wait()
        finally:
            self.manager.close()


def barrier(name: str) -> None:
    """Waits for all processes."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def plain(state: State) -> dict[str, Any]:
    """The state as a dict, the form on disk."""
    return {name: getattr(state, name) for name in State.__dataclass_fields__}


def first_line(error: BaseException) -> str:
    """What an error says, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 300 else text[:297] + "..."


def warm_start(
    state: State, source: pathlib.Path, scope: str
) -> tuple[State, dict[str, list[str]]]:
    """Parameters of another run's newest checkpoint put into a fresh state.

    `scope` is "encoder" or "all". The report lists the names that are "matched",
    "missing" there, of another "shape" (both keep their fresh start) and "unexpected".
    The averaged parameters are taken where the other run has them. Raises StorageError if
    there is no checkpoint or nothing matches.
    """
    folder = source / "checkpoints"
    steps = [int(p.name) for p in folder.glob("*") if p.name.isdigit()]
    if not steps:
        raise StorageError(f"{source} holds no checkpoint to start from")
    path = (folder / str(max(steps)) / "state").absolute()
    reader = ocp.PyTreeCheckpointer()
    # Orbax answers None, not an error, where the description cannot be read.
    described = reader.metadata(path).item_metadata
    if described is None:
        raise StorageError(f"the description of {path.parent} cannot be read")
    tree = described.tree
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
    arguments = ocp.checkpoint_utils.construct_restore_args(abstract)
    loaded = reader.restore(
        path,
        args=ocp.args.PyTreeRestore(
            item=abstract, restore_args=arguments, partial_restore=True
        ),
    )
    params = nested({**here, **named_leaves(loaded[origin])})
    # A copy: a donated buffer may stand in one place only.
    ema = jax.tree.map(jnp.copy, params) if state.ema else state.ema
    names = {key: ["/".join(n) for n in found] for key, found in report.items()}
    return dataclasses.replace(state, params=params, ema=ema), names


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
