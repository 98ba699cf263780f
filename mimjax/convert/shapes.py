"""What the shapes of weights say of a vision transformer."""

import math
import re
from typing import Any

import numpy as np

from mimjax import posembed
from mimjax.convert.names import Arrays

HEAD_WIDTH = 64
"""Of every ViT from Ti to L; H has 80 (arXiv 2010.11929, table 1)."""


def count(arrays: Arrays, prefix: str) -> int:
    """How many layers go by PREFIX.0., PREFIX.1., ..."""
    found = (re.match(re.escape(prefix) + r"\.(\d+)\.", name) for name in arrays)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def heads_of(width: int) -> int:
    """Heads of the named size that has this width."""
    return 16 if width == 1280 else max(1, width // HEAD_WIDTH)


def vit(arrays: Arrays, prefix: str = "", tokens: int = 0) -> dict[str, Any]:
    """Fields of an encoder under timm's names; of `tokens` patches, a square."""
    weight = arrays[f"{prefix}patch_embed.proj.weight"]
    width, channels, *patch = weight.shape
    grid = math.isqrt(tokens)
    return {
        "name": "vit",
        "width": width,
        "depth": count(arrays, f"{prefix}blocks"),
        "heads": heads_of(width),
        "mlp_ratio": arrays[f"{prefix}blocks.0.mlp.fc1.weight"].shape[0] / width,
        "channels": channels,
        "patch_size": tuple(patch),
        "image_size": tuple(grid * side for side in patch),
        "cls": f"{prefix}cls_token" in arrays,
    }


def index(encoder: Any) -> np.ndarray:
    """Which row of the relative table two tokens share, int64 as PyTorch keeps it."""
    return np.asarray(posembed.relative_index(encoder.grid, encoder.cls), np.int64)
