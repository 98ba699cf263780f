"""The optimisers, schedules and sets of decayed weights of each paper.

Five schedule shapes are in use (`Optim.schedule`); what is decayed is decided by the
parameter's name, because under a layer scan the biases have two axes.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from mimjax import reductions

# Numbers kept for each parameter that is trained, beside itself.
MOMENTS = {"adamw": 2, "sgd": 1, "lars": 1}

SCHEDULES = ("cosine", "linear", "cosine_beit", "cosine_simmim", "multistep_simmim")


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimiser's numbers; the defaults are MAE's (arXiv 2111.06377, table 8).

    `name` is "adamw", which uses `b1`, `b2` and `eps`; "sgd" with `momentum`, as
    torch's; or "lars" (arXiv 1708.03888) with `momentum` and the coefficient `trust`,
    as MAE's linear probe has them (table 10 and `util/lars.py`).

    The peak rate is `base_lr * batch_size / lr_batch`, or `base_lr` itself when
    `lr_batch` is 0; `warmup_lr` and `min_lr` are absolute. Warm-up is `warmup_steps`,
    or `warmup_epochs` when the former is 0. Kernels are decayed, and the parameters
    named in `decay_also`. `layer_decay` scales the update of a parameter, decay and
    all, once for each layer behind it and once for the head (MAE, table 9, after BEiT,
    arXiv 2106.08254). `clip` is the largest global norm of the gradient, 0 for
    none. `ema` is the decay of the moving average of the parameters, 0 for none.
    `accumulate` splits the batch into that many parts done one after the other; each
    part draws its own masks. `frozen` are the paths of what is not trained, such as
    "encoder" or "encoder/patch", or of a stack the first layers, "encoder/blocks[:9]",
    or all but the last, "encoder/blocks[:-3]": it has no gradient, no moments and no
    decay, and no way back leads through it to what is all frozen. `rates` are tried at
    once in place of `base_lr`, each by a classifier of its own on one frozen encoder.
    """

    name: str = "adamw"
    base_lr: float = 1.5e-4
    lr_batch: int = 256
    schedule: str = "cosine"
    warmup_steps: int = 0
    warmup_epochs: float = 0.0
    warmup_lr: float = 0.0
    min_lr: float = 0.0
    drop_at: float = 0.875
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    momentum: float = 0.9
    trust: float = 0.001
    weight_decay: float = 0.05
    decay_also: tuple[str, ...] = ("cls_token", "mask_token")
    layer_decay: float = 1.0
    clip: float = 0.0
    ema: float = 0.0
    accumulate: int = 1
    frozen: tuple[str, ...] = ()
    rates: tuple[float, ...] = ()

    def peak_lr(self, batch_size: int) -> float:
        """The highest learning rate of the run."""
        return self.base_lr * (batch_size / self.lr_batch if self.lr_batch else 1.0)


def schedule(
    optim: Optim, *, peak: float, warmup: int, steps: int, step: Int[Array, ""] | int
) -> Float[Array, ""]:
    """The learning rate of update `step`, counted from 0, of `steps`.

    - "cosine": warm-up reaches the peak at step `warmup`, then half a cosine to
      `min_lr` (MAE `util/lr_sched.py`; AIM's has `warmup_lr` 1e-6).
    - "linear": the same with a straight line down (ViT, arXiv 2010.11929 table 3).
    - "cosine_beit": both ends of the warm-up are included, so the peak is reached one
      step earlier and held for two (BEiT `utils.py` cosine_scheduler).
    - "cosine_simmim": the cosine is counted from step 0, so the rate falls at the end
      of the warm-up, and every step uses the value of the step before (SimMIM
      `lr_scheduler.py` and the place it is called from).
    - "multistep_simmim": constant, a tenth from the fraction `drop_at` of the run on.
    """
    t = jnp.asarray(step, jnp.float32)
    if optim.schedule.endswith("_simmim"):
        t = jnp.maximum(t - 1, 0)
    climb = max(1, warmup - 1 if optim.schedule == "cosine_beit" else warmup)
    rising = optim.warmup_lr + (peak - optim.warmup_lr) * t / climb
    length = steps if optim.schedule == "cosine_simmim" else steps - warmup
    left = jnp.clip((steps - t) / max(1, length), 0.0, 1.0)
    if optim.schedule == "multistep_simmim":
        falling = jnp.where(t < optim.drop_at * steps, peak, 0.1 * peak)
    elif optim.schedule == "linear":
        falling = optim.min_lr + (peak - optim.min_lr) * left
    else:
        # (1 + cos(pi * (1 - left))) / 2, written so that it keeps its digits near 0.
        share = jnp.square(jnp.sin(0.5 * math.pi * left))
        falling = optim.min_lr + (peak - optim.min_lr) * share
    return jnp.where(t < warmup, rising, falling)


