"""Weighted k-nearest-neighbour classification of frozen features.

Follows DINO (arXiv 2104.14294, section 4.1 and eval_knn.py): cosine similarity, the k
nearest vote for their class with weight exp(similarity / temperature).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

TEST_ROWS = 512
TRAIN_ROWS = 4096
"""One block of similarities is TEST_ROWS x TRAIN_ROWS float32, 8 MiB."""


def _blocks(rows: np.ndarray, size: int, fill: int) -> np.ndarray:
    """[n, ...] -> [ceil(n / size), size, ...], filled up at the end."""
    missing = -len(rows) % size
    padding = np.full((missing, *rows.shape[1:]), fill, rows.dtype)
    return np.concatenate([rows, padding]).reshape(-1, size, *rows.shape[1:])


def _unit(rows: Float[Array, "n R D"]) -> Float[Array, "n R D"]:
    """Rows of length one; a row of zeros stays zero."""
    length = jnp.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / jnp.maximum(length, 1e-12)


@functools.partial(jax.jit, static_argnames=("num_classes", "k", "temperature"))
def _classify(
    train: Float[Array, "n R D"],
    labels: Int[Array, "n R"],
    test: Float[Array, "m T D"],
    *,
    num_classes: int,
    k: int,
    temperature: float,
) -> Int[Array, "m T"]:
    """The class of every test row; a label of -1 marks a row of padding."""
    train, test = _unit(train), _unit(test)

    def classify_block(asked: Float[Array, "T D"]) -> Int[Array, " T"]:
        def nearest(best, block):
            rows, classes = block
            similarity = jnp.matmul(asked, rows.T, precision=jax.lax.Precision.HIGHEST)
            similarity = jnp.where(classes >= 0, similarity, -jnp.inf)
            values, places = jax.lax.top_k(similarity, min(k, len(rows)))
            # The best so far come first: top_k keeps the first of equals, so that
            # of equally near rows those of lower index win whatever the block size.
            values = jnp.concatenate([best[0], values], axis=1)
            classes = jnp.concatenate([best[1], classes[places]], axis=1)
            values, places = jax.lax.top_k(values, k)
            return (values, jnp.take_along_axis(classes, places, axis=1)), None

        nothing = (
            jnp.full((len(asked), k), -jnp.inf, asked.dtype),
            jnp.full((len(asked), k), -1, labels.dtype),
        )
        (similarity, classes), _ = jax.lax.scan(nearest, nothing, (train, labels))
        # Relative to the nearest: the same winner, and no temperature overflows.
        weight = jnp.exp((similarity - similarity[:, :1]) / temperature)
        votes = jax.nn.one_hot(classes, num_classes) * weight[:, :, None]
        return jnp.argmax(votes.sum(axis=1), axis=-1)

    return jax.lax.map(classify_block, test)


def predict(
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    k: int,
    temperature: float,
) -> np.ndarray:
    """The class of every test row by a vote of its k nearest training rows.

    Of equally near rows those of lower index vote; of equal votes the lower class wins.
    Where there are fewer than k training rows, all vote.

    Args:
        train: features [n, D] float32.
        labels: their classes [n] in 0..num_classes-1.
        test: features [m, D] float32.
        num_classes: how many classes there are.
        k: number of neighbours.
        temperature: a vote weighs exp(cosine / temperature).

    Returns:
        Classes [m] int32.
    """
    train_rows, test_rows = min(TRAIN_ROWS, len(train)), min(TEST_ROWS, len(test))
    blocks = (
        _blocks(train.astype(np.float32), train_rows, 0),
        _blocks(labels.astype(np.int32), train_rows, -1),
        _blocks(test.astype(np.float32), test_rows, 0),
    )
    classes = _classify(
        *jax.device_put(blocks),
        num_classes=num_classes,
        k=min(k, len(train)),
        temperature=temperature,
    )
    return np.asarray(jax.device_get(classes)).reshape(-1)[: len(test)]
