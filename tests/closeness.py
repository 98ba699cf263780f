"""How far our numbers are from theirs."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

STACKED = ("encoder/blocks/", "decoder/layers/", "head/norm", "head/mlp")


def difference(ours: Any, theirs: Any) -> float:
    """The largest difference over the largest entry of `theirs`."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def same_gradients(
    ours: Any, theirs: Any, relative: float, floor: float = 0.0
) -> float:
    """Checks every tensor of every layer, kernels of queries, keys and values apart.

    The largest difference must be within `relative` times the tensor's largest entry
    plus `floor`. Returns the largest ratio of the two that was seen.
    """
    ours, theirs = flatten_dict(ours, sep="/"), flatten_dict(theirs, sep="/")
    assert set(ours) == set(theirs)
    worst = 0.0
    for name, expected in theirs.items():
        got, want = np.asarray(ours[name]), np.asarray(expected)
        assert got.shape == want.shape, name
        # One row for each tensor of the official code.
        axes = 1 if name.startswith(STACKED) else 0
        if name.endswith("qkv/kernel"):
            got, want = (np.moveaxis(x, 2, 1) for x in (got, want))
            axes = 2
        rows = int(np.prod(want.shape[:axes]))
        got, want = got.reshape(rows, -1), want.reshape(rows, -1)
        gap, largest = np.abs(got - want).max(axis=1), np.abs(want).max(axis=1)
        assert (gap <= relative * largest + floor).all(), (name, gap, largest)
        worst = max(worst, float((gap / largest).max()))
    return worst


def loss_and_gradients(
    objective: Any,
    params: Any,
    image: Any,
    *drawn: Any,
    also: Callable[[Any], Any] = lambda bound: None,
) -> tuple[Any, Any, Any, Any]:
    """Loss, prediction, gradients and `also`, given what would have been drawn."""

    def loss(params: Any) -> Any:
        bound = objective.bind({"params": params})
        predicted = bound.predict(image, *drawn)
        return bound.loss(image, predicted, drawn[-1]), (predicted, also(bound))

    (value, (predicted, more)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        params
    )
    return value, predicted, grads, more
