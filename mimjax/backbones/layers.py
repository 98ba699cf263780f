"""Transformer layers: attention, MLP, and a scanned stack of both.

Layers are scanned, so the leading axis of every parameter of a stack is the layer.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mimjax.backbones import starts
from mimjax.sharding import by_sample

# What the backward pass recomputes: nothing, all but products of weights, everything.
REMAT: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True)
class Spec:
    """What every layer of a stack shares.

    `qkv_bias` says which of query, key and value have a bias: "all", "qv" (BEiT: a bias
    on the keys cancels in the softmax) or "none" (AIM). `bias` is that of the other
    dense layers. `layer_scale` is the start of LayerScale (arXiv 2103.17239), 0 for
    none. `gelu_tanh` is the approximation vit_jax uses; all PyTorch sources use the
    exact form.
    """

    width: int
    heads: int
    mlp_width: int
    qkv_bias: str = "all"
    bias: bool = True
    layer_scale: float = 0.0
    norm_eps: float = 1e-6
    gelu_tanh: bool = False
    dropout: float = 0.0
    start: starts.Start = starts.STARTS["mae"]
    dtype: str = "float32"


def layer_norm(eps: float, dtype: str, name: str | None = None) -> nn.LayerNorm:
    """LayerNorm with float32 statistics in two passes, as PyTorch computes them."""
    return nn.LayerNorm(epsilon=eps, dtype=dtype, use_fast_variance=False, name=name)


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
        attn_mask: Bool[Array, "B T T"] | None = None,
        bias: Float[Array, "n A T T"] | None = None,
    ) -> Float[Array, "B T D"]:
        spec = self.spec
        shape = (spec.heads, spec.width // spec.heads)
        qkv = nn.DenseGeneral(
            (3, *shape),
            use_bias=spec.qkv_bias == "all",
            kernel_init=spec.start.qkv,
            dtype=spec.dtype,
            name="qkv",
        )(x)
        qkv = by_sample(qkv)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        if spec.qkv_bias == "qv":
            zeros = nn.initializers.zeros
            q = q + self.param("q_bias", zeros, shape).astype(spec.dtype)
            v = v + self.param("v_bias", zeros, shape).astype(spec.dtype)
        scores = jnp.einsum(
            "bqah,bkah->baqk",
            q * shape[1] ** -0.5,
            k,
            preferred_element_type=jnp.float32,
        )
        if bias is not None:
            groups = scores.reshape(-1, *bias.shape) + bias
            scores = groups.reshape(scores.shape)
        if attn_mask is not None:
            lowest = jnp.finfo(jnp.float32).min
            scores = jnp.where(attn_mask[:, None], scores, lowest)
        weights = jax.nn.softmax(scores).astype(spec.dtype)
        mixed = by_sample(jnp.einsum("baqk,bkah->bqah", weights, v))
        return nn.DenseGeneral(
            spec.width,
            axis=(-2, -1),
            use_bias=spec.bias,
            kernel_init=spec.start.branch_end(number),
            bias_init=spec.start.out_bias(spec.width),
            dtype=spec.dtype,
            name="out",
        )(mixed)


class Mlp(nn.Module):
    """Two dense layers around a GELU."""

    spec: Spec

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], number: Int[Array, ""], *, train: bool
    ) -> Float[Array, "B T D"]:
        spec = self.spec

        def dense(x: Array, features: int, kernel: starts.Init, name: str) -> Array:
            return nn.Dense(
                features,
                use_bias=spec.bias,
                kernel_init=kernel,
                bias_init=spec.start.mlp_bias(x.shape[-1]),
                dtype=spec.dtype,
                name=name,
            )(x)

        x = by_sample(dense(x, spec.mlp_width, spec.start.dense, "up"))
        x = nn.gelu(x, approximate=spec.gelu_tanh)
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
        attn_mask: Bool[Array, "B T T"] | None,
        bias: Float[Array, "n A T T"] | None,
    ) -> Float[Array, "B T D"]:
        spec = self.spec
        y = layer_norm(spec.norm_eps, spec.dtype, "norm1")(x)
        y = self.mix(y, number, attn_mask, bias)
        x = by_sample(x + self.branch(y, drop_rate, "scale1"))
        y = layer_norm(spec.norm_eps, spec.dtype, "norm2")(x)
        y = Mlp(spec, name="mlp")(y, number, train=self.train)
        return by_sample(x + self.branch(y, drop_rate, "scale2"))

    def mix(
        self,
        x: Float[Array, "B T D"],
        number: Int[Array, ""],
        attn_mask: Bool[Array, "B T T"] | None,
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
            y = y * self.param(scale, start, (self.spec.width,)).astype(y.dtype)
        if self.drops_path:
            keep = 1.0 - drop_rate
            kept = jax.random.bernoulli(self.make_rng("drop"), keep, (y.shape[0], 1, 1))
            y = y * (kept / keep).astype(y.dtype)
        return y


class Blocks(nn.Module):
    """`depth` scanned layers of the kind `block`.

    `drop_path` is that of the first and of the last, a line between. `remat` names what
    the backward pass recomputes (REMAT); `unroll` is how many layers the compiler sees
    at once: all of them is faster on CPU, one compiles faster. Neither changes the
    parameters. `first` is the number of the first layer, where layers start by it.
    """

    spec: Spec
    depth: int
    drop_path: tuple[float, float] = (0.0, 0.0)
    remat: str = "none"
    unroll: int = 1
    block: type[Block] = Block
    first: int = 1

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        attn_mask: Bool[Array, "B T T"] | None = None,
        bias: Float[Array, "n A T T"] | None = None,
        *,
        train: bool = False,
        chosen: tuple[int, ...] = (),
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B T D"] | None]:
        """The output of the last layer, and the mean of that of the `chosen`.

        They are counted from 1; none, no mean. It is float32 and grows layer by layer:
        the outputs are never all there at once.
        """
        weights = None
        if chosen:
            counts = [chosen.count(number) for number in range(1, self.depth + 1)]
            weights = jnp.asarray(counts) / len(chosen)
        layer: Any = self.block
        policy = REMAT[self.remat]
        if policy is not None:
            layer = nn.remat(layer, policy=policy, prevent_cse=False)

        def advance(layer, carry, number, rate, weight, attn_mask, bias):
            x, mixed = carry
            x = layer(x, number, rate, attn_mask, bias)
            if mixed is not None:
                mixed = by_sample(mixed + weight * x)
            return (x, mixed), None

        scan: Any = nn.scan  # its type says that every axis is one number
        scanned = scan(
            advance,
            variable_axes={"params": 0},
            split_rngs={"params": True, "drop": True},
            in_axes=(0, 0, 0, nn.broadcast, nn.broadcast),
            length=self.depth,
            unroll=max(1, min(self.unroll, self.depth)),
        )
        drops_path = train and any(self.drop_path)
        carry, _ = scanned(
            layer(self.spec, train, drops_path, name="layers"),
            (x, jnp.zeros(x.shape, jnp.float32) if chosen else None),
            self.first + jnp.arange(self.depth),
            jnp.linspace(*self.drop_path, self.depth),
            weights,
            attn_mask,
            bias,
        )
        return carry
