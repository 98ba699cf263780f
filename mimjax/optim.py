"""The optimisers' numbers, schedules and sets of decayed weights of each paper.

What they make of a gradient is in `updates.py`. Five schedule shapes are in use
(`Optim.schedule`); what is decayed is decided by the parameter's name, because under a
layer scan the biases have two axes.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

NAMES = "adamw", "sgd", "lars"

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

    None is above the peak: of a small batch the peak may be below `warmup_lr` or
    `min_lr`, and then stands for them (officially the rate would rise in its decay).

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
    first, last = min(optim.warmup_lr, peak), min(optim.min_lr, peak)
    rising = first + (peak - first) * t / climb
    length = steps if optim.schedule == "cosine_simmim" else steps - warmup
    left = jnp.clip((steps - t) / max(1, length), 0.0, 1.0)
    if optim.schedule == "multistep_simmim":
        falling = jnp.where(t < optim.drop_at * steps, peak, 0.1 * peak)
    elif optim.schedule == "linear":
        falling = last + (peak - last) * left
    else:
        # (1 + cos(pi * (1 - left))) / 2, written so that it keeps its digits near 0.
        share = jnp.square(jnp.sin(0.5 * math.pi * left))
        falling = last + (peak - last) * share
    return jnp.where(t < warmup, rising, falling)


def decays(optim: Optim, path: tuple[Any, ...]) -> bool:
    """Whether weight decay applies to the parameter at a tree path."""
    name = str(path[-1].key)
    return name == "kernel" or name in optim.decay_also


def problems(optim: Optim) -> list[str]:
    """What cannot work, one line each."""
    found = []
    if optim.name not in NAMES:
        found.append(f"name: {optim.name!r} is none of {', '.join(NAMES)}")
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
