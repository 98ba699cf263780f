"""Several peak rates in one run: a grid of classifiers of one frozen encoder.

What is trained, its moments and its average have a leading axis, the members of the
grid, one for each of `Optim.rates`. Nothing else has: the encoder runs once for all.
Without rates every function here leaves things as they are.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mimjax.optim import Optim
from mimjax.trainable import restored, trained
from mimjax.trees import named_leaves, nested


def over(
    optim: Optim, function: Callable[..., Any], in_axes: Any, out_axes: Any = 0
) -> Callable[..., Any]:
    """The function for all members at once; axes as in `jax.vmap`."""
    return jax.vmap(function, in_axes, out_axes) if optim.rates else function


def each(optim: Optim, function: Callable[[Any], Any], params: Any) -> Any:
    """What it is of the parameters of every member."""
    rest = first(optim, params)

    def of(learned: Any) -> Any:
        return function(restored(learned, rest))

    return over(optim, of, in_axes=0)(trained(optim, params))


def of_each(optim: Optim, function: Callable[[Optim], Array]) -> Array:
    """What it is for each member, whose `base_lr` is one of the rates."""
    if not optim.rates:
        return function(optim)
    members = [dataclasses.replace(optim, base_lr=rate) for rate in optim.rates]
    return jnp.stack([function(one) for one in members])


def alone(config: Any) -> Any:
    """The config of one member, with the rate of none."""
    if not config.optim.rates:
        return config
    single = dataclasses.replace(config.optim, rates=())
    return dataclasses.replace(config, optim=single)


def changed(optim: Optim, change: Callable[[Any], Any], params: Any) -> Any:
    """The parameters with another array for each that is trained."""
    if not optim.rates:
        return params
    own = named_leaves(trained(optim, params))
    leaves = named_leaves(params)
    return nested({n: change(x) if n in own else x for n, x in leaves.items()})


def first(optim: Optim, params: Any) -> Any:
    """The parameters of the first member."""
    return changed(optim, lambda x: x[0], params)


def spread(optim: Optim, state: Any) -> Any:
    """The state of a run without rates as that of a grid: all members start alike."""
    if not optim.rates:
        return state

    def repeated(x: Any) -> Any:
        return jnp.broadcast_to(x, (len(optim.rates), *x.shape))

    params, ema = (changed(optim, repeated, x) for x in (state.params, state.ema))
    opt = jax.tree.map(repeated, state.opt)
    return dataclasses.replace(state, params=params, ema=ema, opt=opt)


def best(optim: Optim, values: dict[str, Array]) -> dict[str, Array]:
    """The figures of an update, of the member whose loss is lowest."""
    if not optim.rates:
        return values
    loss = values["loss"]
    lowest = jnp.where(jnp.isfinite(loss), loss, jnp.inf).argmin()
    return {name: value[lowest] for name, value in values.items()}


def judged(optim: Optim, values: dict[str, Any]) -> dict[str, Any]:
    """Held-out figures: of the most accurate member, its rate, the accuracy of each."""
    if not optim.rates:
        return values
    number = int(np.argmax(values["accuracy"]))
    told = zip(optim.rates, values["accuracy"], strict=True)
    return {
        **{name: value[number] for name, value in values.items()},
        "rate": optim.rates[number],
        **{f"accuracy@{rate}": value for rate, value in told},
    }
