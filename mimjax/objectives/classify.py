"""Supervised classification, the original vision transformer's own objective.

Dosovitskiy et al., arXiv 2010.11929; official code google-research/vision_transformer
`models_vit.py`: class token or mean of all tokens after the last norm, an optional tanh
layer (the paper's pre-training head; the released weights of AugReg have none), a
linear head that starts at zero (behind Swin from a normal of 0.02, as all its layers
do), softmax cross-entropy. Fine-tuned MAE, BEiT and SimMIM average the patches before
the last norm and normalise the mean: facebookresearch/mae `models_vit.py` and
microsoft/unilm beit `modeling_finetune.py` (`fc_norm`). They, and Swin from the start,
are trained on erased and blended images and smoothed labels.
"""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mimjax import mixing
from mimjax.backbones import hybrid, layers, sizes, starts, swin, vit

POOLS = ("token", "gap", "mean")

# More is a slip of the keyboard.
MOST_CLASSES = 2**24


def count_problems(num_classes: int, most: int = MOST_CLASSES) -> list[str]:
    """What cannot work in a number of classes, one line."""
    if 2 <= num_classes <= most:
        return []
    return [f"num_classes: {num_classes} must be from 2 to {most}"]


def scored(
    logits: Float[Array, "B V"],
    label: Int[Array, " B"],
    target: Float[Array, "B V"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Loss and accuracy of scores; a label of -1 is no class and adds nothing.

    The `target` are chances, where not the label's.
    """
    if target is None:
        target = jax.nn.one_hot(label, logits.shape[-1])
    losses = optax.softmax_cross_entropy(logits, target)
    return losses.mean(), {"accuracy": (logits.argmax(axis=-1) == label).mean()}


class Objective(nn.Module):
    """A classifier; `representation` is the width of the tanh layer, 0 for none.

    `pool` says what the head sees: the class "token" or the mean of all tokens ("gap"),
    both after the encoder's last norm, or the "mean" of the patches alone, before that
    norm and through one of its own, `fc_norm`. The head starts from a normal of
    `head_std`, or as said above where that is 0.

    In training alone: `mixup` and `cutmix` are the parameters of the Beta distribution
    by which images are blended in pairs, `smoothing` is the share of the target that
    all classes have alike, `erasing` the probability that a rectangle of an image is
    noise. The accuracy is then that of the label that most of an image is of.
    """

    encoder: vit.Encoder | swin.Encoder | hybrid.Encoder
    num_classes: int = 1000
    pool: str = "token"
    representation: int = 0
    head_std: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    smoothing: float = 0.0
    erasing: float = 0.0

    @property
    def in_pairs(self) -> bool:
        """Whether images are blended in pairs, so that a batch has to be even."""
        return self.mixup > 0 or self.cutmix > 0

    @nn.nowrap
    def problems(self) -> list[str]:
        """What cannot work, one line each."""
        found = []
        if self.pool not in POOLS:
            found.append(f"pool: {self.pool!r} is none of {', '.join(POOLS)}")
        if self.pool == "token" and not self.encoder.cls:
            found.append(
                "pool: 'token' needs config.encoder.cls=True (or use 'gap' or 'mean')"
            )
        if self.pool == "gap" and self.encoder.cls:
            found.append(
                "pool: 'gap' is for encoders with config.encoder.cls=False (or use "
                "'mean')"
            )
        if self.pool == "gap" and self.encoder.registers:
            found.append(
                "pool: 'gap' is the mean of all tokens, but config.encoder.registers "
                "are of no place in the image (must be 0, or use 'mean')"
            )
        found += count_problems(self.num_classes)
        if not 0 <= self.representation <= sizes.MOST_WIDTH:
            found.append(
                f"representation: {self.representation} must be 0 (none) or a width, "
                f"at most {sizes.MOST_WIDTH}"
            )
        for name in ("head_std", "mixup", "cutmix"):
            if getattr(self, name) < 0:
                found.append(f"{name}: {getattr(self, name)} must not be negative")
        if not 0 <= self.smoothing < 1:
            found.append(f"smoothing: {self.smoothing} must be in [0, 1)")
        if not 0 <= self.erasing <= 1:
            found.append(f"erasing: {self.erasing} must be a probability from 0 to 1")
        return found

    def setup(self) -> None:
        if self.pool == "mean":
            self.fc_norm = layers.LayerNorm(self.encoder.norm_eps, "float32")
        if self.representation:
            self.pre_logits = nn.Dense(self.representation, dtype=jnp.float32)
        start = nn.initializers.zeros
        if self.head_std:
            start = nn.initializers.normal(self.head_std)
        elif isinstance(self.encoder, swin.Encoder):
            start = starts.STARTS["swin"].dense
        self.head = nn.Dense(self.num_classes, kernel_init=start, dtype=jnp.float32)

    def __call__(
        self, batch: dict[str, Array], *, train: bool
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        image, label = batch["image"], batch["label"]
        exact = jax.nn.one_hot(label, self.num_classes)
        target = optax.smooth_labels(exact, self.smoothing * train)
        if train and self.erasing:
            image = mixing.erased(self.make_rng("mix"), image, self.erasing)
        if train and self.in_pairs:
            key, size = self.make_rng("mix"), self.encoder.image_size
            kept, share = mixing.draw(key, size, self.mixup, self.cutmix)
            image = mixing.blended(image, kept)
            target = mixing.blended(target, share)
            label = jnp.where(share < 0.5, label[::-1], label)
        return scored(self.logits(image, train=train), label, target)

    def logits(
        self, image: Float[Array, "B H W C"], *, train: bool = False
    ) -> Float[Array, "B V"]:
        """Scores of the classes, float32."""
        x = self.pooled(image, train=train)
        if self.representation:
            x = jnp.tanh(self.pre_logits(x))
        return self.head(x)

    def pooled(
        self, image: Float[Array, "B H W C"], *, train: bool
    ) -> Float[Array, "B D"]:
        """What the head sees of an image, float32."""
        tokens = self.encoder.embed(image)
        if self.pool == "mean":
            x, _ = self.encoder.run(tokens, train=train)
            if self.is_initializing():
                # Unused, but the encoder has the same tree whatever trains it.
                self.encoder.norm(x)
            x = self.encoder.patch_tokens(x).astype(jnp.float32)
            return self.fc_norm(x.mean(axis=1))
        x = self.encoder(tokens, train=train).astype(jnp.float32)
        return x[:, 0] if self.pool == "token" else x.mean(axis=1)
