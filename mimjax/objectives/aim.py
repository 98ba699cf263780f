"""Autoregressive image models (AIM): predict each patch from those before it.

El-Nouby et al., arXiv 2401.08541. Pre-training code and constants: apple/ml-l3m
(`RandomRasterMasking`, `PrefixAttentionMaskBuilder`, `SimpleDecoder`,
`RasterPixelLoss`, `ar_patterns.py`); section 3.3 of the paper for the head. Patches go
row by row, or in another order; a prefix of random length sees itself both ways, the
rest looks back only. The loss is one sum over all predicted patches of the batch
divided by their number (with config.optim.accumulate the mean of that over the parts),
where the official code takes the mean of that ratio over devices.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mimjax import masking, orders, patches, posembed
from mimjax.backbones import blocks, layers, sizes, vit


class HeadBlock(layers.Block):
    """The official head's layer: x + norm(x), then x + mlp(norm(x)).

    It is the transformer layer with attention replaced by the identity, which the paper
    calls an MLP block; the paper does not mention the first sum.
    """

    def mix(
        self, x: Float[Array, "B T D"], number: Any, attn_mask: Any, bias: Any
    ) -> Float[Array, "B T D"]:
        """Tokens do not hear of each other."""
        return x


HEADS = ("none", "mlp", "transformer")


class Objective(nn.Module):
    """AIM; with `prefix` a length uniform on 1 .. N-1 is drawn for each sample.

    The other fields and values are those of the paper's ablations (tables 3 to 5):
    without a prefix attention is causal from the first patch on; `order` is one of
    `orders.ORDERS`; `head` is "mlp", "transformer", which sees what the trunk may see,
    with `head_heads` heads, or "none", a linear layer on the trunk.
    """

    encoder: vit.Encoder
    prefix: bool = True
    order: str = "raster"
    head: str = "mlp"
    head_width: int = 2048
    head_depth: int = 12
    head_heads: int = 16
    norm_pixels: bool = True

    encoder_note = "aim masks attention, which other encoders do not offer"

    @property
    def panel_note(self) -> str:
        """What to know of the pictures."""
        before = (
            "patches beyond the prefix are predicted from the true ones before them"
        )
        if not self.norm_pixels:
            return before
        return f"{before} and drawn with their own true mean and deviation"

    @nn.nowrap
    def problems(self) -> list[str]:
        """What cannot work, one line each."""
        heads = self.head_heads if self.head == "transformer" else 1
        found = sizes.stack_problems(
            self.head_width, self.head_depth, heads, 4.0, prefix="head_"
        )
        for name, known in (("head", HEADS), ("order", tuple(orders.ORDERS))):
            value = getattr(self, name)
            if value not in known:
                found.append(f"{name}: {value!r} is none of {', '.join(known)}")
        if self.encoder.is_relative:
            found.append(
                "name: aim has no place for a relative position table "
                "(config.encoder.position='sincos' or 'learned')"
            )
        for field, off, what in (
            ("cls", False, "a class token"),
            ("registers", 0, "registers"),
        ):
            if getattr(self.encoder, field):
                found.append(
                    "name: aim predicts every token from those before it and has no "
                    f"place for {what} (config.encoder.{field}={off})"
                )
        if self.encoder.num_tokens < 2:
            found.append(
                "name: aim needs two patches an image or none is predicted (a smaller "
                "config.encoder.patch_size)"
            )
        if self.head_width % 4:
            found.append(f"head_width: {self.head_width} must be a multiple of 4")
        if self.norm_pixels and self.encoder.patch_values < 2:
            found.append("norm_pixels: a patch_size of one value has no variance")
        return found

    def setup(self) -> None:
        encoder = self.encoder
        xavier = nn.initializers.xavier_uniform()
        self.head_pred = layers.Dense(
            (encoder.patch_values,), xavier, dtype=encoder.dtype, rounds=False
        )
        if self.head == "none":
            return
        self.head_embed = layers.Dense((self.head_width,), xavier, dtype=encoder.dtype)
        attends = self.head == "transformer"
        # No biases inside the head, expansion 4, a GELU (section 3.3).
        spec = dataclasses.replace(
            encoder.spec(self.head_width, self.head_heads if attends else 1),
            mlp_width=4 * self.head_width,
            qkv_bias="none",
            bias=False,
            swiglu=False,
            layer_scale=0.0,
            dropout=0.0,
        )
        self.head_blocks = blocks.Blocks(
            spec,
            self.head_depth,
            remat=encoder.remat,
            unroll=encoder.unroll,
            block=layers.Block if attends else HeadBlock,
        )
        self.head_norm = layers.LayerNorm(encoder.norm_eps, encoder.dtype)

    def __call__(
        self, batch: dict[str, Array], *, train: bool
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        prefix = self.draw(batch["image"].shape[0])
        predicted = self.predict(batch["image"], prefix, train=train)
        return self.loss(batch["image"], predicted, prefix), {}

    def draw(self, batch: int) -> Int[Array, " B"]:
        """How many patches of each image are given."""
        key = self.make_rng("mask")
        if not self.prefix:
            return jnp.ones(batch, jnp.int32)
        return masking.prefix_lengths(key, batch, self.encoder.num_tokens)

    def predict(
        self,
        image: Float[Array, "B H W C"],
        prefix: Int[Array, " B"],
        *,
        train: bool = False,
    ) -> Float[Array, "B N P"]:
        """At place n the pixels of the patch at place n + 1, places by `order`."""
        attn_mask = masking.PrefixCausal(prefix)
        ids = None
        if self.order != "raster":
            ids = jnp.broadcast_to(self.places(), (len(image), self.encoder.num_tokens))
        tokens = self.encoder.embed(image, ids)
        x = self.encoder(tokens, ids, attn_mask=attn_mask, train=train)
        if self.head == "none":
            return self.head_pred(x)
        x = self.head_embed(x)
        table = posembed.sincos_2d(self.encoder.grid, self.head_width)[self.places()]
        x = x + jnp.asarray(table).astype(x.dtype)
        x, _ = self.head_blocks(x, attn_mask if self.head == "transformer" else None)
        return self.head_pred(self.head_norm(x))

    @nn.nowrap
    def places(self) -> Int[np.ndarray, " N"]:
        """The patch at every place."""
        return orders.ORDERS[self.order](self.encoder.grid)

    def targets(self, image: Float[Array, "B H W C"]) -> Float[Array, "B N P"]:
        """What the patch at each place should be predicted as."""
        values = patches.patchify(image, self.encoder.patch_size)[:, self.places()]
        return patches.standardise(values) if self.norm_pixels else values

    def loss(
        self,
        image: Float[Array, "B H W C"],
        predicted: Float[Array, "B N P"],
        prefix: Int[Array, " B"],
    ) -> Float[Array, ""]:
        """Mean squared error of patch n + 1 at place n, beyond the prefix."""
        hidden = masking.beyond_prefix(prefix, self.encoder.num_tokens)
        return masking.masked_mean(self.losses(image, predicted), hidden[:, 1:])

    def losses(
        self, image: Float[Array, "B H W C"], predicted: Float[Array, "B N P"]
    ) -> Float[Array, "B M"]:
        """Mean squared error of the patch at every place but the first."""
        errors = predicted[:, :-1] - self.targets(image)[:, 1:]
        return jnp.square(errors).mean(axis=-1)

    def patch_losses(self, batch: dict[str, Array]) -> Float[Array, "B N"]:
        """The loss of every patch beyond the prefix."""
        image, num_tokens = batch["image"], self.encoder.num_tokens
        prefix = self.draw(len(image))
        losses = self.losses(image, self.predict(image, prefix))
        places = jnp.asarray(self.places())[1:]
        ids = jnp.broadcast_to(places, losses.shape)
        hidden = masking.beyond_prefix(prefix, num_tokens)[:, 1:]
        return masking.placed(losses, ids, hidden, num_tokens)

    def panels(self, batch: dict[str, Array]) -> dict[str, Array]:
        """Original, the prefix, and the prefix with the next-patch predictions."""
        image = batch["image"]
        prefix = self.draw(image.shape[0])
        predicted = self.predict(image, prefix)
        places = self.places()
        values = patches.patchify(image, self.encoder.patch_size)[:, places]
        # Nothing predicts the first patch; it is always in the prefix.
        shifted = jnp.concatenate([values[:, :1], predicted[:, :-1]], axis=1)
        if self.norm_pixels:
            mean, deviation = patches.moments(values)
            shifted = shifted.at[:, 1:].set((shifted * deviation + mean)[:, 1:])
        hidden = masking.beyond_prefix(prefix, self.encoder.num_tokens)[:, :, None]
        shown = {
            "original": values,
            "prefix": jnp.where(hidden, 0.0, values),
            "prefix + next-patch predictions": jnp.where(hidden, shifted, values),
        }
        size = (self.encoder.image_size, self.encoder.patch_size)
        back = np.argsort(places)
        return {
            name: patches.unpatchify(x[:, back], *size) for name, x in shown.items()
        }