def decays(optim: Optim, path: tuple[Any, ...]) -> bool:
    """Whether weight decay applies to the parameter at a tree path."""
    name = str(path[-1].key)
    return name == "kernel" or name in optim.decay_also


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


def transform(optim: Optim, encoder: Any = None) -> optax.GradientTransformation:
    """Gradient to update, before the learning rate.

    `encoder` says which layer a parameter is of; without `layer_decay` it is not asked.

    "adamw" is the same as torch's once multiplied by the rate: p <- p (1 - lr wd), eps
    outside the root; the other two add the decay to the gradient. The rate is left out
    so that it follows the step counter alone: a step that is skipped moves the schedule
    on but not the moments (as in the official runs).
    """

    def mask(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: decays(optim, path), params
        )

    steps = [clip_by_norm(optim.clip)] if optim.clip else []
    decay = optax.add_decayed_weights(optim.weight_decay, mask)
    if optim.name == "adamw":
        steps += [optax.scale_by_adam(optim.b1, optim.b2, optim.eps), decay]
    else:
        steps += [decay, *([by_trust(optim)] if optim.name == "lars" else [])]
        steps.append(optax.trace(optim.momentum))
    chain = optax.chain(*steps)
    if optim.layer_decay == 1:
        return chain

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = chain.update(updates, state, params)
        scaled = jax.tree_util.tree_map_with_path(
            lambda path, u: u * rate_scale(optim, encoder, path, u.shape), updates
        )
        return scaled, state

    return optax.GradientTransformation(chain.init, update)


def problems(optim: Optim) -> list[str]:
    """What cannot work, one line each."""
    found = []
    if optim.name not in MOMENTS:
        found.append(f"name: {optim.name!r} is none of {', '.join(MOMENTS)}")
    if optim.schedule not in SCHEDULES:
        found.append(f"schedule: {optim.schedule!r} is none of {', '.join(SCHEDULES)}")
    for name in ("base_lr", "eps", "trust"):
        if getattr(optim, name) <= 0:
            found.append(f"{name}: {getattr(optim, name)} must be above 0")
    for name in ("b1", "b2", "momentum", "ema"):
        if not 0 <= getattr(optim, name) < 1:
            found.append(f"{name}: {getattr(optim, name)} must be in [0, 1)")
    at_least_zero = ("lr_batch", "warmup_steps", "warmup_epochs", "warmup_lr", "min_lr")
    for name in (*at_least_zero, "weight_decay", "clip"):
        if getattr(optim, name) < 0:
            found.append(f"{name}: {getattr(optim, name)} must not be negative")
    rates = np.unique(np.asarray(optim.rates, np.float32))  # as the updates see them
    if len(rates) < len(optim.rates) or not all(rates > 0):
        found.append(f"rates: {optim.rates} must be above 0, and no two alike")
    for name in ("drop_at", "layer_decay"):
        if not 0 < getattr(optim, name) <= 1:
            found.append(f"{name}: {getattr(optim, name)} must be in (0, 1]")
    if optim.accumulate < 1:
        found.append(f"accumulate: {optim.accumulate} must be at least 1")
    return found
