"""A table of names: our parameters, theirs, and how one becomes the other.

A table is a list of `Entry`, made for one model, and is read in both directions. The
rules only move numbers about, so nothing is lost either way. Tensor shapes are those of
PyTorch: a linear layer's weight is [out, in], a convolution's [out, in, rows, columns].
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Rule:
    """How arrays of theirs become one of ours, and back."""

    take: Callable[..., np.ndarray]
    give: Callable[[np.ndarray], tuple[np.ndarray, ...]]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One parameter of ours and what holds it there.

    Attributes:
        ours: its path, such as "encoder/blocks/layers/mlp/up/kernel".
        theirs: their names; with `layers`, "{}" stands for the number of the layer.
        rule: from `theirs` to `ours`.
        layers: length of the leading axis of ours; 0 where there is none.
    """

    ours: str
    theirs: tuple[str, ...]
    rule: Rule
    layers: int = 0

    def names(self) -> list[str]:
        """All names of theirs that it needs."""
        numbers = range(self.layers or 1)
        return [name.format(i) for i in numbers for name in self.theirs]

    def read(self, arrays: Arrays) -> np.ndarray:
        """Our parameter from their arrays, a copy, filled a layer at a time."""
        parts = (
            self.rule.take(*(arrays[name.format(i)] for name in self.theirs))
            for i in range(self.layers or 1)
        )
        first = next(parts)
        if not self.layers:
            return np.array(first, order="C")
        whole = np.empty((self.layers, *first.shape), first.dtype)
        whole[0] = first
        for i, part in enumerate(parts, 1):
            whole[i] = part
        return whole

    def write(self, ours: np.ndarray) -> dict[str, np.ndarray]:
        """Their arrays from our parameter."""
        return {
            name.format(i): np.ascontiguousarray(array)
            for i, part in enumerate(ours if self.layers else [ours])
            for name, array in zip(self.theirs, self.rule.give(part), strict=True)
        }


COPY = Rule(lambda x: x, lambda x: (x,))
TRANSPOSED = Rule(lambda x: x.T, lambda x: (x.T,))
# BEiT's one table for all layers, in timm too.
RELATIVE_TABLE = "rel_pos_bias.relative_position_bias_table"


def reshaped(ours: tuple[int, ...], theirs: tuple[int, ...]) -> Rule:
    """The same numbers in the same order."""
    return Rule(lambda x: x.reshape(ours), lambda x: (x.reshape(theirs),))


def kernel(ours: tuple[int, ...], theirs: tuple[int, int]) -> Rule:
    """A linear layer's weight; our axes may be cut into heads and their widths."""
    return Rule(
        lambda weight: weight.T.reshape(ours),
        lambda x: (x.reshape(theirs[::-1]).T,),
    )


def patch_kernel(patch: tuple[int, int], channels: int) -> Rule:
    """A convolution over whole patches; ours is dense on (row, column, channel)."""
    return Rule(
        lambda weight: weight.transpose(2, 3, 1, 0).reshape(-1, len(weight)),
        lambda x: (x.reshape(*patch, channels, -1).transpose(3, 2, 0, 1),),
    )


def shuffle_kernel(side: int) -> Rule:
    """A 1 x 1 convolution before a pixel shuffle; our columns are a patch's values."""

    def take(weight: np.ndarray) -> np.ndarray:
        cut = weight.reshape(-1, side, side, weight.shape[1])
        return cut.transpose(3, 1, 2, 0).reshape(weight.shape[1], -1)

    def give(x: np.ndarray) -> tuple[np.ndarray]:
        cut = x.reshape(len(x), side, side, -1).transpose(3, 1, 2, 0)
        return (cut.reshape(-1, len(x), 1, 1),)

    return Rule(take, give)


def shuffle_bias(side: int) -> Rule:
    """The bias of such a convolution."""
    return Rule(
        lambda bias: bias.reshape(-1, side, side).transpose(1, 2, 0).reshape(-1),
        lambda x: (x.reshape(side, side, -1).transpose(2, 0, 1).reshape(-1),),
    )


