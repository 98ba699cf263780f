"""The hybrid of the ViT paper: a ResNet first, the transformer on its last map.

Dosovitskiy et al., arXiv 2010.11929, section 3.1 and appendix B; official code
google-research/vision_transformer `models_resnet.py`, `models_vit.py`. Convolutions
have standardised weights and no biases, norms are over 32 groups of channels. A token
is made of all pixels that the convolutions see, so nothing can be hidden from it by
leaving out patches: it is for objectives that see whole images.
"""

import math
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from mimjax import patches
from mimjax.backbones import starts, vit
from mimjax.sharding import by_sample

# Official `configs/models.py`; a token stands for as many pixels as in the name.
SIZES: dict[str, dict[str, Any]] = {
    name: {"stages": stages, "stem_width": 64, "patch_size": patch, **vit.SIZES[size]}
    for name, stages, patch, size in [
        ("R26+S/32", (2, 2, 2, 2), (32, 32), "S"),
        ("R50+B/16", (3, 4, 9), (16, 16), "B"),
        ("R50+L/32", (3, 4, 6, 3), (32, 32), "L"),
    ]
}

GROUPS = 32  # of a norm
MOST_STAGES, MOST_UNITS = 6, 100


def stride_of(stages: tuple[int, ...]) -> int:
    """Pixels between places of the last map: the root makes 4, a later stage 2."""
    return 4 * 2 ** max(0, len(stages) - 1)


def width_of(stem_width: int, stages: tuple[int, ...]) -> int:
    """Channels of the last map; of the root's where there is no stage."""
    return stem_width * 4 * 2 ** (len(stages) - 1) if stages else stem_width


def problems(fields: dict[str, Any]) -> list[str]:
    """What cannot work among the fields of an encoder, one line each."""
    found, stages = [], fields["stages"]
    if len(stages) > MOST_STAGES or not all(1 <= n <= MOST_UNITS for n in stages):
        return [
            f"stages: {stages} must be at most {MOST_STAGES} numbers of units, each "
            f"from 1 to {MOST_UNITS}"
        ]
    if fields["stem_width"] < 1 or fields["stem_width"] % GROUPS:
        found.append(
            f"stem_width: {fields['stem_width']} must be a multiple of {GROUPS}"
        )
    stride = stride_of(stages)
    if any(side < 1 or side % stride for side in fields["patch_size"]):
        found.append(
            f"patch_size: {fields['patch_size']} must be multiples of {stride}, the "
            f"stride of {len(stages)} stages"
        )
    return found + vit.problems(fields)


class Conv(nn.Module):
    """A convolution whose kernel is standardised for each channel that comes out."""

    features: int
    kernel: int
    stride: int
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = starts.param(self, "kernel", nn.initializers.lecun_normal(), shape)
        # Of the whole kernel, and the constant is added to the deviation itself.
        kernel = kernel - kernel.mean(axis=(0, 1, 2))
        kernel = kernel / (kernel.std(axis=(0, 1, 2)) + 1e-5)
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (self.stride, self.stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class Unit(nn.Module):
    """x + three convolutions of it, the second with the stride, four times as wide."""

    width: int
    stride: int
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        def conv(features: int, kernel: int, stride: int, name: str) -> Conv:
            return Conv(features, kernel, stride, self.dtype, name=name)

        wide, y = 4 * self.width, x
        y = nn.relu(norm("norm1", self.dtype)(conv(self.width, 1, 1, "conv1")(y)))
        y = conv(self.width, 3, self.stride, "conv2")(y)
        y = nn.relu(norm("norm2", self.dtype)(y))
        y = conv(wide, 1, 1, "conv3")(y)
        y = norm("norm3", self.dtype, nn.initializers.zeros)(y)
        if x.shape[-1] != wide or self.stride != 1:
            x = conv(wide, 1, self.stride, "conv_skip")(x)
            x = norm("norm_skip", self.dtype)(x)
        return nn.relu(x + y)


def norm(name: str, dtype: str, scale: Any = nn.initializers.ones) -> nn.GroupNorm:
    """Over groups of channels, eps 1e-6."""
    return nn.GroupNorm(GROUPS, epsilon=1e-6, scale_init=scale, dtype=dtype, name=name)


class ResNet(nn.Module):
    """The root (7 x 7 and a pool, together a quarter) and stages of units."""

    width: int
    stages: tuple[int, ...]
    dtype: str

    @nn.compact
    def __call__(self, image: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        x = Conv(self.width, 7, 2, self.dtype, name="root")(image)
        x = nn.relu(norm("root_norm", self.dtype)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage, units in enumerate(self.stages):
            for unit in range(units):
                stride = 2 if stage and not unit else 1
                name = f"stage_{stage + 1}_unit_{unit + 1}"
                width = self.width * 2**stage
                x = by_sample(Unit(width, stride, self.dtype, name=name)(x))
        return x


class Encoder(vit.Encoder):
    """The vision transformer behind a ResNet of `stages`, each so many units.

    `stem_width` is that of the first convolution. `patch_size` are the pixels that a
    token stands for: the stride of the ResNet or a multiple.
    """

    patch_size: tuple[int, int] = (32, 32)
    stages: tuple[int, ...] = (2, 2, 2, 2)
    stem_width: int = 64

    def setup(self) -> None:
        super().setup()
        self.stem = ResNet(self.stem_width, self.stages, self.dtype)

    @property
    def places(self) -> tuple[int, int]:
        """Rows and columns of the last map that a token stands for."""
        stride = stride_of(self.stages)
        return self.patch_size[0] // stride, self.patch_size[1] // stride

    @property
    def patch_values(self) -> int:
        """Numbers of the last map that a token is made of."""
        return math.prod(self.places) * width_of(self.stem_width, self.stages)

    def values(self, image: Float[Array, "B H W C"]) -> Float[Array, "B N P"]:
        """These numbers of each token."""
        return patches.patchify(self.stem(image), self.places)
