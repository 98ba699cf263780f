"""Parameters without a compile, and how far our numbers are from others'."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import parity_table
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict


def random_params(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Random parameters for a call of `module`, none of them zero or one."""
    keys = {"params": jax.random.key(0), "mask": jax.random.key(0)}
    shapes = jax.eval_shape(lambda: module.init(keys, *args, **kwargs))["params"]
    return random_like(shapes, 0.2)


def key_of(module: nn.Module, variables: Any, rngs: Any, stream: str) -> Any:
    """The first key that a module is given from a stream of random numbers."""
    return module.apply(variables, rngs=rngs, method=lambda m: m.make_rng(stream))


def random_like(shapes: Any, scale: float) -> Any:
    """Random parameters of those shapes, none of them zero or one."""
    # One by one, jnp.asarray would compile a program for every shape.
    return jax.device_put(random_arrays(shapes, scale))


def random_arrays(shapes: Any, scale: float) -> Any:
    """The same in numpy."""
    generator = np.random.default_rng(0)
    flat = {}
    for path, leaf in flatten_dict(shapes).items():
        noise = generator.normal(size=leaf.shape) * scale
        noise += path[-1] == "scale"
        flat[path] = (noise**2 if path[-1] == "variance" else noise).astype(leaf.dtype)
    return unflatten_dict(flat)


def difference(ours: Any, theirs: Any) -> float:
    """The largest difference over the largest entry of `theirs`."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    found = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    parity_table.note("outputs", found)
    return found


def same_loss(ours: Any, theirs: Any, relative: float) -> None:
    """Checks a scalar."""
    parity_table.note("loss", abs(float(ours) / float(theirs) - 1))
    np.testing.assert_allclose(ours, theirs, rtol=relative)


def same_gradients(
    ours: Any, theirs: Any, relative: float, floor: float = 0.0
) -> float:
    """Checks every tensor of every layer, kernels of queries, keys and values apart.

    The largest difference must be within `relative` times the tensor's largest entry
    plus `floor`. Returns the largest ratio of the two that was seen; the table of all
    comparisons is given that to the entry plus what makes `floor` of it.
    """
    ours, theirs = flatten_dict(ours, sep="/"), flatten_dict(theirs, sep="/")
    assert set(ours) == set(theirs)
    worst = noted = 0.0
    for name, expected in theirs.items():
        got, want = np.asarray(ours[name]), np.asarray(expected)
        assert got.shape == want.shape, name
        # One row for each tensor of the official code.
        axes = 1 if "/layers/" in name else 0
        if name.endswith("qkv/kernel"):
            got, want = (np.moveaxis(x, 2, 1) for x in (got, want))
            axes = 2
        rows = int(np.prod(want.shape[:axes]))
        got, want = got.reshape(rows, -1), want.reshape(rows, -1)
        gap, largest = np.abs(got - want).max(axis=1), np.abs(want).max(axis=1)
        assert (gap <= relative * largest + floor).all(), (name, gap, largest)
        worst = max(worst, float((gap / largest).max()))
        noted = max(noted, float((gap / (largest + floor / relative)).max()))
    parity_table.note("gradients", noted)
    return worst


@dataclasses.dataclass(frozen=True)
class Answer:
    """What an objective says of a batch."""

    loss: Any
    encoded: Any
    predicted: Any
    grads: Any


# The module whose output is the prediction.
LAST = {"mae": "decoder_pred", "simmim": "decoder", "aim": "head_pred"}


def ask(
    objective: nn.Module,
    params: Any,
    image: Any,
    *drawn: Any,
    target: Any = None,
    differentiate: bool = True,
    heard: str = "encoder",
) -> Answer:
    """Given an image and what would have been drawn; a classifier is given labels.

    `target` is what is to be predicted, where it does not come from the image. Without
    `differentiate` there are no gradients. `heard` is the module whose output is that
    of the encoder.
    """
    last = LAST.get(type(objective).__module__.rpartition(".")[2], "head")

    def is_wanted(module: nn.Module, method: str) -> bool:
        return module.name in (heard, last) and method == "__call__"

    def call(bound: Any) -> Any:
        if last == "head" and target is None:
            return bound({"image": image, "label": drawn[0]}, train=False)[0]
        wanted = image if target is None else target
        return bound.loss(wanted, bound.predict(image, *drawn), drawn[-1])

    run = nn.apply(
        call, objective, mutable=["intermediates"], capture_intermediates=is_wanted
    )

    def loss(params: Any) -> Any:
        value, seen = run({"params": params})
        outputs = seen["intermediates"]
        return value, [outputs[name]["__call__"][0] for name in (heard, last)]

    if not differentiate:
        value, outputs = jax.jit(loss)(params)
        return Answer(value, *outputs, grads=None)
    (value, outputs), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return Answer(value, *outputs, grads)


def differentiate(
    call: Callable[[Any], Any],
    objective: nn.Module,
    params: Any,
    heard: tuple[str, ...] = (),
    others: Any = None,
    rngs: Any = None,
) -> tuple[Any, Any, Any, Any]:
    """The loss of a call, what else it returns, what has changed, and gradients.

    `call` gets the objective and returns a loss and more; `others` are its variables
    beside the parameters. Among what has changed is, as "intermediates", what came out
    of modules and methods of the names `heard`.
    """

    def is_heard(module: nn.Module, method: str) -> bool:
        return method in heard or (module.name in heard and method == "__call__")

    run = nn.apply(
        call,
        objective,
        mutable=["intermediates", "moving"],
        capture_intermediates=is_heard,
    )

    def loss(params: Any) -> Any:
        (value, more), after = run({"params": params, **(others or {})}, rngs=rngs)
        return value, (more, after)

    run_both = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, (more, after)), grads = run_both(params)
    return value, more, after, grads
