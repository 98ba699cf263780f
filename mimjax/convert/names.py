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


def reshaped(ours: tuple[int, ...], theirs: tuple[int, ...]) -> Rule:
    """The same numbers in the same order."""
    return Rule(lambda x: x.reshape(ours), lambda x: (x.reshape(theirs),))


def kernel(ours: tuple[int, ...], theirs: tuple[int, int]) -> Rule:
    """A linear layer's weight; our axes may be cut into heads and their widths."""
    return Rule(
        lambda weight: weight.T.reshape(ours),
        lambda x: (x.reshape(theirs[::-1]).T,),
    )


def pieces(ours: tuple[int, ...], theirs: tuple[int, ...], count: int) -> Rule:
    """As `kernel` or `reshaped`, of query, key and value that they keep apart."""
    whole = (count * theirs[0], *theirs[1:])
    rule = kernel(ours, whole) if len(whole) == 2 else reshaped(ours, whole)
    return Rule(
        lambda *parts: rule.take(np.concatenate(parts)),
        lambda x: tuple(np.split(rule.give(x)[0], count)),
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


@dataclasses.dataclass(frozen=True)
class Layer:
    """Names inside a layer of theirs; the defaults are those of timm."""

    norm1: str = "norm1"
    qkv: tuple[str, ...] = ("attn.qkv",)
    out: str = "attn.proj"
    norm2: str = "norm2"
    up: str = "mlp.fc1"
    down: str = "mlp.fc2"
    scales: tuple[str, str] = ("gamma_1", "gamma_2")


TIMM = Layer()


def norm(ours: str, theirs: str, count: int = 0) -> Iterator[Entry]:
    """Scale and bias of a norm."""
    for name, other in (("scale", "weight"), ("bias", "bias")):
        yield Entry(f"{ours}/{name}", (f"{theirs}.{other}",), COPY, count)


def linear(
    ours: str, theirs: str, count: int = 0, bias: bool = True
) -> Iterator[Entry]:
    """Kernel and bias of a linear layer."""
    transposed = Rule(lambda weight: weight.T, lambda x: (x.T,))
    yield Entry(f"{ours}/kernel", (f"{theirs}.weight",), transposed, count)
    if bias:
        yield Entry(f"{ours}/bias", (f"{theirs}.bias",), COPY, count)


def patch(ours: str, theirs: str, encoder: Any) -> Iterator[Entry]:
    """The patch embedding."""
    rule = patch_kernel(encoder.patch_size, encoder.channels)
    yield Entry(f"{ours}/kernel", (f"{theirs}.weight",), rule)
    yield Entry(f"{ours}/bias", (f"{theirs}.bias",), COPY)


def attention(
    ours: str, theirs: str, spec: Any, names: Layer, count: int
) -> Iterator[Entry]:
    """Attention of a `layers.Spec`."""
    width, heads = spec.width, (spec.heads, spec.width // spec.heads)
    full = [f"{theirs}.{name}" for name in names.qkv]
    split = 3 // len(full)
    weights = tuple(f"{name}.weight" for name in full)
    rule = pieces((width, 3, *heads), (split * width, width), len(full))
    yield Entry(f"{ours}/qkv/kernel", weights, rule, count)
    if spec.qkv_bias == "all":
        biases = tuple(f"{name}.bias" for name in full)
        rule = pieces((3, *heads), (split * width,), len(full))
        yield Entry(f"{ours}/qkv/bias", biases, rule, count)
    if spec.qkv_bias == "qv":
        # Beside the joint weight, or as biases of the parts that have one.
        parent = full[0].rpartition(".")[0]
        apart = (f"{full[0]}.bias", f"{full[-1]}.bias")
        joint = (f"{parent}.q_bias", f"{parent}.v_bias")
        rule = reshaped(heads, (width,))
        for name, other in zip(
            ("q_bias", "v_bias"), joint if len(full) == 1 else apart, strict=True
        ):
            yield Entry(f"{ours}/{name}", (other,), rule, count)
    out, rule = f"{theirs}.{names.out}", kernel((*heads, width), (width, width))
    yield Entry(f"{ours}/out/kernel", (f"{out}.weight",), rule, count)
    if spec.bias:
        yield Entry(f"{ours}/out/bias", (f"{out}.bias",), COPY, count)


def layers(
    ours: str, theirs: str, spec: Any, names: Layer, count: int
) -> Iterator[Entry]:
    """All layers of a stack; `theirs` holds "{}" for the number of one."""
    yield from norm(f"{ours}/norm1", f"{theirs}.{names.norm1}", count)
    yield from attention(f"{ours}/attn", theirs, spec, names, count)
    yield from norm(f"{ours}/norm2", f"{theirs}.{names.norm2}", count)
    yield from linear(f"{ours}/mlp/up", f"{theirs}.{names.up}", count, spec.bias)
    yield from linear(f"{ours}/mlp/down", f"{theirs}.{names.down}", count, spec.bias)
    if spec.layer_scale:
        for name, other in zip(("scale1", "scale2"), names.scales, strict=True):
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
        table = f"{prefix}rel_pos_bias.relative_position_bias_table"
        yield Entry("encoder/relative_table", (table,), COPY)
    stack, theirs = "encoder/blocks/layers", f"{prefix}blocks.{{}}"
    yield from layers(stack, theirs, spec, TIMM, encoder.depth)
    yield from norm("encoder/norm", f"{prefix}norm")
