"""Masked autoencoder (MAE): predict the pixels of hidden patches from the visible ones.

He et al., arXiv 2111.06377; official code facebookresearch/mae `models_mae.py`. Default
values are those of section 4 and table 8. The decoder sees the tokens in the order they
were shuffled into, which attention does not notice: nothing is put back in place except
for pictures, so the backward pass has no scatter.
"""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mimjax import masking, patches, posembed
from mimjax.backbones import layers, sizes, vit


class Objective(nn.Module):
    """MAE with its asymmetric decoder; the loss is taken on hidden patches alone."""

    encoder: vit.Encoder
    mask_ratio: float = 0.75
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    norm_pixels: bool = True

    encoder_note = "mae drops patches, which other encoders cannot do without"

    @property
    def panel_note(self) -> str:
        """What to know of the pictures."""
        visible = "the loss never sees what the decoder makes of visible patches"
        if not self.norm_pixels:
            return visible
        return f"patches are drawn with their own true mean and deviation; {visible}"

    @property
    def num_kept(self) -> int:
        """Visible patches, rounded down as in the official `random_masking`."""
        return int(self.encoder.num_tokens * (1 - self.mask_ratio))

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
            found.append(f"mask_ratio: {self.mask_ratio} must be between 0 and 1")
        elif not 0 < self.num_kept < self.encoder.num_tokens:
            found.append(
                f"mask_ratio: {self.mask_ratio} keeps {self.num_kept} of the "
                f"{self.encoder.num_tokens} patches that image_size and patch_size "
                "make (both sides need at least one)"
            )
        if self.norm_pixels and self.encoder.patch_values < 2:
            found.append("norm_pixels: a patch_size of one value has no variance")
        if self.encoder.position == "relative":
            found.append(
                "name: mae drops patches, but a relative position table needs them all "
                "(use config.encoder.position='sincos' or 'learned', or simmim)"
            )
        return found

    def setup(self) -> None:
        encoder = self.encoder
        self.decoder_embed = nn.Dense(
            self.decoder_width,
            kernel_init=nn.initializers.xavier_uniform(),
            dtype=encoder.dtype,
        )
        normal = nn.initializers.normal(0.02)
        shape = (1, 1, self.decoder_width)
        self.mask_token = self.param("mask_token", normal, shape)
        # Biases everywhere and no LayerScale or dropout, whatever the encoder has.
        spec = dataclasses.replace(
            encoder.spec(self.decoder_width, self.decoder_heads),
            qkv_bias="all",
            bias=True,
            layer_scale=0.0,
            dropout=0.0,
        )
        self.decoder = layers.Blocks(
            spec,
            self.decoder_depth,
            remat=encoder.remat,
            unroll=encoder.unroll,
        )
        self.decoder_norm = layers.layer_norm(encoder.norm_eps, encoder.dtype)
        self.decoder_pred = nn.Dense(
            encoder.patch_values,
            kernel_init=nn.initializers.xavier_uniform(),
            dtype=jnp.float32,
        )

    def __call__(
        self, batch: dict[str, Array], *, train: bool
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        keep, drop = self.draw(batch["image"].shape[0])
        predicted = self.predict(batch["image"], keep, drop, train=train)
        return self.loss(batch["image"], predicted, drop), {}

    def draw(self, batch: int) -> tuple[Int[Array, "B K"], Int[Array, "B M"]]:
        """Which patches of each image are kept and which are hidden."""
        key = self.make_rng("mask")
        return masking.random_ids(key, batch, self.encoder.num_tokens, self.num_kept)

    def predict(
        self,
        image: Float[Array, "B H W C"],
        keep: Int[Array, "B K"],
        drop: Int[Array, "B M"],
        *,
        train: bool = False,
    ) -> Float[Array, "B N P"]:
        """Pixels of every patch, in the order kept, then hidden."""
        latent = self.encoder(self.encoder.embed(image, keep), keep, train=train)
        x = self.decoder_embed(latent)
        table = jnp.asarray(posembed.sincos_2d(self.encoder.grid, self.decoder_width))
        # The class token has the position row of zeros.
        cls, visible = x[:, : int(self.encoder.cls)], self.encoder.patch_tokens(x)
        visible = visible + table[keep].astype(x.dtype)
        hidden = (self.mask_token + table[drop]).astype(x.dtype)
        x, _ = self.decoder(jnp.concatenate([cls, visible, hidden], axis=1))
        return self.decoder_pred(self.encoder.patch_tokens(self.decoder_norm(x)))

    def loss(
        self,
        image: Float[Array, "B H W C"],
        predicted: Float[Array, "B N P"],
        drop: Int[Array, "B M"],
    ) -> Float[Array, ""]:
        """Mean squared error over the hidden patches."""
        values = patches.patchify(image, self.encoder.patch_size)
        target = masking.take(values, drop)
        if self.norm_pixels:
            target = patches.standardise(target)
        return jnp.square(predicted[:, -drop.shape[1] :] - target).mean()

    def panels(self, batch: dict[str, Array]) -> dict[str, Array]:
        """Original, visible patches, reconstruction, and both together."""
        image = batch["image"]
        keep, drop = self.draw(image.shape[0])
        order = jnp.concatenate([keep, drop], axis=1)
        predicted = masking.put_back(self.predict(image, keep, drop), order)
        values = patches.patchify(image, self.encoder.patch_size)
        if self.norm_pixels:
            mean, deviation = patches.moments(values)
            predicted = predicted * deviation + mean
        hidden = masking.hidden_from_ids(drop, self.encoder.num_tokens)[:, :, None]
        shown = {
            "original": values,
            "masked": jnp.where(hidden, 0.0, values),
            "reconstruction": predicted,
            "reconstruction + visible": jnp.where(hidden, predicted, values),
        }
        size = (self.encoder.image_size, self.encoder.patch_size)
        return {name: patches.unpatchify(x, *size) for name, x in shown.items()}
