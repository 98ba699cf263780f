"""The vision transformer encoder (arXiv 2010.11929) and the variants its kin need.

One class covers ViT, MAE, AIM, DINOv2 and the ViT of BEiT and SimMIM: they differ in
the position table, in which biases exist, in LayerScale, registers and the MLP, and in
how weights start.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mimjax import backbones, masking, posembed
from mimjax.backbones import blocks, layers, relative, sizes, starts
from mimjax.sharding import by_sample

# Width, depth, heads. Ti to H: arXiv 2010.11929 table 1 and official
# `configs/models.py`; AIM: arXiv 2401.08541 table 1 (heads are 128 wide); g: DINOv2,
# arXiv 2304.07193, with `swiglu` and an `mlp_ratio` of 8/3.
SIZES: dict[str, dict[str, Any]] = {
    name: dict(zip(("width", "depth", "heads"), numbers, strict=True))
    for name, numbers in {
        "Ti": (192, 12, 3),
        "S": (384, 12, 6),
        "B": (768, 12, 12),
        "L": (1024, 24, 16),
        "H": (1280, 32, 16),
        "g": (1536, 40, 24),
        "AIM-600M": (1536, 24, 12),
        "AIM-1B": (2048, 24, 16),
        "AIM-3B": (3072, 24, 24),
        "AIM-7B": (4096, 32, 32),
    }.items()
}


# The fields of `layers.Spec` that an encoder has too.
SHARED = ("qkv_bias", "bias", "layer_scale", "norm_eps", "gelu_tanh", "swiglu")
SHARED += ("dropout", "attention", "float8", "dtype")


def problems(fields: dict[str, Any]) -> list[str]:
    """What cannot work among the fields of an encoder, one line each.

    A line names every field that it depends on.
    """
    width, ratio = fields["width"], fields["mlp_ratio"]
    found = sizes.stack_problems(width, fields["depth"], fields["heads"], ratio)
    if not found and fields["position"] == "sincos" and width % 4:
        found.append(f"width: {width} must be a multiple of 4 for position 'sincos'")
    choices = {
        "position": ("sincos", "learned", "relative", "relative_layers", "none"),
        "qkv_bias": ("all", "qv", "none"),
        "start": tuple(starts.STARTS),
    }
    for name, allowed in choices.items():
        if fields[name] not in allowed:
            found.append(f"{name}: {fields[name]!r} is none of {', '.join(allowed)}")
    if fields["layer_scale"] < 0:
        found.append(f"layer_scale: {fields['layer_scale']} must not be negative")
    found += sizes.register_problems(fields["registers"], fields["position"])
    found += sizes.field_problems(fields)
    return found + sizes.grid_problems(fields["image_size"], fields["patch_size"])


class Encoder(nn.Module, backbones.Patched):
    """Images to tokens. Height and width of image and patch are free, so are channels.

    `cls` puts a class token first, and `registers` are how many tokens without a place
    follow it (arXiv 2309.16588, DINOv2). `position` is "sincos" (fixed, MAE and AIM),
    "learned" (ViT), "relative" (one bias table shared by all layers, BEiT and SimMIM),
    "relative_layers" (a table a layer, BEiT when fine-tuned) or "none". `patch_norm`
    normalises the patch embedding (AIM). `mlp_ratio` is the width inside an MLP, with
    `swiglu` of what is gated, over `width`. `start` names the row of `starts.STARTS`
    the weights start from; the other fields are those of `layers.Spec` and `Blocks`.
    `dtype` is that of matrix products and of what flows between layers (as in vit_jax;
    under PyTorch's autocast the sums of the residual stream stay float32); parameters,
    norm statistics, scores and softmax are float32. `unroll` 0 leaves it to the
    program: one layer on TPU or with `remat`, else all.
    """

    image_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, int] = (16, 16)
    channels: int = 3
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    cls: bool = True
    registers: int = 0
    position: str = "sincos"
    qkv_bias: str = "all"
    bias: bool = True
    patch_norm: bool = False
    layer_scale: float = 0.0
    norm_eps: float = 1e-6
    gelu_tanh: bool = False
    swiglu: bool = False
    dropout: float = 0.0
    drop_path: float = 0.0
    start: str = "mae"
    remat: str = "none"
    unroll: int = 0
    attention: str = "xla"
    float8: bool = False
    dtype: str = "float32"

    @property
    def layer_widths(self) -> tuple[int, ...]:
        """Width of a token coming out of each layer."""
        return (self.width,) * self.depth

    @property
    def out_width(self) -> int:
        """Width of a token coming out."""
        return self.width

    @property
    def is_relative(self) -> bool:
        """Whether positions are those of pairs, so that no patch can be left out."""
        return self.position in ("relative", "relative_layers")

    @property
    def block(self) -> type[layers.Block]:
        """The kind of the layers."""
        own_table = self.position == "relative_layers"
        return relative.Block if own_table else layers.Block

    def spec(self, width: int, heads: int) -> layers.Spec:
        """Layers of any width computed as the layers of this encoder are."""
        spec = layers.Spec(
            width=width,
            heads=heads,
            mlp_width=round(width * self.mlp_ratio),
            start=starts.STARTS[self.start],
            **{name: getattr(self, name) for name in SHARED},
        )
        if self.position == "relative_layers":
            return relative.Spec(**vars(spec), grid=self.grid, cls=self.cls)
        return spec

    def setup(self) -> None:
        start = starts.STARTS[self.start]
        self.patch = layers.Dense(
            (self.width,),
            kernel_init=start.patch,
            bias_init=start.patch_bias(self.patch_values),
            dtype=self.dtype,
        )
        if self.patch_norm:
            self.patch_scale = layers.LayerNorm(self.norm_eps, self.dtype)
        if self.cls:
            shape = (1, 1, self.width)
            self.cls_token = starts.param(self, "cls_token", start.cls, shape)
        if self.registers:
            tiny = nn.initializers.normal(1e-6)  # as DINOv2's start
            shape = (1, self.registers, self.width)
            self.register_tokens = starts.param(self, "register_tokens", tiny, shape)
        if self.position == "learned":
            shape = (1, self.num_tokens + self.cls, self.width)
            self.pos_embed = starts.param(self, "pos_embed", start.position, shape)
        if self.position == "relative":
            shape = (posembed.relative_rows(self.grid, self.cls), self.heads)
            zeros = nn.initializers.zeros
            self.relative_table = starts.param(self, "relative_table", zeros, shape)
        spec = self.spec(self.width, self.heads)
        self.drop = layers.dropout(spec)
        self.blocks = blocks.Blocks(
            spec, self.depth, (0.0, self.drop_path), self.remat, self.unroll, self.block
        )
        self.norm = layers.LayerNorm(self.norm_eps, self.dtype)

    def embed(
        self, image: Float[Array, "B H W C"], ids: Int[Array, "B K"] | None = None
    ) -> Float[Array, "B K D"]:
        """Patch embeddings of the patches `ids` (default: all), without positions."""
        values = self.values(image)
        if ids is not None:
            # Pixels are gathered, not embeddings: no gradient flows through the gather,
            # and the hidden patches are never multiplied.
            values = masking.take(values, ids)
        tokens = by_sample(self.patch(values))
        return self.patch_scale(tokens) if self.patch_norm else tokens

    def __call__(
        self,
        tokens: Float[Array, "B K D"],
        ids: Int[Array, "B K"] | None = None,
        *,
        attn_mask: masking.AttnMask = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        """Tokens through all layers and the last norm; T = num_prefix + K.

        `ids` says which patches the tokens are (default: all, in order); `attn_mask` is
        for encoders without a class token and registers.
        """
        x, _ = self.run(tokens, ids, attn_mask=attn_mask, train=train)
        return self.norm(x)

    def run(
        self,
        tokens: Float[Array, "B K D"],
        ids: Int[Array, "B K"] | None = None,
        *,
        attn_mask: masking.AttnMask = None,
        train: bool = False,
        chosen: tuple[int, ...] = (),
        apart: bool = False,
    ) -> tuple[Float[Array, "B T D"], Any]:
        """The input of the last norm; the mean of layers `chosen`, or each `apart`."""
        if self.is_relative and ids is not None:
            raise ValueError("a relative position table needs all patches in order")
        x = self.drop(self.add_positions(tokens, ids), deterministic=not train)
        bias = self.attn_bias()
        return self.blocks(x, attn_mask, bias, train=train, chosen=chosen, apart=apart)

    def attn_bias(self) -> Float[Array, "1 A T T"] | None:
        """What every layer adds to its scores, where they share a table."""
        if self.position != "relative":
            return None
        return relative.added(self.relative_table, self.grid, self.cls)

    def add_positions(
        self, tokens: Float[Array, "B K D"], ids: Int[Array, "B K"] | None
    ) -> Float[Array, "B T D"]:
        """Adds the positions; puts the class token and registers in front."""
        table, cls_place = None, 0.0
        if self.position == "sincos":
            table = jnp.asarray(posembed.sincos_2d(self.grid, self.width))
        elif self.position == "learned":
            table = self.pos_embed[0, self.cls :]
            cls_place = self.pos_embed[:, :1] if self.cls else 0.0
        x = tokens
        if table is not None:
            # In float32, as its gradient is then summed up.
            rows = jnp.broadcast_to(table, x.shape) if ids is None else table[ids]
            x = x + rows.astype(self.dtype)
        front = [self.cls_token + cls_place] if self.cls else []
        front += [self.register_tokens] if self.registers else []
        if front:
            front = [jnp.broadcast_to(y, (x.shape[0], *y.shape[1:])) for y in front]
            x = jnp.concatenate([*(y.astype(self.dtype) for y in front), x], axis=1)
        return x.astype(self.dtype)
