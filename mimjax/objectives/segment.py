"""Linear segmentation probe: what every pixel shows, from frozen patches.

Oquab et al., DINOv2, arXiv 2304.07193, section 7.4; official code
facebookresearch/dinov2 `eval/segmentation/models/decode_heads/linear_head.py` (BNHead)
on the head, loss and mean IoU of mmsegmentation: a batch norm, here without its scale
and bias, a linear layer on every patch, its scores interpolated between patches to the
size of the image, softmax cross-entropy on every pixel.

It is a probe where the encoder stays as it is: config.optim.frozen=('encoder',).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, UInt8

from mimjax.backbones import hybrid, sizes, swin, vit
from mimjax.objectives import IGNORED, classify, linear

EPS = 1e-5  # of the batch norm, PyTorch's default
# How many pixels show each class and are said to show it, how many of them rightly.
COUNTS = ("both", "true", "predicted")


class Objective(nn.Module):
    """`layers` are those whose mean is probed, from 1 or back from -1.

    None are the default, DINOv2's linear probe: what the last norm gives. With
    `ignore_zero` a mask says nothing where it is 0, and n means class n - 1: so masks
    of ADE20K, which has 150 classes, are read by everyone. The encoder is used as in
    evaluation, without dropout.
    """

    encoder: vit.Encoder | swin.Encoder | hybrid.Encoder
    num_classes: int = 150
    layers: tuple[int, ...] = ()
    ignore_zero: bool = False

    draws_pixels = True
    panel_note = "A colour is a class; where the mask is white nothing is said."

    @property
    def mask_values(self) -> int:
        """How many classes a mask may name."""
        return self.num_classes + self.ignore_zero

    @nn.nowrap
    def problems(self) -> list[str]:
        """What cannot work, one line each."""
        found = sizes.layer_problems(self.encoder.layer_widths, self.layers)
        most = IGNORED - self.ignore_zero
        return found + classify.count_problems(self.num_classes, most)

    def setup(self) -> None:
        widths = self.encoder.layer_widths
        chosen = [widths[layer - (layer > 0)] for layer in self.layers]
        width = [*chosen, self.encoder.out_width][0]
        self.norm = linear.BatchNorm(width, EPS)
        nn.share_scope(self, self.norm)
        # mmsegmentation's start of `conv_seg`.
        normal = nn.initializers.normal(0.01)
        self.head = nn.Dense(self.num_classes, kernel_init=normal, dtype=jnp.float32)

    def __call__(
        self, batch: dict[str, Array], *, train: bool
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        logits = self.pixel_scores(batch["image"], train=train)
        target = self.target(batch["mask"])
        said = target >= 0
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits, jnp.where(said, target, 0)
        )
        # The mean is over all pixels, those of which nothing is said too.
        loss = jnp.where(said, losses, 0.0).mean()
        found = jnp.where(said, logits.argmax(axis=-1), -1)
        counts = [
            self.count(jnp.where(found == target, target, -1)),
            self.count(target),
            self.count(found),
        ]
        if train:
            return loss, scores(*counts)
        return loss, dict(zip(COUNTS, counts, strict=True))

    @nn.nowrap
    def summary(self, means: dict[str, Any]) -> dict[str, Any]:
        """Metrics of many batches from the means of what a call returns of each."""
        found = {name: x for name, x in means.items() if name not in COUNTS}
        return {**found, **scores(*(means[name] for name in COUNTS))}

    def target(self, mask: UInt8[Array, "B H W"]) -> Int[Array, "B H W"]:
        """The class of every pixel, -1 where nothing is said."""
        classes = mask.astype(jnp.int32) - self.ignore_zero
        return jnp.where(mask == IGNORED, -1, classes)

    def count(self, classes: Int[Array, "B H W"]) -> Int[Array, " V"]:
        """How many pixels are of each class."""
        each = classes[..., None] == jnp.arange(self.num_classes)
        return each.sum(axis=(0, 1, 2))

    def pixel_scores(
        self, image: Float[Array, "B H W C"], *, train: bool = False
    ) -> Float[Array, "B H W V"]:
        """Scores of the classes at every pixel, float32."""
        x = self.probed(image)
        x = self.head(self.norm(x, train=train))
        grid = self.encoder.grid_of(x.shape[1])
        x = x.reshape(x.shape[0], *grid, self.num_classes)
        return jax.image.resize(x, (*image.shape[:3], self.num_classes), "bilinear")

    def probed(self, image: Float[Array, "B H W C"]) -> Float[Array, "B N D"]:
        """What is probed of every patch, float32."""
        encoder = self.encoder
        chosen = encoder.numbered(self.layers)
        last, mean = encoder.run(encoder.embed(image), chosen=chosen)
        # Where the mean is probed the norm is unused, but the encoder has the same tree
        # whatever trains it.
        x = encoder.norm(last) if mean is None or self.is_initializing() else last
        return encoder.patch_tokens(x if mean is None else mean).astype(jnp.float32)

    def panels(self, batch: dict[str, Array]) -> dict[str, Array]:
        """The image, what it shows and what is found, in colours."""
        pixels = batch["pixels"]
        colours = jnp.asarray(palette(self.num_classes))
        found = self.pixel_scores(batch["image"]).argmax(axis=-1)
        if pixels.shape[-1] < 3:
            pixels = pixels[..., :1]
        image = jnp.broadcast_to(pixels[..., :3], (*pixels.shape[:3], 3))
        target = self.target(batch["mask"])
        return {"image": image, "mask": colours[target], "predicted": colours[found]}

    @nn.nowrap
    def legend(self, panels: Mapping[str, np.ndarray]) -> dict[int, tuple[int, ...]]:
        """The colours of the classes in the columns, by their numbers in a mask."""
        mixed = np.stack([panels["mask"], panels["predicted"]])
        colours, shown = (
            np.rint(255 * x).astype(np.int32)
            for x in (palette(self.num_classes)[:-1], mixed)
        )
        one = np.array([1 << 16, 1 << 8, 1])  # number a colour
        there = np.flatnonzero(np.isin(colours @ one, shown @ one))
        return {int(n) + self.ignore_zero: tuple(colours[n].tolist()) for n in there}


def scores(both: Any, true: Any, predicted: Any) -> dict[str, Any]:
    """Mean intersection over union, of the classes that are there, and accuracy.

    The three are counts of pixels of each class [V]; classes neither shown nor found
    are left out.
    """
    union = true + predicted - both
    miou = share(share(both, union).sum(), (union > 0).sum())
    return {"miou": miou, "pixel_accuracy": share(both.sum(), true.sum())}


def share(part: Any, whole: Any) -> Any:
    """The quotient; nothing of nothing is 0."""
    return part / (whole + (whole == 0))


def palette(num_classes: int) -> Float[np.ndarray, "n 3"]:
    """Colours of the classes from 0 to 1, and white, which is the last.

    Those of PASCAL VOC: the bits of a class in turn are the highest bits of red, green,
    blue.
    """
    classes = np.arange(num_classes)[:, None]
    colours = np.zeros((num_classes, 3), np.int64)
    for place in range(3):
        bits = classes >> (3 * place + np.arange(3)) & 1
        colours |= bits << (7 - place)
    return np.concatenate([colours, [[255] * 3]]).astype(np.float32) / 255
