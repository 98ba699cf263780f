"""The convolutional encoder and decoder of DALL-E's discrete VAE.

Ramesh et al., arXiv 2102.12092, section 2.1 and appendix A; official code
openai/DALL-E `encoder.py`, `decoder.py`, `utils.py`. Images are pixels from 0 to 1
(config.data.normalise="pixels"). No norm layers; a residual branch is scaled by one
over the square of the number of blocks.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mimjax import backbones
from mimjax.backbones import sizes, starts
from mimjax.reductions import wide
from mimjax.tokenizers import codebook

SIZES: dict[str, dict[str, Any]] = {
    "DALL-E": {"width": 256, "groups": 4, "blocks": 2, "num_codes": 8192}
}

# Pixels are moved away from 0 and 1, where the logit has no value (appendix A.3).
EDGE = 0.1

# Hidden channels of a block are a quarter of those that come out.
SQUEEZE = 4

MOST_GROUPS, MOST_BLOCKS, MOST_CODES = 8, 64, 2**20


def problems(fields: dict[str, Any]) -> list[str]:
    """What cannot work among the fields of an encoder, one line each."""
    found = []
    limits = {
        "width": (SQUEEZE, sizes.MOST_WIDTH),
        "groups": (1, MOST_GROUPS),
        "blocks": (1, MOST_BLOCKS),
        "num_codes": (2, MOST_CODES),
    }
    for name, (least, most) in limits.items():
        if not least <= fields[name] <= most:
            found.append(f"{name}: {fields[name]} must be from {least} to {most}")
    found += sizes.field_problems(fields)
    if not found:
        stride = 2 ** (fields["groups"] - 1)
        if any(side < 1 or side % stride for side in fields["image_size"]):
            found.append(
                f"image_size: {fields['image_size']} must be multiples of {stride}, "
                f"the pixels of a token with groups={fields['groups']}"
            )
    return found


def map_pixels(image: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Pixels from [0, 1] to [0.1, 0.9]."""
    return (1 - 2 * EDGE) * image + EDGE


