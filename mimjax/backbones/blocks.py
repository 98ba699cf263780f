"""A stack of transformer layers.

They are scanned, so the leading axis of every parameter of a stack is the layer.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from mimjax.backbones import layers
from mimjax.sharding import by_sample

# What the backward pass recomputes: nothing, all but products of weights, everything.
REMAT: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Blocks(nn.Module):
    """`depth` scanned layers of the kind `block`.

    `drop_path` is that of the first and of the last, a line between. `remat` names what
    the backward pass recomputes (REMAT); `unroll` is how many layers the compiler sees
    at once: all of them is faster on CPU, one compiles faster. Neither changes the
    parameters. `first` is the number of the first layer, where layers start by it.
    """

    spec: layers.Spec
    depth: int
    drop_path: tuple[float, float] = (0.0, 0.0)
    remat: str = "none"
    unroll: int = 1
    block: type[layers.Block] = layers.Block
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
        apart: bool = False,
    ) -> tuple[Float[Array, "B T D"], Any]:
        """The output of the last layer, and the float32 mean of that of the `chosen`.

        They are counted from 1; none, no mean. `apart`, it is a tuple of theirs in
        place of the mean. All layers run, whichever are chosen.
        """
        assert all(1 <= number <= self.depth for number in chosen), chosen
        shares, sums = None, ()
        if chosen:
            places = jnp.arange(1, self.depth + 1)[:, None] == jnp.asarray(chosen)
            shares = places.astype(jnp.float32)
            shares = shares if apart else shares.mean(axis=1, keepdims=True)
            sums = (jnp.zeros(x.shape, jnp.float32),) * shares.shape[1]
        layer: Any = self.block
        policy = REMAT[self.remat]
        if policy is not None:
            layer = nn.remat(layer, policy=policy, prevent_cse=False)

        # Sums grow outside what is recomputed: no layer keeps them for the way back.
        def advance(layer, carry, number, rate, share, attn_mask, bias):
            x, sums = carry
            x = layer(x, number, rate, attn_mask, bias)
            sums = tuple(
                by_sample(jnp.where(share[i] > 0, total + share[i] * x, total))
                for i, total in enumerate(sums)
            )
            return (x, sums), None

        scan: Any = nn.scan  # its type says that every axis is one number
        scanned = scan(
            advance,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True, "drop": True},
            in_axes=(0, 0, 0, nn.broadcast, nn.broadcast),
            length=self.depth,
            unroll=max(1, min(self.unroll, self.depth)),
        )
        (x, sums), _ = scanned(
            layer(self.spec, train, train and any(self.drop_path), name="layers"),
            (x, sums),
            self.first + jnp.arange(self.depth),
            jnp.linspace(*self.drop_path, self.depth),
            shares,
            attn_mask,
            bias,
        )
        return x, sums if apart else sums[0] if chosen else None
