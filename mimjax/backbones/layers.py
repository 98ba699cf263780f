"""A transformer layer: attention and MLP."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mimjax.backbones import attention, float8, fused, primitives, starts
from mimjax.masking import AttnMask, PrefixCausal
from mimjax.reductions import wide
from mimjax.sharding import by_sample, tensors_are_whole


@dataclasses.dataclass(frozen=True)
class Spec:
    """What every layer of a stack shares.

    `qkv_bias` says which of query, key and value have a bias: "all", "qv" (BEiT: a bias
    on the keys cancels in the softmax) or "none" (AIM). `bias` is that of the other
    dense layers. `layer_scale` is the start of LayerScale (arXiv 2103.17239), 0 for
    none. `gelu_tanh` is the approximation vit_jax uses; all PyTorch sources use the
    exact form. `swiglu` puts silu(a) * b in place of the GELU (arXiv 2002.05202,
    DINOv2): `up` makes both a and b, each `mlp_width` wide. `attention` "cudnn", for
    NVIDIA GPUs alone, takes its kernels where there is no bias of pairs and
    `fused.takes` the heads; else it is "xla". `float8` rounds the factors of the dense
    layers' products to eight bits (`float8.py`).
    """

    width: int
    heads: int
    mlp_width: int
    qkv_bias: str = "all"
    bias: bool = True
    layer_scale: float = 0.0
    norm_eps: float = 1e-6
    gelu_tanh: bool = False
    swiglu: bool = False
    dropout: float = 0.0
    start: starts.Start = starts.STARTS["mae"]
    attention: str = "xla"
    float8: bool = False
    dtype: str = "float32"


class LayerNorm(nn.Module):
    """LayerNorm over the last axis, with a scale and a bias."""

    eps: float
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "*s D"]) -> Float[Array, "*s D"]:
        shape = x.shape[-1:]
        scale = starts.param(self, "scale", nn.initializers.ones, shape)
        bias = starts.param(self, "bias", nn.initializers.zeros, shape)
        return primitives.layer_norm(x.astype(self.dtype), scale, bias, self.eps)


class Dense(nn.Module):
    """A dense layer over the last `axes` of what comes in, to `shape`.

    Its parameters are those of flax's: a kernel [*in, *shape], which starts as the
    matrix it is used as, and a bias [*shape]. Products are of `dtype` or of eight bits;
    sums, the bias among them, are float32, and the result is of `dtype` if it `rounds`.
    A `bias` made of others' parameters takes the place of its own.
    """

    shape: tuple[int, ...]
    kernel_init: starts.Init
    bias_init: starts.Init = nn.initializers.zeros
    use_bias: bool = True
    dtype: Any = jnp.float32
    axes: int = 1
    rounds: bool = True
    float8: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "*b_c"], bias: Float[Array, "*d"] | None = None
    ) -> Float[Array, "*b_d"]:
        inner = x.shape[x.ndim - self.axes :]
        flat = math.prod(inner), math.prod(self.shape)

        start = functools.partial(starts.reshaped, self.kernel_init, flat)
        kernel = starts.param(self, "kernel", start, (*inner, *self.shape))
        if self.use_bias:
            bias = starts.param(self, "bias", self.bias_init, self.shape)
        x = x.astype(self.dtype)
        if self.float8:
            return jnp.asarray(float8.linear(x, kernel, bias, self.axes))
        whole = tensors_are_whole()
        y = primitives.linear(x, kernel, bias, self.axes, self.rounds, whole)
        return jnp.asarray(y)


class Attention(nn.Module):
    """Multi-head self-attention; scores, mask and softmax in float32.

    Sample i takes row i mod n of `bias`.
    """

    spec: Spec

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        number: Int[Array, ""],
        attn_mask: AttnMask = None,
        bias: Float[Array, "n A T T"] | None = None,
    ) -> Float[Array, "B T D"]:
        spec = self.spec
        shape = (spec.heads, spec.width // spec.heads)
        joined = None
        if spec.qkv_bias == "qv":
            zeros = nn.initializers.zeros
            own = (starts.param(self, f"{n}_bias", zeros, shape) for n in "qv")
            joined = attention.joined(*own)
        qkv = Dense(
            (3, *shape),
            use_bias=spec.qkv_bias == "all",
            kernel_init=spec.start.qkv,
            float8=spec.float8,
            dtype=spec.dtype,
            name="qkv",
        )(x, joined)
        qkv = by_sample(qkv)
        prefix = None
        if isinstance(attn_mask, PrefixCausal):
            prefix, attn_mask = attn_mask.lengths, attn_mask.allowed(x.shape[1])
        # For those who ask what happens inside (evaluate/inside.py).
        if self.is_mutable_collection("intermediates"):
            shares, total = attention.shares_of(qkv, bias, attn_mask)
            self.sow("intermediates", "attention", shares / total)
        in_pairs = bias is not None or (attn_mask is not None and prefix is None)
        if spec.attention == "cudnn" and fused.takes(qkv) and not in_pairs:
            mixed = by_sample(fused.attend(qkv, prefix))
        else:
            mixed = attention.attend(qkv, bias, attn_mask)
        return Dense(
            (spec.width,),
            axes=2,
            use_bias=spec.bias,
            kernel_init=spec.start.branch_end(number),
            bias_init=spec.start.out_bias(spec.width),
            float8=spec.float8,
            dtype=spec.dtype,
            name="out",
        )(mixed)


class Mlp(nn.Module):
    """Two dense layers around a GELU, or three of which one gates another (SwiGLU)."""

    spec: Spec

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], number: Int[Array, ""], *, train: bool
    ) -> Float[Array, "B T D"]:
        spec = self.spec

        def dense(x: Array, features: int, kernel: starts.Init, name: str) -> Array:
            return Dense(
                (features,),
                use_bias=spec.bias,
                kernel_init=kernel,
                bias_init=spec.start.mlp_bias(x.shape[-1]),
                float8=spec.float8,
                dtype=spec.dtype,
                name=name,
            )(x)

        width = 2 * spec.mlp_width if spec.swiglu else spec.mlp_width
        x = by_sample(dense(x, width, spec.start.dense, "up"))
        if spec.swiglu:
            gate, x = jnp.split(x, 2, axis=-1)
            x = (nn.silu(wide(gate)) * wide(x)).astype(x.dtype)
        else:
            x = primitives.gelu(x, spec.gelu_tanh)
        x = dropout(spec)(x, deterministic=not train)
        return dense(x, spec.width, spec.start.branch_end(number), "down")


def dropout(spec: Spec) -> nn.Dropout:
    """Dropout at the rate of the stack, drawn from the stream "drop"."""
    return nn.Dropout(spec.dropout, rng_collection="drop")


class Block(nn.Module):
    """A pre-norm transformer layer."""

    spec: Spec
    train: bool
    drops_path: bool

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        number: Int[Array, ""],
        drop_rate: Float[Array, ""],
        attn_mask: AttnMask,
        bias: Float[Array, "n A T T"] | None,
    ) -> Float[Array, "B T D"]:
        spec = self.spec
        y = LayerNorm(spec.norm_eps, spec.dtype, name="norm1")(x)
        y = self.mix(y, number, attn_mask, bias)
        x = by_sample(x + self.branch(y, drop_rate, "scale1"))
        y = LayerNorm(spec.norm_eps, spec.dtype, name="norm2")(x)
        y = Mlp(spec, name="mlp")(y, number, train=self.train)
        x = by_sample(x + self.branch(y, drop_rate, "scale2"))
        self.sow("intermediates", "tokens", x)
        return x

    def mix(
        self,
        x: Float[Array, "B T D"],
        number: Int[Array, ""],
        attn_mask: AttnMask,
        bias: Float[Array, "n A T T"] | None,
    ) -> Float[Array, "B T D"]:
        """How tokens hear of each other; what another kind of layer replaces."""
        return Attention(self.spec, name="attn")(x, number, attn_mask, bias)

    def branch(
        self, y: Float[Array, "B T D"], drop_rate: Float[Array, ""], scale: str
    ) -> Float[Array, "B T D"]:
        """What a branch adds: dropout, LayerScale, drop path (arXiv 1603.09382)."""
        y = dropout(self.spec)(y, deterministic=not self.train)
        if self.spec.layer_scale:
            start = nn.initializers.constant(self.spec.layer_scale)
            own = starts.param(self, scale, start, (self.spec.width,))
            y = primitives.scaled(y, own)
        if self.drops_path:
            keep = 1.0 - drop_rate
            kept = jax.random.bernoulli(self.make_rng("drop"), keep, (y.shape[0], 1, 1))
            y = (y * (kept / keep)).astype(y.dtype)
        return y
