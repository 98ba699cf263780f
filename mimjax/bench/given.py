"""What both sides of a comparison start from: config, first state, batch."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mimjax import batches, config, frozen, sharding, train
from mimjax.batches import Batch
from mimjax.config import Config
from mimjax.objectives import dvae
from mimjax.run import compiled, setup
from mimjax.tokenizers.dvae import Encoder

# A run's first updates, whose rates rise from 0. At the highest rate at once BEiT's
# loss leaps, and which way is decided by rounding: nothing could be compared.
WARMUP = {"optim.warmup_steps": "100"}
# There are no images to count epochs by, and any warm-up has to be shorter.
LENGTH = {"steps": "1000000", "epochs": "0", "optim.warmup_epochs": "0"}
# What is drawn by chance beside the masks, or is done another way there.
ALIKE = {
    "encoder.drop_path": 0.0,
    "encoder.dropout": 0.0,
    "objective.mixup": 0.0,
    "objective.cutmix": 0.0,
    "objective.smoothing": 0.0,
    "objective.erasing": 0.0,
    "optim.layer_decay": 1.0,
    "optim.ema": 0.0,
    "optim.accumulate": 1,
}


def settle(spec: dict[str, Any]) -> tuple[Config, jax.sharding.Mesh, train.Plan]:
    """The config of a measurement on the first device, its mesh and its plan."""
    setup.settle()
    compiled.keep()
    found = resolved(spec, [])
    config.fit(found, 1)
    if spec["alike"]:
        found = cheap(
            resolved(spec, [(name, str(ALIKE[name])) for name in unlike(spec)])
        )
    found, mesh = setup.place(found, jax.devices()[:1])
    return found, mesh, setup.make_plan(found, 1)


def resolved(spec: dict[str, Any], more: list[tuple[str, str]]) -> Config:
    """The config of a measurement, `more` changes on top."""
    told = map(tuple, spec["changes"])
    changes = [*WARMUP.items(), *told, *LENGTH.items(), *more]
    return config.resolve(spec["config"], changes, None, with_data=False)


def unlike(spec: dict[str, Any]) -> dict[str, Any]:
    """The fields that a comparison sets to ALIKE, and what they are otherwise."""
    values, found = resolved(spec, []).values, {}
    for name, alike in ALIKE.items():
        group, _, field = name.partition(".")
        value = values[group].get(field, alike)
        if value != alike:
            found[name] = value
    return found


class Instant(dvae.Objective):
    """A tokenizer that takes no time."""

    def tokens(self, image: Float[Array, "B H W C"]) -> Int[Array, "B N"]:
        """A number made of the bytes of one pixel of each place."""
        rows, columns = self.encoder.grid
        _, height, width, channels = image.shape
        pixels = image[:, :: height // rows, :: width // columns]
        levels = jnp.round(255 * pixels).astype(jnp.int32)
        found = (levels * 61 ** jnp.arange(channels)).sum(axis=-1) % self.num_codes
        return found.reshape(-1, rows * columns)


def cheap(given: Config) -> Config:
    """With a tokenizer that costs nothing: the peer is handed its tokens."""
    if not isinstance(getattr(given.objective, "tokenizer", None), frozen.Model):
        return given
    codes = given.objective.tokenizer.objective.num_codes
    small = Instant(Encoder(width=4, groups=1, blocks=1, num_codes=codes))
    objective = given.objective.clone(tokenizer=frozen.Model(small, (0.0,), (1.0,)))
    return dataclasses.replace(given, objective=objective)


def start(given: Config, mesh: jax.sharding.Mesh) -> train.State:
    """The first state; models of other runs, which are not asked for, are random."""
    state = train.start_state(given, mesh)
    models = state.frozen.get(frozen.COLLECTION)
    if not models:
        return state
    leaves, tree = jax.tree.flatten(models)

    def drawn() -> Any:
        keys = jax.random.split(jax.random.key(1), len(leaves))
        pairs = zip(keys, leaves, strict=True)
        return [0.1 * jax.random.normal(k, x.shape).astype(x.dtype) for k, x in pairs]

    cut = [x.sharding for x in leaves]
    found = jax.tree.unflatten(tree, jax.jit(drawn, out_shardings=cut)())
    collections = {**state.frozen, frozen.COLLECTION: found}
    return dataclasses.replace(state, frozen=collections)


def batch(given: Config, mesh: jax.sharding.Mesh) -> Batch:
    """Random images and what goes with them, on the device."""
    most = {
        "label": getattr(given.objective, "num_classes", 1),
        "mask": given.mask_values,
    }
    key, found = jax.random.key(2), {}
    for name, (shape, kind) in batches.shapes(given, given.run.batch_size).items():
        key, own = jax.random.split(key)
        found[name] = jax.random.randint(own, shape, 0, most.get(name, 256), kind)
    return jax.device_put(found, sharding.batch(mesh))
