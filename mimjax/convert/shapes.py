"""What the names and shapes of weights say of a transformer."""

import math
import re
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from mimjax import posembed
from mimjax.backbones.vit import SIZES
from mimjax.convert import tables
from mimjax.convert.names import Arrays
from mimjax.convert.pickles import short
from mimjax.convert.schemes import TIMM, Vit

FIXED_ATOL = 1e-5
"""How far a sine-cosine table may be computed from ours, whose entries are up to 1."""


def count(arrays: Arrays, blocks: str) -> int:
    """How many layers go by the names of `blocks`, "{}" standing for the number."""
    pattern = re.escape(blocks).replace(r"\{\}", r"(\d+)") + r"\."
    found = (re.match(pattern, name) for name in arrays)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def heads_of(width: int, aim: bool = False) -> int:
    """Heads of the named size of this width, AIM's or another's; 0: there is none."""
    sizes = (size for name, size in SIZES.items() if name.startswith("AIM") == aim)
    return {size["width"]: size["heads"] for size in sizes}.get(width, 0)


def square(tokens: int) -> int:
    """The side of a grid of so many patches; ValueError where it is no square."""
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ValueError(f"positions of {tokens} are no square: say encoder.image_size")
    return side


def vit(
    arrays: Arrays,
    prefix: str = "",
    names: Vit = TIMM,
    said: Any = None,
    stride: int = 1,
) -> dict[str, Any]:
    """Fields of the encoder under these names.

    `said` is what a configuration beside the weights tells, by transformers' names;
    `stride` that of a ResNet before it.
    """
    arrays = {n.removeprefix(prefix): x for n, x in arrays.items()}
    said, block, layer = said or {}, names.blocks.format(0), names.layer
    width, channels, *patch = convolution(arrays, names.patch)
    up, down = (arrays[f"{block}.{name}.weight"] for name in layer.mlp)
    found = {
        "name": "vit",
        "width": width,
        "depth": count(arrays, names.blocks),
        "heads": said.get("num_attention_heads") or heads_of(width),
        "mlp_ratio": down.shape[1] / width,
        "swiglu": up.shape[0] == 2 * down.shape[1],
        "channels": channels,
        "patch_size": tuple(p * stride for p in patch),
        "patch_norm": f"{names.patch_norm}.weight" in arrays,
        "cls": names.cls in arrays,
        "registers": registers(arrays, names),
        "qkv_bias": qkv_bias(arrays, block, names),
        "bias": f"{block}.{layer.out}.bias" in arrays,
        # Where LayerScale started is not kept; that there is one decides.
        "layer_scale": 0.1 if f"{block}.{layer.scales[0]}" in arrays else 0.0,
        "norm_eps": said.get("layer_norm_eps", 1e-6),
        "gelu_tanh": gelu_tanh(said),
    }
    return {**found, **place(arrays, names, found, said)}


