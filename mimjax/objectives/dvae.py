"""Training a tokenizer of one's own: the discrete VAE of DALL-E.

Ramesh et al., arXiv 2102.12092, section 2.1 and appendix A.2; the training code was
never published. An image becomes a grid of tokens of a vocabulary. In training a token
is a relaxed one-hot drawn by Gumbel-softmax whose temperature falls, and the loss is
the negative evidence lower bound of a logit-Laplace likelihood and a uniform prior.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mimjax.backbones import sizes
from mimjax.reductions import place_of_largest
from mimjax.tokenizers import codebook, dvae


def cosine(step: Array, start: float, end: float, steps: int) -> Float[Array, ""]:
    """From `start` to `end` along half a cosine over `steps` updates."""
    done = jnp.clip(step / max(1, steps), 0.0, 1.0)
    return end + (start - end) * 0.5 * (1 + jnp.cos(math.pi * done))


class Objective(nn.Module):
    """The temperature falls from 1 to `temperature`, the weight of KL rises from 0.

    Both along half a cosine, over `temperature_steps` and `kl_steps` updates; the
    defaults are the paper's, for 3,000,000 updates of 512 images of 256 x 256.
    """

    encoder: dvae.Encoder
    decoder_first: int = 128
    temperature: float = 1 / 16
    temperature_steps: int = 150_000
    kl_weight: float = 6.6
    kl_steps: int = 5_000

    panel_note = "the reconstruction is what the likeliest tokens alone say"
    draws_pixels = True
    any_size = True  # its parameters go with images of any size

    @nn.nowrap
    def problems(self) -> list[str]:
        """What cannot work, one line each."""
        found = []
        if not 1 <= self.decoder_first <= sizes.MOST_WIDTH:
            found.append(
                f"decoder_first: {self.decoder_first} must be from 1 to "
                f"{sizes.MOST_WIDTH}"
            )
        if not 0 < self.temperature <= 1:
            found.append(f"temperature: {self.temperature} must be in (0, 1]")
        for name in ("temperature_steps", "kl_weight", "kl_steps"):
            if getattr(self, name) < 0:
                found.append(f"{name}: {getattr(self, name)} must not be negative")
        return found

    @property
    def num_codes(self) -> int:
        """Size of the vocabulary."""
        return self.encoder.num_codes

    def setup(self) -> None:
        encoder = self.encoder
        self.decoder = dvae.Decoder(
            grid=encoder.grid,
            channels=encoder.channels,
            width=encoder.width,
            groups=encoder.groups,
            blocks=encoder.blocks,
            first_width=self.decoder_first,
            dtype=encoder.dtype,
        )

    def __call__(
        self, batch: dict[str, Array], *, train: bool
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        logits = self.encoder.logits(batch["image"])
        ids = place_of_largest(logits)
        weight = self.kl_weight
        if train:
            steps = self.temperature_steps
            heat = cosine(batch["step"], 1.0, self.temperature, steps)
            weight = cosine(batch["step"], 0.0, self.kl_weight, self.kl_steps)
            noise = jax.random.gumbel(self.make_rng("drop"), logits.shape)
            mixed = jax.nn.softmax((logits + noise) / heat)
        else:
            mixed = jax.nn.one_hot(ids, self.num_codes)
        known = self.decoder(mixed)
        kl = self.divergence(logits)
        loss = self.reconstruction(batch["image"], known) + weight * kl
        metrics = {
            "kl": kl,
            "mse": jnp.square(self.pixels(known) - batch["image"]).mean(),
            **codebook.usage(ids, self.num_codes),
        }
        return loss, metrics

    def divergence(self, logits: Float[Array, "B N V"]) -> Float[Array, ""]:
        """KL to the uniform prior, of all tokens of an image, over its values.

        The paper divides the whole bound by the values of an image, so that a token
        weighs 1 / 192 of its divergence at 8 x 8 pixels of 3 channels.
        """
        log = jax.nn.log_softmax(logits)
        each = (jnp.exp(log) * log).sum(axis=-1) + math.log(self.num_codes)
        return each.mean() / self.encoder.patch_values

    def reconstruction(
        self, image: Float[Array, "B H W C"], known: Float[Array, "B H W K"]
    ) -> Float[Array, ""]:
        """Mean negative log-likelihood of pixels, logit-Laplace (appendix A.3).

        `known` holds the means and then the logarithms of the widths.
        """
        mean, log_width = jnp.split(known, 2, axis=-1)
        value = dvae.map_pixels(image)
        logit = jnp.log(value) - jnp.log1p(-value)
        volume = jnp.log(value) + jnp.log1p(-value)
        distance = jnp.abs(logit - mean) * jnp.exp(-log_width)
        return (math.log(2.0) + log_width + volume + distance).mean()

    def pixels(self, known: Float[Array, "B H W K"]) -> Float[Array, "B H W C"]:
        """The image that means stand for, from 0 to 1."""
        return dvae.unmap_pixels(jax.nn.sigmoid(jnp.split(known, 2, axis=-1)[0]))

    def tokens(self, image: Float[Array, "B H W C"]) -> Int[Array, "B N"]:
        """The likeliest token of each place."""
        return place_of_largest(self.encoder.logits(image))

    def decode(self, ids: Int[Array, "B N"]) -> Float[Array, "B H W C"]:
        """The image, from 0 to 1, that tokens stand for."""
        return self.pixels(self.decoder(jax.nn.one_hot(ids, self.num_codes)))

    def panels(self, batch: dict[str, Array]) -> dict[str, Array]:
        """Original and reconstruction."""
        image = batch["image"]
        return {"original": image, "reconstruction": self.decode(self.tokens(image))}
