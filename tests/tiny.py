"""Tiny runs inside this process, a step at a time."""

import atexit
import contextlib
import dataclasses
import functools
import json
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import closeness
import jax
import numpy as np

from mimjax import checkpoint, config, meshes, origins, sharding, train, warmstart
from mimjax.data import scaled, synthetic
from mimjax.objectives import IGNORED
from mimjax.run import setup

CONFIG = str(pathlib.Path(__file__).with_name("tiny_config.py"))


# Objectives that build on another run: their field, and that run's objective.
BUILDS_ON = {
    "beit": ("tokenizer", "dvae"),
    "beit2": ("tokenizer", "vqkd"),
    "vqkd": ("teacher", "mae"),
}


@functools.cache
def workdir_of(objective: str) -> str:
    """A workdir as a run leaves it, with a random model."""
    workdir = pathlib.Path(tempfile.mkdtemp(prefix=objective))
    given = resolve(objective)
    # As a tokenizer starts, every token is the same.
    save_workdir(workdir, given, random_state(given, mesh_of(), 0.4))
    atexit.register(shutil.rmtree, workdir, ignore_errors=True)
    return str(workdir)


def save_workdir(
    workdir: pathlib.Path, given: config.Config, state: train.State
) -> None:
    """Writes a workdir as a run leaves it after one step."""
    checkpoints = checkpoint.Checkpoints(workdir, 1, 0)
    checkpoints.save(state, 1)
    checkpoints.close()
    (workdir / "config.json").write_text(json.dumps(given.values))


def resolve(objective: str = "simmim", **changes: Any) -> config.Config:
    """The tiny config; `optim__clip=1.0` changes `config.optim.clip`."""
    if objective in BUILDS_ON:
        field, other = BUILDS_ON[objective]
        changes = {f"objective__{field}": workdir_of(other), **changes}
    texts = [(name.replace("__", "."), str(value)) for name, value in changes.items()]
    return config.resolve(f"{CONFIG}:{objective}", texts, 1)


def mesh_of(data: int = 1, fsdp: int = 1, tensor: int = 1) -> jax.sharding.Mesh:
    """A mesh on the first of the fake devices."""
    devices = jax.devices()[: data * fsdp * tensor]
    return sharding.make(meshes.Mesh(data, fsdp, tensor), devices)


def random_state(
    given: config.Config, mesh: jax.sharding.Mesh, scale: float
) -> train.State:
    """A state whose parameters are random; a first one takes seconds to compile."""
    shapes = train.abstract_state(given, mesh)
    random = {
        name: closeness.random_arrays(getattr(shapes, name), scale)
        for name in ("params", "frozen")
    }
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    state = dataclasses.replace(state, **random)
    return jax.device_put(state, jax.tree.map(lambda x: x.sharding, shapes))


def warm_start(
    state: train.State, source: pathlib.Path, scope: str
) -> tuple[train.State, dict[str, list[str]]]:
    """A state started from a workdir."""
    return warmstart.begin(state, origins.of_workdir(source), scope, None)


def start(given: config.Config, mesh: jax.sharding.Mesh) -> train.State:
    """Random parameters to go on from, with the models that they build on."""
    state = random_state(given, mesh, 0.1)
    return warmstart.with_frozen(state, given.builds_on)[0]


class Run:
    """A started run: its state and its compiled step."""

    def __init__(
        self,
        given: config.Config,
        mesh: jax.sharding.Mesh | None = None,
        state: train.State | None = None,
    ):
        self.config, self.mesh = given, mesh or mesh_of()
        self.plan = setup.make_plan(given, given.data.num_images)
        self.state = state or start(given, self.mesh)
        traced = train.trace_step(given, self.plan, self.mesh)
        self.program = traced.lower().compile()
        self.seed = train.seed_on(given, self.mesh)
        self.update = functools.partial(self.program, seed=self.seed)

    def batch(self, number: int) -> dict[str, Any]:
        """Random images on the devices, others for every number."""
        encoder, size = self.config.encoder, self.config.run.batch_size
        keys = np.arange(number * size, (number + 1) * size)
        image, label = synthetic.draw(keys, encoder.image_size, encoder.channels, 0)
        batch = {"image": image, "label": label}
        if any(self.config.view_size):
            batch["view"] = scaled.second_views(image, self.config.view_size)
        if self.config.mask_values:
            mask = synthetic.draw_masks(
                keys, encoder.image_size, self.config.mask_values, 0
            )
            # A part of an image of which nothing is said, of every image another.
            mask[np.arange(size), keys % 16] = IGNORED
            batch["mask"] = mask
        return jax.device_put(batch, sharding.batch(self.mesh))

    def step(self) -> dict[str, float]:
        """Makes an update; what it reports."""
        batch = self.batch(int(self.state.step))
        self.state, values = self.update(self.state, batch)
        return {name: float(value) for name, value in values.items()}


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """A list to which every program that is compiled meanwhile adds an entry."""
    compiled: list[str] = []

    def listen(event: str, seconds: float, **_: Any) -> None:
        compiled.extend([event] * event.endswith("backend_compile_duration"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def bits(tree: Any) -> list[bytes]:
    """Every array of a tree, to the bit."""
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(jax.device_get(tree))]