def unmap_pixels(image: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The inverse of `map_pixels`, cut to [0, 1]."""
    return jnp.clip((image - EDGE) / (1 - 2 * EDGE), 0.0, 1.0)


class Convolution(nn.Module):
    """Stride 1 and zeros around; weights begin with deviation 1 / sqrt(fan in)."""

    features: int
    side: int
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W K"]:
        start = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        shape = self.side, self.side, x.shape[-1], self.features
        kernel = starts.param(self, "kernel", start, shape).astype(self.dtype)
        bias = starts.param(self, "bias", nn.initializers.zeros, (self.features,))
        axes = "NHWC", "HWIO", "NHWC"
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype), kernel, (1, 1), "SAME", dimension_numbers=axes
        )
        # In float32, as the gradient of the bias is then summed up.
        return (y + bias).astype(self.dtype)


class Block(nn.Module):
    """x + gain * four convolutions of relu(x); `kernels` are their sides."""

    features: int
    kernels: tuple[int, int, int, int]
    gain: float
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W D"]:
        y = x
        for number, kernel in enumerate(self.kernels, 1):
            last = number == len(self.kernels)
            features = self.features if last else self.features // SQUEEZE
            conv = Convolution(features, kernel, self.dtype, name=f"conv_{number}")
            y = conv(nn.relu(y))
        if x.shape[-1] != self.features:
            x = Convolution(self.features, 1, self.dtype, name="skip")(x)
        return x + self.gain * y


class Groups(nn.Module):
    """Groups of blocks of the `features` named, halving or doubling the grid between.

    What comes out of the last group is not halved or doubled any more.
    """

    features: tuple[int, ...]
    blocks: int
    kernels: tuple[int, int, int, int]
    doubles: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        gain = 1 / (len(self.features) * self.blocks) ** 2
        for group, features in enumerate(self.features, 1):
            for block in range(1, self.blocks + 1):
                name = f"group_{group}_block_{block}"
                x = Block(features, self.kernels, gain, self.dtype, name=name)(x)
            if group == len(self.features):
                break
            if self.doubles:
                x = wide(x).repeat(2, axis=1).repeat(2, axis=2).astype(x.dtype)
            else:
                x = nn.max_pool(x, (2, 2), (2, 2))
        return x


class Encoder(nn.Module, backbones.Patched):
    """Images to tokens, one for each square of 2^(groups - 1) pixels.

    `width` channels double from group to group. The image size does not matter to the
    weights. `dtype` is that of all convolutions but the last, which is float32.
    """

    image_size: tuple[int, int] = (256, 256)
    channels: int = 3
    width: int = 256
    groups: int = 4
    blocks: int = 2
    num_codes: int = 8192
    dtype: str = "float32"

    cls = False  # there is no class token
    takes_pixels = True
    # Nothing here is a scanned stack or cut by heads.
    remat, unroll = "none", 1

    @property
    def patch_size(self) -> tuple[int, int]:
        """The pixels, down and across, that a token stands for."""
        return (2 ** (self.groups - 1),) * 2

    @property
    def layer_widths(self) -> tuple[int, ...]:
        """No layer can be chosen for features."""
        return ()

    @property
    def out_width(self) -> int:
        """Width of a token before it is one of the vocabulary."""
        return self.width * 2 ** (self.groups - 1)

    def setup(self) -> None:
        self.input = Convolution(self.width, 7, self.dtype, name="input")
        features = tuple(self.width * 2**group for group in range(self.groups))
        kernels = (3, 3, 3, 1)
        self.body = Groups(features, self.blocks, kernels, False, self.dtype)
        self.output = Convolution(self.num_codes, 1, "float32", name="output")

    def embed(self, image: Float[Array, "B H W C"]) -> Float[Array, "B N D"]:
        """What the last block makes of an image, row by row."""
        x = self.body(self.input(map_pixels(image).astype(self.dtype)))
        return x.reshape(len(x), -1, x.shape[-1])

    def __call__(
        self, tokens: Float[Array, "B N D"], *, train: bool = False
    ) -> Float[Array, "B N D"]:
        """The last activation."""
        return nn.relu(tokens)

    def logits(self, image: Float[Array, "B H W C"]) -> Float[Array, "B N V"]:
        """Scores of the vocabulary at every place, float32."""
        x = self(self.embed(image)).astype(jnp.float32)
        # A 1 x 1 convolution over rows of one column.
        return self.output(x[:, :, None])[:, :, 0]

    def features(
        self,
        image: Float[Array, "B H W C"],
        pool: str = "mean",
        chosen: tuple[int, ...] = (),
    ) -> Float[Array, "B E"]:
        """As every encoder's and, by the `pool` "edges", what the tokens show of shape.

        That is the cosine of the output weights of the tokens of each place and its
        right neighbour, row by row, then of each and its lower one.
        """
        if pool != "edges":
            return super().features(image, pool, chosen)
        # A token names the colours of a place, and digits come in all colours: training
        # makes pooled activations or counts of tokens tell them worse or hardly better.
        # Which neighbours are alike is the drawing, as in the self-similarities of
        # Shechtman and Irani (CVPR 2007, doi 10.1109/CVPR.2007.383198).
        ids = self.logits(image).argmax(axis=-1)
        codes = codebook.unit(self.output.variables["params"]["kernel"][0, 0].T)
        x = codes[ids].reshape(-1, *self.grid, self.out_width)
        across = (x[:, :, :-1] * x[:, :, 1:]).sum(axis=-1)
        down = (x[:, :-1] * x[:, 1:]).sum(axis=-1)
        return jnp.concatenate([y.reshape(len(x), -1) for y in (across, down)], axis=1)


class Decoder(nn.Module):
    """Tokens to what is known of each pixel: mean and log-width of a distribution.

    The blocks are those of the encoder turned around; `width` channels come out of the
    last group and `first_width` of the first convolution (128 officially).
    """

    grid: tuple[int, int]
    channels: int
    width: int
    groups: int
    blocks: int
    first_width: int
    dtype: str

    @nn.compact
    def __call__(self, chance: Float[Array, "B N V"]) -> Float[Array, "B H W K"]:
        """`chance` is a distribution over the vocabulary at every place."""
        first = Convolution(self.first_width, 1, "float32", name="input")
        x = first(chance[:, :, None])
        x = x.reshape(len(x), *self.grid, -1).astype(self.dtype)
        features = tuple(self.width * 2**g for g in reversed(range(self.groups)))
        kernels = (1, 3, 3, 3)
        x = Groups(features, self.blocks, kernels, True, self.dtype, name="body")(x)
        last = Convolution(2 * self.channels, 1, self.dtype, name="output")
        return last(nn.relu(x)).astype(jnp.float32)
