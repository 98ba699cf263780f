"""What the optimisers make of a gradient."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from mimjax import reductions
from mimjax.optim import Optim, decays


def by_trust(optim: Optim) -> optax.GradientTransformation:
    """Scales the gradient of what is decayed by trust * |parameter| / |gradient|.

    The norms are those of a tensor, in a stack of a layer's; where one of them is 0 the
    gradient stays.
    """

    def scaled(path: Any, g: Float[Array, "*s"], p: Float[Array, "*s"]) -> Array:
        if not decays(optim, path):
            return g
        first = 1 if "layers" in (key.key for key in path) else 0
        axes = tuple(range(first, p.ndim))
        norm, length = (
            jnp.linalg.vector_norm(x, axis=axes, keepdims=True) for x in (p, g)
        )
        usable = (norm > 0) & (length > 0)
        return g * jnp.where(
            usable, optim.trust * norm / jnp.where(usable, length, 1), 1
        )

    return optax.stateless(
        lambda updates, params: jax.tree_util.tree_map_with_path(
            scaled, updates, params
        )
    )


def rate_scale(
    optim: Optim, encoder: Any, path: tuple[Any, ...], shape: tuple[int, ...]
) -> np.ndarray:
    """What the update of a parameter is multiplied by: a number, in a stack a layer's.

    So `warmup_lr` and `min_lr` are scaled as well, as in the official code of MAE and
    BEiT; in SimMIM's they are the same for all layers. What is not of the encoder, such
    as a head, is not scaled.
    """
    last = len(encoder.layer_widths) + 1
    names = tuple(key.key for key in path)
    layer = encoder.layer_of(names[1:]) if names[0] == "encoder" else last
    scale = np.asarray(optim.layer_decay ** (last - layer), np.float32)
    if not scale.ndim:
        return scale
    # Where the first layers of a stack are frozen, these are the last.
    return scale[-shape[0] :].reshape(-1, *(1,) * (len(shape) - 1))


def norm_of(grads: Any) -> Float[Array, ""]:
    """The length of all gradients as one vector."""
    squares = map(reductions.sum_of_squares, jax.tree.leaves(grads))
    return jnp.sqrt(sum(squares, jnp.float32(0)))


def clip_by_norm(most: float) -> optax.GradientTransformation:
    """Scales gradients of a `norm_of` more than `most` down to that.

    As optax does, by the norm that is computed anyway.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        length = norm_of(updates)
        rate = jnp.where(length > most, most / length, 1)
        return jax.tree.map(lambda x: x * rate, updates), state

    return optax.GradientTransformation(optax.identity().init, update)


def chain(optim: Optim) -> optax.GradientTransformation:
    """Keeps the moments as its state.

    Its updates are not used, for `direction` makes them, with `eps` and `layer_decay`.
    """

    def mask(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: decays(optim, path), params
        )

    steps = [clip_by_norm(optim.clip)] if optim.clip else []
    decay = optax.add_decayed_weights(optim.weight_decay, mask)
    if optim.name == "adamw":
        # The decay changes no moment here; checkpoints have a place for it.
        steps += [optax.scale_by_adam(optim.b1, optim.b2), decay]
    else:
        steps += [decay, *([by_trust(optim)] if optim.name == "lars" else [])]
        steps.append(optax.trace(optim.momentum))
    return optax.chain(*steps)


def direction(optim: Optim, encoder: Any, moments: Any, params: Any) -> Any:
    """The update that moments come to, before the learning rate.

    "adamw" is the same as torch's once multiplied by the rate: p <- p (1 - lr wd), eps
    outside the root; the other two add the decay to the gradient. The rate is left out
    so that it follows the step counter alone: a step that is skipped moves the schedule
    on but not the moments (as in the official runs). `encoder` says which layer a
    parameter is of; without `layer_decay` it is not asked.
    """

    def of(path: Any, u: Array, p: Array) -> Array:
        if optim.name == "adamw" and decays(optim, path):
            u = u + optim.weight_decay * p
        if optim.layer_decay == 1:
            return u
        return u * rate_scale(optim, encoder, path, u.shape)

    if optim.name == "adamw":
        adam = moments[-2]
        unbiased = functools.partial(
            optax.tree_utils.tree_bias_correction, count=adam.count
        )
        mean, square = unbiased(adam.mu, optim.b1), unbiased(adam.nu, optim.b2)
        found = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + optim.eps), mean, square)
    else:
        found = moments[-1].trace
    return jax.tree_util.tree_map_with_path(of, found, params)


def apply(
    optim: Optim, encoder: Any, lr: Any, grads: Any, before: Any, good: Array
) -> tuple[Any, Any, Any]:
    """Parameters, moments and averages after an update, or `before` if it is not good.

    Each is made of what the one before it will be: of what that was, XLA on CPU would
    make a copy first.
    """
    old, moments, averaged = before
    _, new = chain(optim).update(grads, moments, old)
    moments = chosen(good, new, moments)
    steps = direction(optim, encoder, moments, old)
    params = chosen(good, jax.tree.map(lambda p, u: p - lr * u, old, steps), old)
    if optim.ema:
        new = jax.tree.map(
            lambda e, p: optim.ema * e + (1 - optim.ema) * p, averaged, params
        )
        averaged = chosen(good, new, averaged)
    return params, moments, averaged


def chosen(good: Array, new: Any, old: Any) -> Any:
    """The new tree where it is good, else the old one."""
    return jax.tree.map(lambda x, y: jnp.where(good, x, y), new, old)
