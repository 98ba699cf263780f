"""Masked patch prediction, the ViT paper's first try at self-supervision.

Dosovitskiy et al., arXiv 2010.11929, section 4.6 and appendix B.1.2. The code was never
published: what the paper leaves open (the order of colours, how a mean is rounded,
which patch is "random", the scale of pixels) is decided here and said where it is.
"""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mimjax import masking, patches
from mimjax.backbones import layers, starts, vit
from mimjax.reductions import place_of_largest

# Levels of a colour channel: three bits.
LEVELS = 8
TARGETS = ("colour", "colours", "pixels")
# Fields of a patch each way that "colours" predicts.
FIELDS = 4
MOST_CLASSES = 2**15


class Objective(nn.Module):
    """Half of the embeddings are corrupted, and what was there is predicted.

    Of a share `corrupted` of the patches `masked` become the [mask] embedding, `random`
    that of another patch of the image, and the rest stays. `target` is the mean
    "colour" of a patch in three bits a channel (512 classes), the "colours" of 4 x 4
    fields of it, or its "pixels" from 0 to 1 by squared error.
    """

    encoder: vit.Encoder
    corrupted: float = 0.5
    masked: float = 0.8
    random: float = 0.1
    target: str = "colour"

    panel_note = "corrupted: masked patches are grey, others are of elsewhere or stay"
    draws_pixels = True
    encoder_note = "mpp corrupts the embeddings of patches"

    @property
    def num_corrupted(self) -> int:
        """Patches of an image that are corrupted."""
        return round(self.encoder.num_tokens * self.corrupted)

    @property
    def fields(self) -> int:
        """Fields of a patch each way that a colour is predicted for."""
        return FIELDS if self.target == "colours" else 1

    @nn.nowrap
    def problems(self) -> list[str]:
        """What cannot work, one line each."""
        found, encoder = [], self.encoder
        if self.target not in TARGETS:
            found.append(f"target: {self.target!r} is none of {', '.join(TARGETS)}")
        if not 0 < self.num_corrupted <= encoder.num_tokens:
            found.append(
                f"corrupted: {self.corrupted} corrupts {self.num_corrupted} of the "
                f"{encoder.num_tokens} patches that image_size and patch_size make"
            )
        for name in ("masked", "random"):
            if not 0 <= getattr(self, name) <= 1:
                found.append(f"{name}: {getattr(self, name)} must be from 0 to 1")
        if not found and self.masked + self.random > 1 + 1e-9:
            found.append(
                f"masked: {self.masked} and random {self.random} are more than 1"
            )
        if self.target != "pixels" and LEVELS**encoder.channels > MOST_CLASSES:
            found.append(
                f"target: {self.target!r} of {encoder.channels} channels "
                "(config.encoder.channels) has too many classes; use 'pixels'"
            )
        if self.target == "colours" and any(p % FIELDS for p in encoder.patch_size):
            found.append(
                f"target: 'colours' needs a patch_size that {FIELDS} divides, not "
                f"{encoder.patch_size}"
            )
        return found

    def setup(self) -> None:
        encoder = self.encoder
        start = starts.STARTS[encoder.start]
        shape = (1, 1, encoder.width)
        self.mask_token = starts.param(self, "mask_token", start.position, shape)
        classes = self.fields**2 * LEVELS**encoder.channels
        # As ViT's own head, which starts at zero: every class is as likely.
        self.head = layers.Dense(
            (encoder.patch_values if self.target == "pixels" else classes,),
            kernel_init=nn.initializers.zeros,
            dtype=encoder.dtype,
            rounds=False,
        )

    def __call__(
        self, batch: dict[str, Array], *, train: bool
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        ids, kind, other = self.draw(batch["image"].shape[0])
        predicted = self.predict(batch["image"], ids, kind, other, train=train)
        if self.target == "pixels":
            return self.loss(batch["pixels"], predicted, ids), {}
        right = place_of_largest(predicted) == self.classes(batch["pixels"], ids)
        loss = self.loss(batch["pixels"], predicted, ids)
        return loss, {"accuracy": right.mean()}

    def draw(
        self, batch: int
    ) -> tuple[Int[Array, "B M"], Float[Array, "B M"], Int[Array, "B M"]]:
        """Corrupted patches, a number in [0, 1) that says how, and others' ids."""
        key, num_tokens = self.make_rng("mask"), self.encoder.num_tokens
        which, how, whose = (jax.random.fold_in(key, i) for i in range(3))
        ids = masking.random_order(which, batch, num_tokens)[:, : self.num_corrupted]
        kind = jax.random.uniform(how, ids.shape)
        # Another one: at least one place further round.
        step = jax.random.randint(whose, ids.shape, 1, max(2, num_tokens))
        return ids, kind, (ids + step) % num_tokens

    def predict(
        self,
        image: Float[Array, "B H W C"],
        ids: Int[Array, "B M"],
        kind: Float[Array, "B M"],
        other: Int[Array, "B M"],
        *,
        train: bool = False,
    ) -> Float[Array, "B M *s"]:
        """At every corrupted patch pixels [P], or scores [F, V] of F fields."""
        tokens = self.encoder.embed(image)
        swapped = masking.take(tokens, other)
        put = patches.masked(swapped, kind < self.masked, self.mask_token)
        stays = kind >= self.masked + self.random
        put = jnp.where(stays[:, :, None], masking.take(tokens, ids), put)
        rows = jnp.arange(len(ids))[:, None]
        tokens = tokens.at[rows, ids].set(put)
        x = self.encoder.patch_tokens(self.encoder(tokens, train=train))
        predicted = self.head(masking.take(x, ids))
        if self.target == "pixels":
            return predicted
        return predicted.reshape(*ids.shape, self.fields**2, -1)

    def classes(
        self, pixels: Float[Array, "B H W C"], ids: Int[Array, "B M"]
    ) -> Int[Array, "B M F"]:
        """The colour classes of the fields of patches, row by row.

        A mean m of pixels from 0 to 1 has the level min(floor(8 m), 7), and the class
        of red, green and blue is 64 R + 8 G + B.
        """
        values = masking.take(patches.patchify(pixels, self.encoder.patch_size), ids)
        (p, q), n = self.encoder.patch_size, self.fields
        cut = values.reshape(*ids.shape, n, p // n, n, q // n, self.encoder.channels)
        mean = cut.mean(axis=(3, 5)).reshape(*ids.shape, n * n, -1)
        level = jnp.clip(jnp.floor(LEVELS * mean), 0, LEVELS - 1).astype(jnp.int32)
        weights = LEVELS ** jnp.arange(self.encoder.channels)[::-1]
        return (level * weights).sum(axis=-1)

    def loss(
        self,
        pixels: Float[Array, "B H W C"],
        predicted: Float[Array, "B M *s"],
        ids: Int[Array, "B M"],
    ) -> Float[Array, ""]:
        """Cross-entropy, or squared error, over the corrupted patches."""
        return self.losses(pixels, predicted, ids).mean()

    def losses(
        self,
        pixels: Float[Array, "B H W C"],
        predicted: Float[Array, "B M *s"],
        ids: Int[Array, "B M"],
    ) -> Float[Array, "B M x"]:
        """Cross-entropies of the fields, or squared errors of the values, of each."""
        if self.target == "pixels":
            target = patches.patchify(pixels, self.encoder.patch_size)
            return jnp.square(predicted - masking.take(target, ids))
        classes = self.classes(pixels, ids)
        return optax.softmax_cross_entropy_with_integer_labels(predicted, classes)

    def patch_losses(self, batch: dict[str, Array]) -> Float[Array, "B N"]:
        """The loss of every corrupted patch."""
        pixels = batch["pixels"]
        ids, kind, other = self.draw(len(pixels))
        predicted = self.predict(batch["image"], ids, kind, other)
        losses = self.losses(pixels, predicted, ids).mean(axis=-1)
        every = jnp.ones(ids.shape, bool)
        return masking.placed(losses, ids, every, self.encoder.num_tokens)

    def panels(self, batch: dict[str, Array]) -> dict[str, Array]:
        """Original, what became of it, and with predictions in corrupted places."""
        pixels, (p, q) = batch["pixels"], self.encoder.patch_size
        ids, kind, other = self.draw(len(pixels))
        predicted = self.predict(batch["image"], ids, kind, other)
        values = patches.patchify(pixels, (p, q))
        rows, kind = jnp.arange(len(ids))[:, None], kind[:, :, None]
        put = jnp.where(kind < self.masked, 0.5, masking.take(values, other))
        stays = kind >= self.masked + self.random
        put = jnp.where(stays, masking.take(values, ids), put)
        if self.target != "pixels":
            predicted = self.colours(predicted.argmax(axis=-1))
        shown = {
            "original": values,
            "corrupted": values.at[rows, ids].set(put),
            "predicted": values.at[rows, ids].set(predicted),
        }
        size = (self.encoder.image_size, (p, q))
        return {name: patches.unpatchify(x, *size) for name, x in shown.items()}

    def colours(self, classes: Int[Array, "B M F"]) -> Float[Array, "B M P"]:
        """Patches of the middle of each class's colour."""
        (p, q), n = self.encoder.patch_size, self.fields
        weights = LEVELS ** jnp.arange(self.encoder.channels)[::-1]
        level = classes[..., None] // weights % LEVELS
        value = ((level + 0.5) / LEVELS).reshape(*classes.shape[:2], n, n, -1)
        value = value.repeat(p // n, axis=2).repeat(q // n, axis=3)
        return value.reshape(*classes.shape[:2], -1)
