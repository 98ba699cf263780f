"""Linear probe: multinomial logistic regression on standardised frozen features.

The input is standardised per feature as by the BatchNorm without scale and shift of
MAE's probe (arXiv 2111.06377, appendix A; eps 1e-6, biased variance), with the
statistics of the whole training set. Departure from MAE: instead of 90 epochs of LARS
on augmented images the same convex problem, with a ridge on the weights, is solved by
full-batch L-BFGS, which has no step size to tune and no randomness. The images are cut
over all devices.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from mimjax import sharding

EPS = 1e-6
TOLERANCE = 1e-4
"""Gradient norm at which the problem counts as solved."""
STRIDE = 25
"""L-BFGS iterations between two pauses."""
ROWS = 4096
"""Of features whose variance is summed at once, on the host."""

SOLVER = optax.lbfgs(
    memory_size=10, linesearch=optax.scale_by_zoom_linesearch(max_linesearch_steps=20)
)


class Layer(NamedTuple):
    """The classifier: logits = x @ weight + bias, x standardised."""

    weight: Float[Array, "D V"] | np.ndarray
    bias: Float[Array, " V"] | np.ndarray


class Probe(NamedTuple):
    """A fitted classifier and the statistics its input is standardised by."""

    mean: np.ndarray
    std: np.ndarray
    layer: Layer
    loss: float


def _loss(
    layer: Layer,
    x: Float[Array, "n D"],
    labels: Int[Array, " n"],
    l2: Float[Array, ""],
) -> Float[Array, ""]:
    """Mean cross-entropy + l2 / 2 * |weight|^2; the bias is free.

    A label of -1 marks a row of padding.
    """
    logits = jnp.matmul(x, layer.weight, precision=jax.lax.Precision.HIGHEST)
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits + layer.bias, jnp.maximum(labels, 0)
    )
    mean = jnp.mean(losses, where=labels >= 0)
    return mean + l2 / 2 * jnp.sum(jnp.square(layer.weight))


@functools.partial(jax.jit, static_argnames=("num_classes", "same"))
def _start(
    features: Float[Array, "n D"],
    mean: Float[Array, " D"],
    std: Float[Array, " D"],
    *,
    num_classes: int,
    same: jax.sharding.Sharding,
) -> tuple[Float[Array, "n D"], tuple[Layer, optax.OptState]]:
    """The standardised features, and where the solver starts."""
    width = features.shape[1]
    layer = Layer(jnp.zeros((width, num_classes)), jnp.zeros(num_classes))
    start = (layer, SOLVER.init(layer))
    # Types that Python's numbers left open would have it all compiled a second time.
    start = jax.tree.map(lambda x: x.astype(x.dtype), start)
    return (features - mean) / std, jax.lax.with_sharding_constraint(start, same)


@functools.partial(jax.jit, static_argnames="same")
def _advance(
    start: tuple[Layer, optax.OptState],
    x: Float[Array, "n D"],
    labels: Int[Array, " n"],
    l2: Float[Array, ""],
    iterations: Int[Array, ""],
    *,
    same: jax.sharding.Sharding,
) -> tuple[Layer, optax.OptState]:
    """At most so many more iterations; none once the gradient is small."""

    def loss(layer: Layer) -> Float[Array, ""]:
        return _loss(layer, x, labels, l2)

    def unsolved(carry):
        count, _, state = carry
        # Before the first iteration the state holds an infinite value, no gradient.
        fresh = jnp.isinf(optax.tree.get(state, "value"))
        norm = optax.tree.norm(optax.tree.get(state, "grad"))
        return (count < iterations) & (fresh | (norm > TOLERANCE))

    def iterate(carry):
        count, layer, state = carry
        value, gradient = optax.value_and_grad_from_state(loss)(layer, state=state)
        updates, state = SOLVER.update(
            gradient, state, layer, value=value, grad=gradient, value_fn=loss
        )
        return count + 1, jax.tree.map(jnp.add, layer, updates), state

    carry = (jnp.zeros_like(iterations), *start)
    _, *found = jax.lax.while_loop(unsolved, iterate, carry)
    return jax.lax.with_sharding_constraint(tuple(found), same)


def moments(
    features: Float[np.ndarray, "n D"],
) -> tuple[Float[np.ndarray, " D"], Float[np.ndarray, " D"]]:
    """Mean and biased variance of each feature in float64, without a copy of all."""
    mean = features.mean(axis=0, dtype=np.float64)
    blocks = (features[i : i + ROWS] for i in range(0, len(features), ROWS))
    squares = sum(np.square(block - mean).sum(axis=0) for block in blocks)
    return mean, np.asarray(squares / len(features))


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    l2: float,
    iterations: int,
    mesh: jax.sharding.Mesh | None = None,
    pause: Callable[[], None] = lambda: None,
) -> Probe:
    """The classifier that minimises mean cross-entropy + l2 / 2 * |weight|^2.

    Starts from zero; stops after `iterations` or at a gradient norm of TOLERANCE.

    Args:
        features: [n, D] float32.
        labels: classes [n] in 0..num_classes-1.
        num_classes: how many classes there are.
        l2: strength of the ridge; scikit-learn's C is 1 / (l2 * n).
        iterations: L-BFGS iterations at most.
        mesh: the devices; every process passes the same rows. One where there is none.
        pause: called every STRIDE iterations, equally often whatever the data; may
            raise to leave.
    """
    mesh = mesh or sharding.alone()
    same = sharding.replicated(mesh)
    mean, variance = moments(features)
    mean, std = mean.astype(np.float32), np.sqrt(variance + EPS).astype(np.float32)
    classes = sharding.spread(labels.astype(np.int32), mesh, fill=-1)
    x, start = _start(
        sharding.spread(features, mesh),
        sharding.copied(mean, mesh),
        sharding.copied(std, mesh),
        num_classes=num_classes,
        same=same,
    )
    ridge = sharding.copied(np.float32(l2), mesh)
    for done in range(0, iterations, STRIDE):
        pause()
        stride = sharding.copied(np.int32(min(STRIDE, iterations - done)), mesh)
        start = _advance(start, x, classes, ridge, stride, same=same)
    layer, state = jax.device_get(start)
    return Probe(mean, std, layer, float(optax.tree.get(state, "value")))


def predict(probe: Probe, features: np.ndarray) -> np.ndarray:
    """Classes [n] of features [n, D]; of equal logits the lower class."""
    x = (features - probe.mean) / probe.std
    return np.argmax(x @ probe.layer.weight + probe.layer.bias, axis=1)
