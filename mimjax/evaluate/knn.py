"""Weighted k-nearest-neighbour classification of frozen features.

Follows DINO (arXiv 2104.14294, section 4.1 and eval_knn.py): cosine similarity, the k
nearest vote for their class with weight exp(similarity / temperature). The features
looked at are cut over all devices, each of which finds its own nearest.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mimjax import sharding

TEST_ROWS = 512
TRAIN_ROWS = 2048
"""One block of similarities, on each device, is TEST_ROWS x TRAIN_ROWS float32, 4 MiB.
It is the same for any number of devices, and with it every bit of a similarity."""


def _unit(rows: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Rows of length one; a row of zeros stays zero."""
    length = jnp.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / jnp.maximum(length, 1e-12)


def _best(
    values: Float[Array, "T n"], places: Int[Array, "T n"], k: int
) -> tuple[Float[Array, "T k"], Int[Array, "T k"]]:
    """The k largest values and their places; of equals those that come first."""
    values, chosen = jax.lax.top_k(values, k)
    return values, jnp.take_along_axis(places, chosen, axis=1)


@functools.partial(jax.jit, static_argnames=("mesh", "count", "size", "k"))
def _nearest(
    known: Float[Array, "n D"],
    asked: Float[Array, "T D"],
    *,
    mesh: jax.sharding.Mesh,
    count: int,
    size: int,
    k: int,
) -> tuple[Float[Array, "T k"], Int[Array, "T k"]]:
    """Cosines and places of the k nearest of the first `count` rows known.

    Each device holds as many of them, the first device the first, in blocks of `size`.
    """
    asked = _unit(asked)

    def search(
        device: Int[Array, "1"], rows: Float[Array, "r D"], asked: Float[Array, "T D"]
    ) -> tuple[Float[Array, "1 T k"], Int[Array, "1 T k"]]:
        """Among the rows of one device."""

        def closer(i: Int[Array, ""], best: tuple[Array, Array]) -> tuple[Array, Array]:
            block = _unit(jax.lax.dynamic_slice_in_dim(rows, i * size, size))
            similarity = jnp.matmul(asked, block.T, precision=jax.lax.Precision.HIGHEST)
            places = device * len(rows) + i * size + jnp.arange(size)
            similarity = jnp.where(places < count, similarity, -jnp.inf)
            values, chosen = jax.lax.top_k(similarity, min(k, size))
            # The best so far come first: of equally near rows those of lower index
            # win, whatever the blocks.
            values = jnp.concatenate([best[0], values], axis=1)
            places = jnp.concatenate([best[1], places[chosen]], axis=1)
            return _best(values, places, k)

        nothing = (
            jnp.full((len(asked), k), -jnp.inf, asked.dtype),
            jnp.zeros((len(asked), k), jnp.int32),
        )
        values, places = jax.lax.fori_loop(0, len(rows) // size, closer, nothing)
        return values[None], places[None]

    # Left to itself the compiler gathers all similarities before it picks the largest.
    cut, whole = sharding.every(mesh).spec, sharding.replicated(mesh).spec
    apart = jax.shard_map(
        search, mesh=mesh, in_specs=(cut, cut, whole), out_specs=cut, check_vma=False
    )
    found = apart(jnp.arange(mesh.size), known, asked)
    found = jax.lax.with_sharding_constraint(found, sharding.replicated(mesh))
    values, places = (x.swapaxes(0, 1).reshape(len(asked), -1) for x in found)
    return _best(values, places, k)


def nearest(
    train: np.ndarray,
    test: np.ndarray,
    k: int,
    mesh: jax.sharding.Mesh | None = None,
    pause: Callable[[], None] = lambda: None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k training rows nearest to every test row, the nearest first.

    Exact, and the same bits on any mesh. A device holds its share of the training rows
    and some megabytes; of equally near rows those of lower index come first.

    Args:
        train: features [n, D] float32.
        test: features [m, D] float32.
        k: how many, at most n.
        mesh: the devices; every process passes the same rows. One where there is none.
        pause: called before every TEST_ROWS rows; may raise to leave.

    Returns:
        Cosines [m, k] float32 and indices [m, k] int32.
    """
    mesh = mesh or sharding.alone()
    size, rows = min(TRAIN_ROWS, len(train)), min(TEST_ROWS, len(test))
    known = sharding.spread(train.astype(np.float32, copy=False), mesh, size)
    found = []
    for start in range(0, len(test), rows):
        pause()
        asked = np.zeros((rows, test.shape[1]), np.float32)
        part = test[start : start + rows]
        asked[: len(part)] = part
        best = _nearest(
            known,
            sharding.copied(asked, mesh),
            mesh=mesh,
            count=len(train),
            size=size,
            k=k,
        )
        found.append([x[: len(part)] for x in jax.device_get(best)])
    values, places = zip(*found, strict=True)
    return np.concatenate(values), np.concatenate(places)


def predict(
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    ks: Sequence[int],
    temperature: float,
    mesh: jax.sharding.Mesh | None = None,
    pause: Callable[[], None] = lambda: None,
) -> list[np.ndarray]:
    """The class of every test row by a vote of its k nearest training rows.

    Of equally near rows those of lower index vote; of equal votes the lower class wins.
    Where there are fewer than k training rows, all vote.

    Args:
        train: features [n, D] float32.
        labels: their classes [n] in 0..num_classes-1.
        test: features [m, D] float32.
        num_classes: how many classes there are.
        ks: numbers of neighbours; the nearest are looked for once.
        temperature: a vote weighs exp(cosine / temperature).
        mesh, pause: as `nearest` has them.

    Returns:
        For each k the classes [m].
    """
    most = min(max(ks), len(train))
    similarity, places = nearest(train, test, most, mesh, pause)
    found = []
    for start in range(0, len(test), TEST_ROWS):
        near = similarity[start : start + TEST_ROWS].astype(np.float64)
        # Relative to the nearest: the same winner, and no temperature overflows.
        weight = np.exp((near - near[:, :1]) / temperature)
        classes = labels[places[start : start + TEST_ROWS]]
        found.append([_vote(weight[:, :k], classes[:, :k], num_classes) for k in ks])
    return [np.concatenate(answers) for answers in zip(*found, strict=True)]


def _vote(weight: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """The class of most weight in each row of [n, k]."""
    votes, rows = np.zeros((len(weight), num_classes)), np.arange(len(weight))
    for number in range(weight.shape[1]):
        votes[rows, classes[:, number]] += weight[:, number]
    return votes.argmax(axis=1)
