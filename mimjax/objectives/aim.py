"""Autoregressive image models (AIM): predict each patch from those before it.

El-Nouby et al., arXiv 2401.08541. Pre-training code and constants: apple/ml-l3m
(`RandomRasterMasking`, `PrefixAttentionMaskBuilder`, `SimpleDecoder`,
`RasterPixelLoss`); section 3.3 of the paper for the head. Patches go row by row; a
prefix of random length sees itself both ways, the rest looks back only. The loss is one
sum over all predicted patches of the batch divided by their number (with
config.optim.accumulate the mean of that over the parts), where the official
code takes the mean of that ratio over devices.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mimjax import masking, patches, posembed
from mimjax.backbones import layers, sizes, vit


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


class Objective(nn.Module):
    """AIM with its MLP head; a prefix length, uniform on 1 .. N-1, for each sample."""

    encoder: vit.Encoder
    head_width: int = 2048
    head_depth: int = 12
    norm_pixels: bool = True

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
        found = sizes.stack_problems(
            self.head_width, self.head_depth, 1, 4.0, prefix="head_"
        )
        if self.encoder.cls:
            found.append(
                "name: aim predicts every token from those before it and has no place "
                "for a class token (config.encoder.cls=False)"
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
        self.head_embed = nn.Dense(
            self.head_width, kernel_init=xavier, dtype=encoder.dtype
        )
        # No biases inside the head, expansion 4 (section 3.3).
        spec = dataclasses.replace(
            encoder.spec(self.head_width, 1),
            mlp_width=4 * self.head_width,
            bias=False,
            layer_scale=0.0,
            dropout=0.0,
        )
        self.head = layers.Blocks(
            spec,
            self.head_depth,
            remat=encoder.remat,
            unroll=encoder.unroll,
            block=HeadBlock,
        )
        self.head_norm = layers.layer_norm(encoder.norm_eps, encoder.dtype)
        self.head_pred = nn.Dense(
            encoder.patch_values, kernel_init=xavier, dtype=jnp.float32
        )

    def __call__(
        self, batch: dict[str, Array], *, train: bool
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        prefix = self.draw(batch["image"].shape[0])
        predicted = self.predict(batch["image"], prefix, train=train)
        return self.loss(batch["image"], predicted, prefix), {}

    def draw(self, batch: int) -> Int[Array, " B"]:
        """How many patches of each image are given."""
        key = self.make_rng("mask")
        return masking.prefix_lengths(key, batch, self.encoder.num_tokens)

    def predict(
        self,
        image: Float[Array, "B H W C"],
        prefix: Int[Array, " B"],
        *,
        train: bool = False,
    ) -> Float[Array, "B N P"]:
        """At place n the pixels of patch n + 1."""
        attn_mask = masking.prefix_causal(prefix, self.encoder.num_tokens)
        tokens = self.encoder.embed(image)
        x = self.head_embed(self.encoder(tokens, attn_mask=attn_mask, train=train))
        table = jnp.asarray(posembed.sincos_2d(self.encoder.grid, self.head_width))
        x = x + table.astype(x.dtype)
        x, _ = self.head(x)
        return self.head_pred(self.head_norm(x))

    def targets(self, image: Float[Array, "B H W C"]) -> Float[Array, "B N P"]:
        """What patch n should be predicted as."""
        values = patches.patchify(image, self.encoder.patch_size)
        return patches.standardise(values) if self.norm_pixels else values

    def loss(
        self,
        image: Float[Array, "B H W C"],
        predicted: Float[Array, "B N P"],
        prefix: Int[Array, " B"],
    ) -> Float[Array, ""]:
        """Mean squared error of patch n + 1 at place n, beyond the prefix."""
        errors = predicted[:, :-1] - self.targets(image)[:, 1:]
        hidden = masking.beyond_prefix(prefix, self.encoder.num_tokens)
        return masking.masked_mean(jnp.square(errors).mean(axis=-1), hidden[:, 1:])

    def panels(self, batch: dict[str, Array]) -> dict[str, Array]:
        """Original, the prefix, and the prefix with the next-patch predictions."""
        image = batch["image"]
        prefix = self.draw(image.shape[0])
        predicted = self.predict(image, prefix)
        values = patches.patchify(image, self.encoder.patch_size)
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
        return {name: patches.unpatchify(x, *size) for name, x in shown.items()}