TANH = ("gelu_tanh", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")
"""The tanh approximation of GELU, by the names of timm and transformers."""


def gelu_tanh(said: dict[str, Any]) -> bool:
    """Whether its configuration tells that approximation; ValueError for another."""
    name = said.get("hidden_act", "gelu")
    if name not in ("gelu", *TANH):
        raise ValueError(f"its activation is {short(name)}, not gelu")
    return name != "gelu"


def convolution(arrays: Arrays, name: str) -> tuple[int, ...]:
    """Channels out of and into a convolution, and its sides."""
    shape = arrays[f"{name}.weight"].shape
    if len(shape) != 4:
        raise ValueError(f"{name}.weight of {shape} is no convolution")
    return shape


def registers(arrays: Arrays, names: Vit) -> int:
    """How many register tokens there are."""
    return arrays[names.registers].shape[1] if names.registers in arrays else 0


def qkv_bias(arrays: Arrays, block: str, names: Vit) -> str:
    """Which of query, key and value have a bias."""
    layer = names.layer
    if f"{block}.{layer.qv_bias[0]}" in arrays:
        return "qv"
    biases = [f"{block}.{part}.bias" in arrays for part in layer.qkv]
    return "all" if all(biases) else "qv" if any(biases) else "none"


def place(
    arrays: Arrays, names: Vit, found: dict[str, Any], said: dict[str, Any]
) -> dict[str, Any]:
    """How positions are told, and the image size that goes with the tables.

    That is a square, unless the size that is told goes with them, or they are fixed
    ones of another grid.
    """
    patch, size = found["patch_size"], sized(said.get("image_size"))
    own = f"{names.blocks.format(0)}.{names.layer.table}"
    for name, position in ((names.table, "relative"), (own, "relative_layers")):
        if name in arrays:
            rows, heads = arrays[name].shape
            # A row a distance of patches, and three of the class token.
            rows -= 3 * found["cls"]
            told = (size[0] // patch[0], size[1] // patch[1]) if size else (0, 0)
            if posembed.relative_rows(told, cls=False) != rows:
                told = ((square(rows) + 1) // 2,) * 2
            told = {"image_size": (told[0] * patch[0], told[1] * patch[1])}
            return {**told, "position": position, "heads": heads}
    if names.position not in arrays:
        return {"position": "none", **({"image_size": size} if size else {})}
    table = arrays[names.position][0]
    fixed = fixed_grid(table, found["cls"])
    grid = fixed or grid_of(len(table) - found["cls"], patch, said)
    size = grid[0] * patch[0], grid[1] * patch[1]
    return {"position": "sincos" if fixed else "learned", "image_size": size}


def grid_of(tokens: int, patch: Sequence[int], said: dict[str, Any]) -> tuple[int, int]:
    """Rows and columns of so many patches: as the size that is told, or a square."""
    size = sized(said.get("image_size"))
    if size and size[0] // patch[0] * (size[1] // patch[1]) == tokens:
        return size[0] // patch[0], size[1] // patch[1]
    side = square(tokens)
    return side, side


def sized(said: Any) -> tuple[int, int] | None:
    """Height and width of an image that a configuration tells."""
    if isinstance(said, int):
        return said, said
    return tuple(said) if isinstance(said, list) and len(said) == 2 else None


def fixed_grid(table: np.ndarray, cls: bool) -> tuple[int, int] | None:
    """Rows and columns of a fixed table of positions; None where it is another."""
    # They all begin alike.
    if not is_sincos(table[: 1 + cls], (1, 1), cls):
        return None
    count = len(table) - cls
    grids = ((n, count // n) for n in range(1, count + 1) if not count % n)
    return next((grid for grid in grids if is_sincos(table, grid, cls)), None)


def is_sincos(table: np.ndarray, grid: tuple[int, int], cls: bool) -> bool:
    """Whether a table of positions [T, D] is the fixed one of MAE and AIM."""
    if table.shape[1] % 4 or len(table) != grid[0] * grid[1] + cls:
        return False
    # Below 1 a type of few bits rounds by up to a quarter of its eps.
    atol = FIXED_ATOL + float(ml_dtypes.finfo(table.dtype).eps) / 4
    gap = np.abs(table - tables.sincos(grid, table.shape[1], cls))
    return bool(gap.max() < atol)


def index(encoder: Any) -> np.ndarray:
    """Which row of the relative table two tokens share, int64 as PyTorch keeps it."""
    return np.asarray(posembed.relative_index(encoder.grid, encoder.cls), np.int64)


def positions(encoder: Any, prefix: str = "", names: Vit = TIMM) -> dict[str, Any]:
    """The fixed table of positions by their name, where the encoder has it."""
    if encoder.position != "sincos":
        return {}
    table = tables.sincos(encoder.grid, encoder.width, encoder.cls)
    return {prefix + names.position: table[None]}


def indices(encoder: Any, prefix: str = "", names: Vit = TIMM) -> dict[str, Any]:
    """Their tables of distances by name, where the encoder has relative positions."""
    if not encoder.position.startswith("relative"):
        return {}
    name, count = names.table, 1
    if encoder.position == "relative_layers":
        name, count = f"{names.blocks}.{names.layer.table}", encoder.depth
    name = prefix + name.removesuffix("_bias_table") + "_index"
    return {name.format(i): index(encoder) for i in range(count)}


def hiding(encoder: dict[str, Any]) -> dict[str, int]:
    """BEiT's masks at another grid than 14 x 14, where 75 are hidden in blocks of 16.

    Files do not keep how much was hidden; the same shares are.
    """
    size, patch = encoder["image_size"], encoder["patch_size"]
    tokens = size[0] // patch[0] * (size[1] // patch[1])
    return {
        "num_hidden": max(1, 75 * tokens // 196),
        "min_block": max(1, 16 * tokens // 196),
    }


def cells(encoder: dict[str, Any], side: int) -> dict[str, int]:
    """SimMIM's cells of 32 pixels, or of tokens of `side` where there are too few."""
    many = all(n >= 64 and not n % 32 for n in encoder["image_size"])
    return {"mask_cell": 32 if many and not 32 % side else side}
