"""Images at another size: by Pillow or, without antialiasing, by TensorFlow."""

from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mimjax.data import Data

# So many times as long as the crop is what is resized for it, at most: far more than
# any filter reaches.
LONGEST = 16


def resize(
    image: UInt8[np.ndarray, "h w C"],
    size: tuple[int, int],
    interpolation: str,
    antialias: bool,
) -> UInt8[np.ndarray, "H W C"]:
    """Resize to (H, W); with `antialias` bit for bit what Pillow does."""
    if image.shape[:2] == size:
        return image
    if not antialias:
        from mimjax.data.quiet import tf

        smooth = interpolation == "bicubic"
        kernel: Any = tf.raw_ops.ResizeBicubic if smooth else tf.raw_ops.ResizeBilinear
        floats = kernel(images=image[None], size=size, half_pixel_centers=True)
        return np.clip(np.rint(floats.numpy()[0]), 0, 255).astype(np.uint8)
    resampling = Image.Resampling[interpolation.upper()]
    grey = image.shape[2] == 1
    picture = Image.fromarray(image[..., 0] if grey else image)
    resized = np.asarray(picture.resize((size[1], size[0]), resampling))
    return resized[..., None] if grey else resized


def centre(
    image: UInt8[np.ndarray, "h w C"], size: tuple[int, int], data: Data
) -> UInt8[np.ndarray, "H W C"]:
    """A held-out image: the shorter side at 256/224 of the size, then the centre.

    Bicubic however training images are resized, as all official evaluations are (BEiT
    and DINO train their probes on bilinear ones); but for vit_jax, which antialiases
    nothing.
    """
    how = "bicubic" if data.antialias else data.interpolation
    return _middle(image, size, how, data.antialias)


def _middle(
    image: UInt8[np.ndarray, "h w C"],
    size: tuple[int, int],
    interpolation: str,
    antialias: bool,
) -> UInt8[np.ndarray, "H W C"]:
    """The centre, sides and place rounded as torchvision's Resize and CenterCrop do."""
    (height, width), (h, w) = size, image.shape[:2]
    tall, wide = height * 256 // 224, width * 256 // 224
    # Of a long strip the middle: all of it, enlarged, may be more than memory holds.
    top = max(0, h - LONGEST * (tall * w // wide + 1)) // 2
    left = max(0, w - LONGEST * (wide * h // tall + 1)) // 2
    image = image[top : h - top, left : w - left]
    h, w = image.shape[:2]
    whole = (tall, w * tall // h) if tall * w >= wide * h else (h * wide // w, wide)
    image = resize(image, whole, interpolation, antialias)
    top, left = round((whole[0] - height) / 2), round((whole[1] - width) / 2)
    return image[top : top + height, left : left + width]


def nearest(
    mask: UInt8[np.ndarray, "h w"], size: tuple[int, int]
) -> UInt8[np.ndarray, "H W"]:
    """A mask at another size: every pixel is what lies under its middle."""
    return resize(mask[..., None], size, "nearest", antialias=True)[..., 0]


def centre_of_mask(
    mask: UInt8[np.ndarray, "h w"], size: tuple[int, int]
) -> UInt8[np.ndarray, "H W"]:
    """What `centre` shows of the image of a mask."""
    return _middle(mask[..., None], size, "nearest", True)[..., 0]


def second_view(
    image: UInt8[np.ndarray, "H W C"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w C"]:
    """The image at another size, by Lanczos as BEiT's tokenizer sees it.

    arXiv 2106.08254, official `datasets.py`.
    """
    return resize(image, size, "lanczos", antialias=True)


def second_views(
    images: UInt8[np.ndarray, "n H W C"], size: tuple[int, int]
) -> UInt8[np.ndarray, "n h w C"]:
    """Held-out images at the size of the second view."""
    views = [second_view(image, size) for image in images]
    return np.stack(views) if views else np.zeros((0, *size, images.shape[3]), np.uint8)
