"""Images as rows of patches, and the targets computed from them.

Patches are ordered row by row; inside a patch the pixel row is slowest, then the pixel
column, then the channel (MAE, arXiv 2111.06377, official code `patchify`). A dense
layer on these rows is therefore the same map as a convolution with kernel = stride =
patch.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8


def grid_of(
    image_size: tuple[int, int], patch_size: tuple[int, int]
) -> tuple[int, int]:
    """The (rows, columns) of patches of an image; raises if they do not divide."""
    for side, patch in zip(image_size, patch_size, strict=True):
        if patch < 1 or side % patch:
            raise ValueError(f"a patch of {patch} does not divide a side of {side}")
    return image_size[0] // patch_size[0], image_size[1] // patch_size[1]


def masked(
    tokens: Float[Array, "B N D"],
    hidden: Bool[Array, "B N"],
    mask_token: Float[Array, "*s D"],
) -> Float[Array, "B N D"]:
    """The mask token in place of hidden ones, in the type of the tokens."""
    # In float32, as the gradient of the mask token is then summed up.
    put = jnp.where(hidden[:, :, None], mask_token, tokens)
    return put.astype(tokens.dtype)


def unit(image: UInt8[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Pixels 0..255 as 0 to 1."""
    return image.astype(jnp.float32) / 255.0


def normalise(
    image: UInt8[Array, "B H W C"], mean: np.ndarray, std: np.ndarray
) -> Float[Array, "B H W C"]:
    """Pixels 0..255 to zero mean and unit deviation; `mean`, `std`: white is 1."""
    return (unit(image) - jnp.asarray(mean, jnp.float32)) / jnp.asarray(
        std, jnp.float32
    )


def patchify(
    image: Float[Array, "B H W C"], patch_size: tuple[int, int]
) -> Float[Array, "B N P"]:
    """Cuts images into N patches of P = rows * columns * channels values."""
    B, H, W, C = image.shape
    rows, columns = grid_of((H, W), patch_size)
    p, q = patch_size
    blocks = image.reshape(B, rows, p, columns, q, C).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(B, rows * columns, p * q * C)


def unpatchify(
    patches: Float[Array, "B N P"],
    image_size: tuple[int, int],
    patch_size: tuple[int, int],
) -> Float[Array, "B H W C"]:
    """The inverse of `patchify`."""
    rows, columns = grid_of(image_size, patch_size)
    p, q = patch_size
    B, _, P = patches.shape
    C = P // (p * q)
    blocks = patches.reshape(B, rows, columns, p, q, C).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(B, *image_size, C)


def moments(
    patches: Float[Array, "B N P"],
) -> tuple[Float[Array, "B N 1"], Float[Array, "B N 1"]]:
    """Mean and deviation of each patch over all its P values, channels together.

    The variance has the divisor P-1 and 1e-6 is added under the root, as in the
    official code of MAE (`forward_loss`) and of AIM (arXiv 2401.08541,
    `RasterPixelLoss`).
    """
    mean = patches.mean(axis=-1, keepdims=True)
    variance = patches.var(axis=-1, keepdims=True, ddof=1)
    return mean, jnp.sqrt(variance + 1e-6)


def standardise(patches: Float[Array, "B N P"]) -> Float[Array, "B N P"]:
    """Each patch with its own mean removed and divided by its own deviation."""
    mean, deviation = moments(patches)
    return (patches - mean) / deviation