def norm(ours: str, theirs: str, count: int = 0) -> Iterator[Entry]:
    """Scale and bias of a norm."""
    for name, other in (("scale", "weight"), ("bias", "bias")):
        yield Entry(f"{ours}/{name}", (f"{theirs}.{other}",), COPY, count)


def linear(
    ours: str, theirs: str, count: int = 0, bias: bool = True
) -> Iterator[Entry]:
    """Kernel and bias of a linear layer."""
    yield Entry(f"{ours}/kernel", (f"{theirs}.weight",), TRANSPOSED, count)
    if bias:
        yield Entry(f"{ours}/bias", (f"{theirs}.bias",), COPY, count)


def patch(ours: str, theirs: str, encoder: Any) -> Iterator[Entry]:
    """The patch embedding."""
    rule = patch_kernel(encoder.patch_size, encoder.channels)
    yield Entry(f"{ours}/kernel", (f"{theirs}.weight",), rule)
    yield Entry(f"{ours}/bias", (f"{theirs}.bias",), COPY)


def attention(ours: str, theirs: str, spec: Any, count: int) -> Iterator[Entry]:
    """Attention of a `layers.Spec`; query, key and value share one weight."""
    width, heads = spec.width, (spec.heads, spec.width // spec.heads)
    rule = kernel((width, 3, *heads), (3 * width, width))
    yield Entry(f"{ours}/qkv/kernel", (f"{theirs}.qkv.weight",), rule, count)
    if spec.qkv_bias == "all":
        rule = reshaped((3, *heads), (3 * width,))
        yield Entry(f"{ours}/qkv/bias", (f"{theirs}.qkv.bias",), rule, count)
    if spec.qkv_bias == "qv":
        for name in ("q_bias", "v_bias"):
            rule = reshaped(heads, (width,))
            yield Entry(f"{ours}/{name}", (f"{theirs}.{name}",), rule, count)
    rule = kernel((*heads, width), (width, width))
    yield Entry(f"{ours}/out/kernel", (f"{theirs}.proj.weight",), rule, count)
    if spec.bias:
        yield Entry(f"{ours}/out/bias", (f"{theirs}.proj.bias",), COPY, count)


def layers(ours: str, theirs: str, spec: Any, count: int) -> Iterator[Entry]:
    """All layers of a stack; `theirs` holds "{}" for the number of one."""
    yield from norm(f"{ours}/norm1", f"{theirs}.norm1", count)
    yield from attention(f"{ours}/attn", f"{theirs}.attn", spec, count)
    yield from norm(f"{ours}/norm2", f"{theirs}.norm2", count)
    yield from linear(f"{ours}/mlp/up", f"{theirs}.mlp.fc1", count, spec.bias)
    yield from linear(f"{ours}/mlp/down", f"{theirs}.mlp.fc2", count, spec.bias)
    if spec.layer_scale:
        for name, other in (("scale1", "gamma_1"), ("scale2", "gamma_2")):
            yield Entry(f"{ours}/{name}", (f"{theirs}.{other}",), COPY, count)


def vit_encoder(encoder: Any, prefix: str = "") -> Iterator[Entry]:
    """A vision transformer under the names of timm, below "encoder"."""
    spec = encoder.spec(encoder.width, encoder.heads)
    yield from patch("encoder/patch", f"{prefix}patch_embed.proj", encoder)
    if encoder.cls:
        yield Entry("encoder/cls_token", (f"{prefix}cls_token",), COPY)
    if encoder.position == "learned":
        yield Entry("encoder/pos_embed", (f"{prefix}pos_embed",), COPY)
    if encoder.position == "relative":
        yield Entry("encoder/relative_table", (prefix + RELATIVE_TABLE,), COPY)
    stack = ("encoder/blocks/layers", f"{prefix}blocks.{{}}")
    yield from layers(*stack, spec, encoder.depth)
    yield from norm("encoder/norm", f"{prefix}norm")
