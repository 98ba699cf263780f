"""How weights start: one row for each line of official code.

Sources: MAE `models_mae.py` (initialize_weights); AIM from ml-l3m (`transformer.py`,
`patch_embed.py`); ViT from vision_transformer `models_vit.py`; BEiT
`modeling_pretrain.py` (SimMIM's ViT does the same); Swin `swin_transformer.py`, whose
normal is cut at 100 deviations, so not at all, and whose patches start as PyTorch does;
BEiT v2 `modeling_finetune.py` for the encoder of its tokenizer, and for the layers of
`modeling_pretrain.py` that are made after all others were given their start.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import errors
from flax import linen as nn
from flax.linen import initializers
from jaxtyping import Array

Init = Callable[..., Any]


def param(module: nn.Module, name: str, init: Init, shape: tuple[int, ...]) -> Array:
    """A parameter of a module, which `init(key, shape)` makes where there is none yet.

    Raises flax's ScopeParamShapeError where the one there has another shape. flax would
    find that by tracing how it starts, wherever it is used: a tenth of the trace of a
    training step. In `init` flax also sees to it that no name is used twice.
    """
    if module.is_initializing() or not module.has_variable("params", name):
        return jnp.asarray(module.param(name, init, shape))
    value = jnp.asarray(module.get_variable("params", name))
    if value.shape != shape:
        path = "/" + "/".join(module.path)
        raise errors.ScopeParamShapeError(name, path, value.shape, shape)
    return value


def reshaped(
    init: Init, drawn: tuple[int, ...], key: Array, shape: tuple[int, ...]
) -> Array:
    """The first value of an array that is `drawn` in another shape."""
    return jnp.reshape(init(key, drawn), shape)


def _truncated(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Normal of deviation 0.02 cut at one deviation (the result's is 0.0108)."""
    return 0.02 * jax.random.truncated_normal(key, -1.0, 1.0, shape, dtype)


def uniform_fan_in(fan_in: int) -> Init:
    """PyTorch's start of a convolution's bias: uniform within 1 / sqrt(fan_in)."""

    def draw(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw


def _zeros_for(fan_in: int) -> Init:
    return initializers.zeros


def _tiny_for(fan_in: int) -> Init:
    return initializers.normal(1e-6)


# xavier_uniform on query, key and value as matrices of their own: the bound is
# sqrt(6 / 2D) where the fused D x 3D matrix of MAE has sqrt(6 / 4D).
_xavier_apart = initializers.variance_scaling(1.0, "fan_in", "uniform")
_xavier = initializers.xavier_uniform()
# PyTorch's start of a kernel, convolution or not: uniform within 1 / sqrt(fan_in).
torch_dense = initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_zeros = initializers.zeros
_normal = initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class Start:
    """Initialisers by place; those of biases are given the fan-in of their layer."""

    patch: Init
    patch_bias: Callable[[int], Init]
    qkv: Init
    dense: Init
    mlp_bias: Callable[[int], Init]
    cls: Init
    position: Init
    by_depth: bool = False
    out_bias: Callable[[int], Init] = _zeros_for

    def branch_end(self, number: Array) -> Init:
        """For the last matrix of a residual branch in layer `number`, counted from 1.

        BEiT divides it by sqrt(2 * number) (arXiv 2106.08254, section 2.4).
        """
        if not self.by_depth:
            return self.dense

        def draw(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
            return self.dense(key, shape, dtype) / jnp.sqrt(2.0 * number).astype(dtype)

        return draw


STARTS: dict[str, Start] = {
    "mae": Start(
        _xavier, uniform_fan_in, _xavier, _xavier, _zeros_for, _normal, _normal
    ),
    "aim": Start(
        _xavier, uniform_fan_in, _xavier_apart, _xavier, _zeros_for, _normal, _normal
    ),
    "vit": Start(
        initializers.lecun_normal(),
        _zeros_for,
        _xavier_apart,
        _xavier,
        _tiny_for,
        _zeros,
        _normal,
    ),
    "beit": Start(
        _truncated,
        _zeros_for,
        _truncated,
        _truncated,
        _zeros_for,
        _truncated,
        _truncated,
        by_depth=True,
    ),
    "beit_normal": Start(
        torch_dense,
        uniform_fan_in,
        _normal,
        _normal,
        _zeros_for,
        _normal,
        _normal,
        by_depth=True,
    ),
    "torch": Start(
        torch_dense,
        uniform_fan_in,
        torch_dense,
        torch_dense,
        uniform_fan_in,
        _normal,
        _normal,
        by_depth=True,
        out_bias=uniform_fan_in,
    ),
    "swin": Start(
        torch_dense, uniform_fan_in, _normal, _normal, _zeros_for, _normal, _normal
    ),
}
