"""Masked autoencoder (MAE): predict the pixels of hidden patches from the visible ones.

He et al., arXiv 2111.06377; official code facebookresearch/mae `models_mae.py`. Default
values are those of section 4 and table 8. The decoder sees the tokens in the order they
were shuffled into, which attention does not notice: nothing is put back in place except
for pictures, so the backward pass has no scatter.
"""

import dataclasses

import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mimjax import frozen, masking, patches, posembed, tokenizers
from mimjax.backbones import blocks, layers, sizes, starts, vit
from mimjax.reductions import place_of_largest

SAMPLING = ("random", "block", "grid")


class Objective(tokenizers.Predicted, nn.Module):
    """MAE with its asymmetric decoder; the loss is taken on hidden patches alone.

    The fields are those of the paper's ablations (table 1): `sampling` hides patches at
    "random", in "block"s or all but a "grid" of every fourth; the targets are pixels,
    standardised patch by patch if `norm_pixels`, or the tokens of a `tokenizer` where
    one is named (the workdir of the run that trained it); with `mask_in_encoder` the
    encoder sees mask tokens and the decoder adds none, which is slower and worse.
    """

    encoder: vit.Encoder
    mask_ratio: float = 0.75
    sampling: str = "random"
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    norm_pixels: bool = True
    mask_in_encoder: bool = False
    tokenizer: frozen.Model | None = None

    encoder_note = "mae drops patches, which others need; simmim hides them without"

    @property
    def panel_note(self) -> str:
        """What to know of the pictures."""
        if self.tokenizer:
            return "tokens: what the tokenizer makes of the whole image"
        visible = "the loss never sees what the decoder makes of visible patches"
        if not self.norm_pixels:
            return visible
        return f"patches are drawn with their own true mean and deviation; {visible}"

    @property
    def draws_pixels(self) -> bool:
        """Whether pictures are of pixels from 0 to 1, not of normalised images."""
        return self.tokenizer is not None

    @property
    def num_kept(self) -> int:
        """Visible patches, rounded down as in the official `random_masking`."""
        return int(self.encoder.num_tokens * (1 - self.mask_ratio))

    @property
    def smallest_block(self) -> int:
        """Of how many patches a block is: BEiT's 16 of 196; the paper does not say."""
        tokens = self.encoder.num_tokens
        return max(1, min(tokens - self.num_kept, tokens * 16 // 196))

    @property
    def share_hidden(self) -> float:
        """The share of patches that `mask_ratio` comes to."""
        return 1 - self.num_kept / self.encoder.num_tokens

    @nn.nowrap
    def problems(self) -> list[str]:
        """What cannot work, one line each."""
        width, ratio = self.decoder_width, self.encoder.mlp_ratio
        found = sizes.stack_problems(
            width, self.decoder_depth, self.decoder_heads, ratio, prefix="decoder_"
        )
        if width % 4:
            found.append(f"decoder_width: {width} must be a multiple of 4")
        if not 0 < self.mask_ratio < 1:
            found.append(f"mask_ratio: {self.mask_ratio} must be above 0, below 1")
        elif not 0 < self.num_kept < self.encoder.num_tokens:
            found.append(
                f"mask_ratio: {self.mask_ratio} keeps {self.num_kept} of the "
                f"{self.encoder.num_tokens} patches that image_size and patch_size "
                "make (both sides need at least one)"
            )
        if self.sampling not in SAMPLING:
            known = ", ".join(SAMPLING)
            found.append(f"sampling: {self.sampling!r} is none of {known}")
        grid, smallest = self.encoder.grid, self.smallest_block
        if self.sampling == "block" and not masking.block_fits(smallest, grid):
            found.append(
                f"sampling: no block of {smallest} patches lies within {grid[0]} x "
                f"{grid[1]} (use 'random')"
            )
        quarter = self.num_kept * 4 == self.encoder.num_tokens
        if self.sampling == "grid" and (not quarter or any(side % 2 for side in grid)):
            found.append(
                "sampling: 'grid' keeps a quarter of an even number of rows and columns"
                f" of patches (mask_ratio is {self.mask_ratio}, image_size and "
                f"patch_size make {grid})"
            )
        if self.tokenizer:
            found += self.tokenizer_problems()
        elif self.norm_pixels and self.encoder.patch_values < 2:
            found.append("norm_pixels: a patch_size of one value has no variance")
        if self.encoder.is_relative:
            found.append(
                "name: mae drops patches, but a relative position table needs them all "
                "(use config.encoder.position='sincos' or 'learned', or simmim)"
            )
        return found

    def setup(self) -> None:
        encoder, xavier = self.encoder, nn.initializers.xavier_uniform()
        self.decoder_embed = layers.Dense(
            (self.decoder_width,), xavier, dtype=encoder.dtype
        )
        normal = nn.initializers.normal(0.02)
        shape = (1, 1, encoder.width if self.mask_in_encoder else self.decoder_width)
        self.mask_token = starts.param(self, "mask_token", normal, shape)
        # Biases everywhere and no LayerScale or dropout, whatever the encoder has.
        spec = dataclasses.replace(
            encoder.spec(self.decoder_width, self.decoder_heads),
            qkv_bias="all",
            bias=True,
            layer_scale=0.0,
            dropout=0.0,
        )
        self.decoder = blocks.Blocks(
            spec, self.decoder_depth, remat=encoder.remat, unroll=encoder.unroll
        )
        self.decoder_norm = layers.LayerNorm(encoder.norm_eps, encoder.dtype)
        codes = self.teacher.objective.num_codes if self.tokenizer else 0
        self.decoder_pred = layers.Dense(
            (codes or encoder.patch_values,), xavier, dtype=encoder.dtype, rounds=False
        )
        if self.tokenizer:
            self.teacher.declare(self, "tokenizer", tokenizers.read_and_drawn)

    def __call__(
        self, batch: dict[str, Array], *, train: bool
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        keep, drop = self.draw(batch["image"].shape[0])
        predicted = self.predict(batch["image"], keep, drop, train=train)
        if self.tokenizer:
            ids = jnp.take_along_axis(self.tokens(batch), drop, axis=1)
            logits = predicted[:, -drop.shape[1] :]
            accuracy = (place_of_largest(logits) == ids).mean()
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, ids).mean()
            return loss, {"accuracy": accuracy}
        return self.loss(batch["image"], predicted, drop), {}

    def draw(self, batch: int) -> tuple[Int[Array, "B K"], Int[Array, "B M"]]:
        """Which patches of each image are kept and which are hidden."""
        key, grid, kept = self.make_rng("mask"), self.encoder.grid, self.num_kept
        if self.sampling == "grid":
            return masking.grid_ids(batch, grid)
        if self.sampling == "block":
            return masking.block_ids(key, batch, grid, kept, self.smallest_block)
        return masking.random_ids(key, batch, self.encoder.num_tokens, kept)

    def predict(
        self,
        image: Float[Array, "B H W C"],
        keep: Int[Array, "B K"],
        drop: Int[Array, "B M"],
        *,
        train: bool = False,
    ) -> Float[Array, "B N P"]:
        """Pixels, or scores of tokens, of every patch: kept ones, then hidden ones."""
        tokens = self.encoder.embed(image, keep)
        if self.mask_in_encoder:
            shape = *drop.shape, self.encoder.width
            masks = jnp.broadcast_to(self.mask_token, shape).astype(tokens.dtype)
            tokens = jnp.concatenate([tokens, masks], axis=1)
            keep, drop = jnp.concatenate([keep, drop], axis=1), drop[:, :0]
        x = self.decoder_embed(self.encoder(tokens, keep, train=train))
        table = jnp.asarray(posembed.sincos_2d(self.encoder.grid, self.decoder_width))
        # The class token has the position row of zeros; registers end here.
        cls, visible = x[:, : int(self.encoder.cls)], self.encoder.patch_tokens(x)
        visible = visible + table[keep].astype(x.dtype)
        x = jnp.concatenate([cls, visible], axis=1)
        if not self.mask_in_encoder:
            hidden = (self.mask_token + table[drop]).astype(x.dtype)
            x = jnp.concatenate([x, hidden], axis=1)
        x, _ = self.decoder(x)
        return self.decoder_pred(self.decoder_norm(x)[:, cls.shape[1] :])

    def loss(
        self,
        image: Float[Array, "B H W C"],
        predicted: Float[Array, "B N P"],
        drop: Int[Array, "B M"],
    ) -> Float[Array, ""]:
        """Mean squared error over the hidden patches."""
        return self.errors(image, predicted, drop).mean()

    def errors(
        self,
        image: Float[Array, "B H W C"],
        predicted: Float[Array, "B N P"],
        drop: Int[Array, "B M"],
    ) -> Float[Array, "B M P"]:
        """Squared errors of the values of hidden patches."""
        target = masking.take(patches.patchify(image, self.encoder.patch_size), drop)
        if self.norm_pixels:
            target = patches.standardise(target)
        return jnp.square(predicted[:, -drop.shape[1] :] - target)

    def patch_losses(self, batch: dict[str, Array]) -> Float[Array, "B N"]:
        """The loss of every hidden patch."""
        keep, drop = self.draw(batch["image"].shape[0])
        predicted = self.predict(batch["image"], keep, drop)
        if self.tokenizer:
            ids = jnp.take_along_axis(self.tokens(batch), drop, axis=1)
            logits = predicted[:, -drop.shape[1] :]
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, ids)
        else:
            losses = self.errors(batch["image"], predicted, drop).mean(axis=-1)
        every = jnp.ones(drop.shape, bool)
        return masking.placed(losses, drop, every, self.encoder.num_tokens)

    def panels(self, batch: dict[str, Array]) -> dict[str, Array]:
        """Original, visible patches, reconstruction, and both together."""
        image = batch["image"]
        keep, drop = self.draw(image.shape[0])
        order = jnp.concatenate([keep, drop], axis=1)
        predicted = masking.put_back(self.predict(image, keep, drop), order)
        hidden = masking.hidden_from_ids(drop, self.encoder.num_tokens)
        if self.tokenizer:
            return self.drawn(batch, hidden, predicted.argmax(axis=-1))
        values = patches.patchify(image, self.encoder.patch_size)
        if self.norm_pixels:
            mean, deviation = patches.moments(values)
            predicted = predicted * deviation + mean
        shown = {
            "original": values,
            "masked": jnp.where(hidden[..., None], 0.0, values),
            "reconstruction": predicted,
            "reconstruction + visible": jnp.where(hidden[..., None], predicted, values),
        }
        size = (self.encoder.image_size, self.encoder.patch_size)
        return {name: patches.unpatchify(x, *size) for name, x in shown.items()}
