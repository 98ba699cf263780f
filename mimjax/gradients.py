"""Loss and gradient of a batch, whole or in parts.

`moving` is the collection of variables that the objective itself changes, under its
name, or nothing.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from mimjax import batches, sharding, trainable
from mimjax.batches import Batch
from mimjax.config import Config
from mimjax.objectives import MOVING


def make(config: Config, mean: Any, std: Any) -> Callable[..., tuple[Any, Any]]:
    """(params, frozen, step, uint8 batch, keys, moving) -> (found, moving).

    What is found are loss, metrics and the gradient of what is trained. `mean` and
    `std` are those of pixels.
    """

    def loss_of(
        learned: Any, params: Any, variables: Any, batch: Batch, keys: dict[str, Array]
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        (loss, metrics), moving = config.objective.apply(
            {**trainable.variables(learned, params), **variables},
            batch,
            train=True,
            rngs=keys,
            mutable=[MOVING],
        )
        return loss, (metrics, moving)

    def gradient(
        params: Any,
        frozen: Any,
        step: Array,
        batch: Batch,
        keys: dict[str, Array],
        moving: Any,
    ) -> tuple[Any, Any]:
        batch = {**batches.prepare(batch, mean, std), "step": step}
        find = jax.value_and_grad(loss_of, has_aux=True)
        learned = trainable.trained(config.optim, params)
        found = find(learned, params, {**frozen, **moving}, batch, keys)
        (loss, (metrics, moving)), grads = found
        return (loss, metrics, grads), moving

    return gradient


def accumulate(
    gradient: Callable[[Batch, dict[str, Array], Any], tuple[Any, Any]],
    batch: Batch,
    rngs: dict[str, Array],
    moving: Any,
    parts: int,
    mesh: jax.sharding.Mesh,
) -> tuple[Any, Any]:
    """The mean of `gradient` over `parts` equal parts of the batch, done in turn.

    Part j holds the rows j, j + parts, ..., so that every device keeps its own rows. It
    is handed what the part before made of `moving`, which is returned as well.
    """
    if parts == 1:
        return gradient(batch, rngs, moving)

    def split(x: Array) -> Array:
        parted = x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)
        return jax.lax.with_sharding_constraint(parted, sharding.microbatches(mesh))

    def body(carry: tuple[Any, Any], part: tuple[Array, Batch]) -> tuple[Any, None]:
        total, moving = carry
        keys = {k: jax.random.fold_in(v, part[0]) for k, v in rngs.items()}
        found, moving = gradient(part[1], keys, moving)
        return (jax.tree.map(jnp.add, total, found), moving), None

    slices = (jnp.arange(parts), jax.tree.map(split, batch))
    rows = jax.tree.map(lambda x: x[0], slices[1])
    first, _ = jax.eval_shape(gradient, rows, rngs, moving)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)
    (total, moving), _ = jax.lax.scan(body, (zeros, moving), slices)
    return jax.tree.map(lambda x: x / parts, total), moving
