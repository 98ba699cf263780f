"""A linear classifier of what a frozen encoder gives for an image.

As MAE is probed (He et al., arXiv 2111.06377, appendix A; facebookresearch/mae
`main_linprobe.py`: the class token after the last norm, a batch norm without scale and
bias, a dense layer), BEiT (arXiv 2106.08254, appendix D: mean of the patches of a layer
in the middle) and DINO (arXiv 2104.14294; facebookresearch/dino `eval_linear.py`: class
tokens of the last four layers, or class token and mean of the patches of the last). The
dense layer starts from a normal of 0.01, as in both codes.

It is a probe where the encoder stays as it is: config.optim.frozen=('encoder',).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mimjax.backbones import hybrid, sizes, vit
from mimjax.objectives import MOVING, classify

POOLS = ("cls", "mean", "cls_mean")


class BatchNorm(nn.Module):
    """Batch norm without scale and bias over all axes but the last, float32.

    In training by the batch as a whole (officially each GPU's part of it), or by each
    part of it that `optim.accumulate` makes, which moves the running statistics every
    time. These, which stand in otherwise, take the unbiased variance. `eps` is that of
    MAE's probe and of AIM's, the share `momentum` that a batch has in the running
    statistics is PyTorch's default.
    """

    width: int
    eps: float = 1e-6
    momentum: float = 0.1

    def setup(self) -> None:
        self.mean = self.variable(MOVING, "mean", jnp.zeros, (self.width,))
        self.variance = self.variable(MOVING, "variance", jnp.ones, (self.width,))

    def __call__(self, x: Float[Array, "... D"], *, train: bool) -> Array:
        if not train:
            mean, variance = self.mean.value, self.variance.value
            return (x - mean) * jax.lax.rsqrt(variance + self.eps)
        axes = tuple(range(x.ndim - 1))
        mean = x.mean(axis=axes)
        variance = jnp.square(x - mean).mean(axis=axes)
        # A caller that may not change anything, as in evaluation, is not to be moved.
        if self.is_mutable_collection(MOVING):
            count = x.size // self.width
            unbiased = variance * count / max(1, count - 1)
            self.mean.value += self.momentum * (mean - self.mean.value)
            self.variance.value += self.momentum * (unbiased - self.variance.value)
        return (x - mean) * jax.lax.rsqrt(variance + self.eps)


class Objective(nn.Module):
    """What `pool` says is read of each of the `layers`, and put one behind another.

    `pool` is "cls" (the class token), the "mean" of the patches, or "cls_mean", both.
    `layers` count from 1, or from -1 back from the last; each goes through the
    encoder's last norm where `last_norm` says so. `batch_norm` is a norm of what is put
    together, without scale and bias. The encoder is used as in evaluation, without
    dropout.
    """

    encoder: vit.Encoder | hybrid.Encoder
    num_classes: int = 1000
    pool: str = "cls"
    layers: tuple[int, ...] = (-1,)
    last_norm: bool = True
    batch_norm: bool = True

    encoder_note = "linear reads layers of one width"

    @nn.nowrap
    def problems(self) -> list[str]:
        """What cannot work, one line each."""
        widths = self.encoder.layer_widths
        found = sizes.layer_problems(widths, self.layers, needed=True)
        if self.pool not in POOLS:
            found.append(f"pool: {self.pool!r} is none of {', '.join(POOLS)}")
        elif self.pool != "mean" and not self.encoder.cls:
            found.append(
                f"pool: {self.pool!r} needs config.encoder.cls=True (or use 'mean')"
            )
        return found + classify.count_problems(self.num_classes)

    def setup(self) -> None:
        if self.batch_norm:
            parts = 2 if self.pool == "cls_mean" else 1
            width = self.encoder.width * len(self.layers) * parts
            self.norm = BatchNorm(width)
            nn.share_scope(self, self.norm)
        start = nn.initializers.normal(0.01)
        self.head = nn.Dense(self.num_classes, kernel_init=start, dtype=jnp.float32)

    def __call__(
        self, batch: dict[str, Array], *, train: bool
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        logits = self.logits(batch["image"], train=train)
        return classify.scored(logits, batch["label"])

    def logits(
        self, image: Float[Array, "B H W C"], *, train: bool = False
    ) -> Float[Array, "B V"]:
        """Scores of the classes, float32."""
        x = self.probed(image)
        return self.head(self.norm(x, train=train) if self.batch_norm else x)

    def probed(self, image: Float[Array, "B H W C"]) -> Float[Array, "B F"]:
        """What is read of the layers, float32."""
        encoder, found = self.encoder, []
        chosen = encoder.numbered(self.layers)
        last, layers = encoder.run(encoder.embed(image), chosen=chosen, apart=True)
        if self.is_initializing():
            # Maybe unused, but the encoder has the same tree whatever trains it.
            encoder.norm(last)
        for tokens in layers:
            x = encoder.norm(tokens) if self.last_norm else tokens
            x = x.astype(jnp.float32)
            if self.pool != "mean":
                found.append(x[:, 0])
            if self.pool != "cls":
                found.append(encoder.patch_tokens(x).mean(axis=1))
        return jnp.concatenate(found, axis=-1)
