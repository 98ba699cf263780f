"""How a vision transformer is called in the code of others, and its table of names."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from mimjax.convert.names import (
    COPY,
    TRANSPOSED,
    Entry,
    kernel,
    patch_kernel,
    reshaped,
    stacked_bias,
    stacked_kernel,
)


@dataclasses.dataclass(frozen=True)
class Layer:
    """Names inside a layer; `qkv` are three where they are apart, in this order."""

    norm1: str = "norm1"
    qkv: tuple[str, ...] = ("attn.qkv",)
    # Of query and value alone, where keys have no bias.
    qv_bias: tuple[str, str] = ("attn.q_bias", "attn.v_bias")
    out: str = "attn.proj"
    norm2: str = "norm2"
    mlp: tuple[str, str] = ("mlp.fc1", "mlp.fc2")
    scales: tuple[str, str] = ("gamma_1", "gamma_2")
    table: str = "attn.relative_position_bias_table"


@dataclasses.dataclass(frozen=True)
class Vit:
    """Names of a vision transformer; "{}" stands for the number of a layer.

    timm's are the default.
    """

    layer: Layer = Layer()
    patch: str = "patch_embed.proj"
    patch_norm: str = "patch_embed.norm"
    cls: str = "cls_token"
    position: str = "pos_embed"
    registers: str = "register_tokens"
    table: str = "rel_pos_bias.relative_position_bias_table"
    blocks: str = "blocks.{}"
    norm: str = "norm"


TIMM = Vit()


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


def attention(
    ours: str, theirs: str, spec: Any, count: int, names: Layer
) -> Iterator[Entry]:
    """Attention of a `layers.Spec`."""
    width, heads = spec.width, (spec.heads, spec.width // spec.heads)
    parts = [f"{theirs}.{name}" for name in names.qkv]
    weights = tuple(f"{part}.weight" for part in parts)
    biases = tuple(f"{part}.bias" for part in parts)
    if len(parts) == 1:
        whole = kernel((width, 3, *heads), (3 * width, width))
        bias = reshaped((3, *heads), (3 * width,))
        qv = tuple(f"{theirs}.{name}" for name in names.qv_bias)
    else:
        whole, bias = stacked_kernel(heads), stacked_bias(heads)
        qv = (biases[0], biases[2])
    yield Entry(f"{ours}/qkv/kernel", weights, whole, count)
    if spec.qkv_bias == "all":
        yield Entry(f"{ours}/qkv/bias", biases, bias, count)
    if spec.qkv_bias == "qv":
        for name, other in zip(("q_bias", "v_bias"), qv, strict=True):
            yield Entry(f"{ours}/{name}", (other,), reshaped(heads, (width,)), count)
    rule = kernel((*heads, width), (width, width))
    yield Entry(f"{ours}/out/kernel", (f"{theirs}.{names.out}.weight",), rule, count)
    if spec.bias:
        yield Entry(f"{ours}/out/bias", (f"{theirs}.{names.out}.bias",), COPY, count)


def layers(
    ours: str,
    theirs: str,
    spec: Any,
    count: int,
    names: Layer = TIMM.layer,
    tables: bool = False,
) -> Iterator[Entry]:
    """All layers of a stack; `tables` says that each has its own of positions."""
    up, down = (f"{theirs}.{name}" for name in names.mlp)
    yield from norm(f"{ours}/norm1", f"{theirs}.{names.norm1}", count)
    yield from attention(f"{ours}/attn", theirs, spec, count, names)
    yield from norm(f"{ours}/norm2", f"{theirs}.{names.norm2}", count)
    yield from linear(f"{ours}/mlp/up", up, count, spec.bias)
    yield from linear(f"{ours}/mlp/down", down, count, spec.bias)
    if spec.layer_scale:
        for name, other in zip(("scale1", "scale2"), names.scales, strict=True):
            yield Entry(f"{ours}/{name}", (f"{theirs}.{other}",), COPY, count)
    if tables:
        yield Entry(f"{ours}/relative_table", (f"{theirs}.{names.table}",), COPY, count)


def vit(
    encoder: Any, prefix: str = "", names: Vit = TIMM, normed: bool = True
) -> Iterator[Entry]:
    """The encoder of an objective; `normed` says that they have its last norm."""
    spec = encoder.spec(encoder.width, encoder.heads)
    yield from patch("encoder/patch", prefix + names.patch, encoder)
    if encoder.patch_norm:
        yield from norm("encoder/patch_scale", prefix + names.patch_norm)
    if encoder.cls:
        yield Entry("encoder/cls_token", (prefix + names.cls,), COPY)
    if encoder.registers:
        yield Entry("encoder/register_tokens", (prefix + names.registers,), COPY)
    if encoder.position == "learned":
        yield Entry("encoder/pos_embed", (prefix + names.position,), COPY)
    if encoder.position == "relative":
        yield Entry("encoder/relative_table", (prefix + names.table,), COPY)
    own = encoder.position == "relative_layers"
    stack = ("encoder/blocks/layers", prefix + names.blocks)
    yield from layers(*stack, spec, encoder.depth, names.layer, own)
    if normed:
        yield from norm("encoder/norm", prefix + names.norm)


# What timm's plain vision transformer is and no field of it can change.
PLAIN: dict[str, tuple[Any, ...]] = {
    "position": ("sincos", "learned"),
    "qkv_bias": ("all",),
    "bias": (True,),
    "patch_norm": (False,),
    "layer_scale": (0.0,),
    "registers": (0,),
    "swiglu": (False,),
    "gelu_tanh": (False,),
    "norm_eps": (1e-6,),
    "cls": (True,),
}


def fields(**changes: tuple[Any, ...] | None) -> dict[str, tuple[Any, ...]]:
    """PLAIN with other values; None where any will do."""
    found = {**PLAIN, **changes}
    return {name: allowed for name, allowed in found.items() if allowed is not None}


def mlp_ratio(widths: Sequence[int], ratio: float) -> float:
    """The ratio of a library that cuts off fractions where we round, for our MLPs.

    0 where none is right for layers of all these widths.
    """
    ours = [round(width * ratio) for width in widths]
    tries = (ratio, *((n + 0.5) / w for n, w in zip(ours, widths, strict=True)))
    fits = (x for x in tries if [int(w * x) for w in widths] == ours)
    return next(fits, 0.0)


def misfit(
    objective: Any,
    encoders: tuple[str, ...],
    objectives: tuple[str, ...] = (),
    fields: Any = PLAIN,
) -> str:
    """Why a layout cannot hold it: another encoder, objective or field; or nothing.

    `encoders` and `objectives` are those it is for, no objectives being all; `fields`
    says which values the encoder's may have.
    """
    kinds = [(objective.encoder, "encoder", encoders)]
    kinds += [(objective, "objective", objectives)] if objectives else []
    for module, what, allowed in kinds:
        name = kind_of(module)
        if name not in allowed:
            return f"{what}.name: {name} is not {' or '.join(allowed)}"
    for field, allowed in fields.items():
        value = getattr(objective.encoder, field)
        if value not in allowed:
            wanted = " or ".join(map(str, allowed))
            return f"encoder.{field}: {value} is not {wanted}"
    return ""


def oblong(objective: Any, *fields: str) -> str:
    """Why sizes cannot be told, if one of the encoder's is no square."""
    for field in fields:
        height, width = getattr(objective.encoder, field)
        if height != width:
            return f"encoder.{field}: {height} x {width} is no square"
    return ""


def mispooled(objective: Any, *allowed: str) -> str:
    """Why a classifier's head sees another mean than theirs, if it does."""
    pool = pool_of(objective)
    wanted = " or ".join(allowed)
    return "" if pool in allowed else f"objective.pool: {pool} is not {wanted}"


def pool_of(objective: Any) -> str:
    """That of a classifier; elsewhere, where its head is not written, of the tokens.

    The field of this name of other objectives has another meaning.
    """
    if kind_of(objective) == "classify":
        return objective.pool
    return "token" if objective.encoder.cls else "gap"


def head_of(objective: Any) -> str:
    """The kind of an objective by its head; "" of a classifier of no classes."""
    kind = kind_of(objective)
    return "" if kind == "classify" and not objective.num_classes else kind


def kind_of(module: Any) -> str:
    """The name of an encoder or of an objective in a config."""
    return type(module).__module__.rpartition(".")[2]
