"""A stack of transformer layers.

They are scanned, so the leading axis of every parameter of a stack is the layer.
"""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mimjax.backbones import layers, primitives
from mimjax.masking import AttnMask
from mimjax.sharding import by_sample

# What the backward pass recomputes: nothing, all but products of weights, everything.
REMAT: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "dots": jax.checkpoint_policies.save_only_these_names(primitives.PRODUCT),
    "full": jax.checkpoint_policies.nothing_saveable,
}

# The collection that says how many of the first layers of a stack stay as they are.
STILL = "still"


def scanned(advance: Any, length: int, unroll: int, **more: Any) -> Any:
    """`advance` from layer to layer of a stack."""
    scan = cast(Any, nn.scan)  # its type says that every axis is one number
    return scan(
        advance,
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True, "drop": True},
        in_axes=(0, 0, 0, nn.broadcast, nn.broadcast),
        length=length,
        unroll=max(1, min(unroll, length)),
        # Flax counts what it draws in its check of invariants, too: without the check a
        # trace is shorter, but every seed draws other weights and drops other paths.
        **more,
    )


def part_scanned(advance: Any, layers: range, unroll: int) -> Any:
    """The same through some of the layers; those from the first on are constants."""
    start = layers.start

    def own(params: Any) -> Any:
        part = jax.tree.map(lambda x: x[start : layers.stop], params)
        return part if start else jax.lax.stop_gradient(part)

    # Both parts are given the same keys.
    def numbers_of_its_own(variables: Any, keys: Any) -> tuple[Any, Any]:
        return variables, jax.tree.map(lambda k: jax.random.fold_in(k, start), keys)

    run = scanned(advance, len(layers), unroll, data_transform=numbers_of_its_own)
    return nn.map_variables(run, "params", trans_in_fn=own)


class Blocks(nn.Module):
    """`depth` scanned layers of the kind `block`.

    `drop_path` is that of the first and of the last, a line between. `remat` names what
    the backward pass recomputes (REMAT); `unroll` is how many layers the compiler sees
    at once: all of them is faster, one compiles faster. Neither changes the parameters.
    `first` is the number of the first layer, where layers start by it.

    Where the collection STILL holds a `count`, the first layers are run by themselves
    and their parameters are constants, so no gradient goes there unless something
    before them is trained.
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
        attn_mask: AttnMask = None,
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
        shares: Any = None
        sums: tuple[Array, ...] = ()
        if chosen:
            places = jnp.arange(1, self.depth + 1)[:, None] == jnp.asarray(chosen)
            shares = places.astype(jnp.float32)
            shares = shares if apart else shares.mean(axis=1, keepdims=True)
            sums = (jnp.zeros(x.shape, jnp.float32),) * shares.shape[1]
        layer: Any = self.block
        policy = REMAT[self.remat]
        if policy is not None:
            # In a loop nothing is merged with what is computed again.
            merges = self.unroll > 1
            layer = nn.remat(layer, policy=policy, prevent_cse=merges)

        # Sums grow outside what is recomputed: no layer keeps them for the way back.
        def advance(layer, carry, number, rate, share, attn_mask, bias):
            x, sums = carry
            x = layer(x, number, rate, attn_mask, bias)
            sums = tuple(
                by_sample(jnp.where(share[i] > 0, total + share[i] * x, total))
                for i, total in enumerate(sums)
            )
            return (x, sums), None

        stack = layer(self.spec, train, train and any(self.drop_path), name="layers")
        numbers = self.first + jnp.arange(self.depth)
        along = numbers, jnp.linspace(*self.drop_path, self.depth), shares
        still = self.get_variable(STILL, "count", 0)
        parts = (range(still), range(still, self.depth))
        if still in (0, self.depth):
            run, parts = scanned(advance, self.depth, self.unroll), ()
            (x, sums), _ = run(stack, (x, sums), *along, attn_mask, bias)
        for part in parts:
            run = part_scanned(advance, part, self.unroll)
            own = jax.tree.map(lambda x, part=part: x[part.start : part.stop], along)
            (x, sums), _ = run(stack, (x, sums), *own, attn_mask, bias)
        return x, sums if apart else next(iter(sums), None)
