"""Official weights and gradients as parameter trees of this package.

Every rule only moves entries about, so what turns weights into parameters turns
gradients into gradients. A source reads arrays by their official names and remembers
which; `unread` then shows what a table of names has forgotten.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import parity_table

FOLDER = pathlib.Path(__file__).parent / "golden"


class Source:
    """Arrays by official name; `below` a prefix they go without it."""

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        prefix: str = "",
        unread: set[str] | None = None,
    ) -> None:
        self.arrays, self.prefix = dict(arrays), prefix
        self.unread = set(arrays) if unread is None else unread

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.arrays

    def __getitem__(self, name: str) -> np.ndarray:
        self.unread.discard(self.prefix + name)
        return np.asarray(self.arrays[self.prefix + name])

    def below(self, prefix: str) -> "Source":
        """The same arrays by the rest of their names."""
        return Source(self.arrays, self.prefix + prefix, self.unread)


@dataclasses.dataclass(frozen=True)
class Golden:
    """One file of tests/golden; `source` is whose code it is of, and where."""

    name: str
    source: str
    config: dict[str, Any]
    weights: Source
    grads: Source
    input: dict[str, np.ndarray]
    output: dict[str, np.ndarray]
    loss64: np.ndarray | None

    def compares(self, encoder: Any) -> None:
        """Says what a test compares, for the table of all comparisons."""
        repository = re.split(r"[ @]", self.source)[0]
        folder = re.search(r"folder ([\w-]+)", self.source)
        place = f"{repository}/{folder[1]}" if folder else repository
        parity_table.compares("official", f"{place}, `{self.name}`", encoder)


def load(name: str) -> Golden:
    """Reads tests/golden/NAME.npz."""
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}

    def group(head: str) -> dict[str, np.ndarray]:
        return {
            key.removeprefix(head): value
            for key, value in arrays.items()
            if key.startswith(head)
        }

    return Golden(
        name=name,
        source=str(arrays["source"]),
        config=json.loads(str(arrays["config"])),
        weights=Source(group("weights/")),
        grads=Source(group("grad/")),
        input=group("input/"),
        output=group("output/"),
        loss64=arrays.get("loss64"),
    )


def nhwc(images: np.ndarray) -> jax.Array:
    """Images of PyTorch code with the channels last."""
    return jnp.asarray(images.transpose(0, 2, 3, 1))


@dataclasses.dataclass(frozen=True)
class Layer:
    """Official names inside a layer; the defaults are those of timm."""

    norm1: str = "norm1"
    qkv: tuple[str, ...] = ("attn.qkv",)
    out: str = "attn.proj"
    norm2: str = "norm2"
    table: str = "attn.relative_position_bias_table"
    scales: tuple[str, str] = ("gamma_1", "gamma_2")


TIMM = Layer()
ML_AIM = Layer(norm1="norm_1", norm2="norm_2")
ML_L3M = Layer("norm_1", ("attn.q_proj", "attn.k_proj", "attn.v_proj"), norm2="norm_2")
HUGGING_FACE = Layer(
    "layernorm_before",
    ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "attention.o_proj",
    "layernorm_after",
    "attention.relative_position_bias.relative_position_bias_table",
    ("lambda_1", "lambda_2"),
)
HUGGING_FACE_DINO = Layer(
    "norm1",
    HUGGING_FACE.qkv,
    HUGGING_FACE.out,
    "norm2",
    scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
)
HUGGING_FACE_BEIT = dataclasses.replace(
    HUGGING_FACE, table="relative_position_bias.relative_position_bias_table"
)


def norm(source: Source, name: str) -> dict[str, np.ndarray]:
    return {"scale": source[f"{name}.weight"], "bias": source[f"{name}.bias"]}


def linear(source: Source, name: str) -> dict[str, np.ndarray]:
    tree = {"kernel": source[f"{name}.weight"].T}
    if f"{name}.bias" in source:
        tree["bias"] = source[f"{name}.bias"]
    return tree


def patch(source: Source, name: str) -> dict[str, np.ndarray]:
    """A convolution over patches; our rows are (pixel row, pixel column, channel)."""
    weight = source[f"{name}.weight"]
    kernel = weight.transpose(2, 3, 1, 0).reshape(-1, len(weight))
    return {"kernel": kernel, "bias": source[f"{name}.bias"]}


def attention(source: Source, prefix: str, names: Layer, heads: int) -> dict[str, Any]:
    full = [f"{prefix}.{name}" for name in names.qkv]
    weight = np.concatenate([source[f"{name}.weight"] for name in full])
    width = weight.shape[1]
    tree: dict[str, Any] = {}
    qkv = {"kernel": weight.T.reshape(width, 3, heads, -1)}
    if (
        len(full) == 3
        and f"{full[0]}.bias" in source
        and f"{full[1]}.bias" not in source
    ):
        biases = {"q_bias": full[0], "v_bias": full[2]}
        tree = {n: source[f"{t}.bias"].reshape(heads, -1) for n, t in biases.items()}
    elif f"{full[0]}.bias" in source:
        bias = np.concatenate([source[f"{name}.bias"] for name in full])
        qkv["bias"] = bias.reshape(3, heads, -1)
    out = linear(source, f"{prefix}.{names.out}")
    out["kernel"] = out["kernel"].reshape(heads, -1, width)
    tree |= {"qkv": qkv, "out": out}
    for name in ("q_bias", "v_bias"):
        if f"{prefix}.attn.{name}" in source:
            tree[name] = source[f"{prefix}.attn.{name}"].reshape(heads, -1)
    return tree


def mlp(source: Source, prefix: str) -> dict[str, Any]:
    """Two dense layers, or three of which the first gates the second."""
    if f"{prefix}.fc1.weight" in source:
        return {
            "up": linear(source, f"{prefix}.fc1"),
            "down": linear(source, f"{prefix}.fc2"),
        }
    halves = [linear(source, f"{prefix}.{name}_proj") for name in ("gate", "up")]
    up = {name: np.concatenate([x[name] for x in halves], -1) for name in halves[0]}
    return {"up": up, "down": linear(source, f"{prefix}.down_proj")}


def layer(source: Source, prefix: str, names: Layer, heads: int) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "norm1": norm(source, f"{prefix}.{names.norm1}"),
        "norm2": norm(source, f"{prefix}.{names.norm2}"),
        "mlp": mlp(source, f"{prefix}.mlp"),
    }
    if f"{prefix}.{names.out}.weight" in source:
        tree["attn"] = attention(source, prefix, names, heads)
    if f"{prefix}.{names.table}" in source:
        tree["relative_table"] = source[f"{prefix}.{names.table}"]
    for ours, theirs in zip(("scale1", "scale2"), names.scales, strict=True):
        if f"{prefix}.{theirs}" in source:
            tree[ours] = source[f"{prefix}.{theirs}"]
    return tree


def layers(source: Source, prefix: str, names: Layer, heads: int) -> dict[str, Any]:
    """All layers below `prefix`, stacked."""
    trees = []
    while f"{prefix}.{len(trees)}.{names.norm1}.weight" in source:
        trees.append(layer(source, f"{prefix}.{len(trees)}", names, heads))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def pixel_shuffle(source: Source, name: str, patch_side: int) -> dict[str, np.ndarray]:
    """A 1 x 1 convolution before a pixel shuffle; our columns are a patch's values."""
    weight = source[f"{name}.weight"]
    shape = (-1, patch_side, patch_side)
    kernel = weight.reshape(*shape, weight.shape[1]).transpose(3, 1, 2, 0)
    bias = source[f"{name}.bias"].reshape(shape).transpose(1, 2, 0)
    return {"kernel": kernel.reshape(len(kernel), -1), "bias": bias.reshape(-1)}


def mae(source: Source, heads: int, decoder_heads: int) -> dict[str, Any]:
    """facebookresearch/mae `models_mae.py`."""
    return {
        "encoder": {
            "patch": patch(source, "patch_embed.proj"),
            "cls_token": source["cls_token"],
            "blocks": {"layers": layers(source, "blocks", TIMM, heads)},
            "norm": norm(source, "norm"),
        },
        "decoder_embed": linear(source, "decoder_embed"),
        "mask_token": source["mask_token"],
        "decoder": {"layers": layers(source, "decoder_blocks", TIMM, decoder_heads)},
        "decoder_norm": norm(source, "decoder_norm"),
        "decoder_pred": linear(source, "decoder_pred"),
    }


def simmim(source: Source, heads: int, patch_side: int) -> dict[str, Any]:
    """microsoft/SimMIM `models/simmim.py` on its vision transformer."""
    table = "encoder.rel_pos_bias.relative_position_bias_table"
    return {
        "encoder": {
            "patch": patch(source, "encoder.patch_embed.proj"),
            "cls_token": source["encoder.cls_token"],
            "relative_table": source[table],
            "blocks": {"layers": layers(source, "encoder.blocks", TIMM, heads)},
            "norm": norm(source, "encoder.norm"),
        },
        "mask_token": source["encoder.mask_token"],
        "decoder": pixel_shuffle(source, "decoder.0", patch_side),
    }


def beit(source: Source, heads: int) -> dict[str, Any]:
    """microsoft/unilm beit `modeling_pretrain.py`."""
    return {
        "encoder": timm_vit(source, heads),
        "mask_token": source["mask_token"],
        "head": linear(source, "lm_head"),
    }


def beit2(source: Source, heads: int) -> dict[str, Any]:
    """microsoft/unilm beit2 `modeling_pretrain.py` with a shared head."""
    branch = {"layers": layers(source, "cls_pt_layers", TIMM, heads)}
    return {**beit(source, heads), "branch": branch}


def vqkd(source: Source, heads: int, decoder_heads: int) -> dict[str, Any]:
    """microsoft/unilm beit2 `modeling_vqkd.py`, without the codebook."""

    def side(name: str, heads: int) -> dict[str, Any]:
        return {
            "patch": patch(source, f"{name}.patch_embed.proj"),
            "cls_token": source[f"{name}.cls_token"],
            "pos_embed": source[f"{name}.pos_embed"],
            "blocks": {"layers": layers(source, f"{name}.blocks", TIMM, heads)},
            "norm": norm(source, f"{name}.fc_norm"),
        }

    return {
        "encoder": side("encoder", heads),
        "decoder": side("decoder", decoder_heads),
        "code_hidden": linear(source, "encode_task_layer.0"),
        "code": linear(source, "encode_task_layer.2"),
        "decoder_hidden": linear(source, "decode_task_layer.0"),
        "decoder_pred": linear(source, "decode_task_layer.2"),
    }


def hugging_face_beit(source: Source, heads: int) -> dict[str, Any]:
    """transformers `BeitForMaskedImageModeling` with a shared table."""
    model = source.below("beit.")
    table = "shared_position_bias.relative_position_bias_table"
    encoder = {
        "patch": patch(model, "embeddings.patch_embeddings.projection"),
        "cls_token": model["embeddings.cls_token"],
        "relative_table": model[table],
        "blocks": {"layers": layers(model, "layers", HUGGING_FACE, heads)},
        "norm": norm(source, "layernorm"),
    }
    return {
        "encoder": encoder,
        "mask_token": model["embeddings.mask_token"],
        "head": linear(source, "lm_head"),
    }


def dalle(source: Source) -> dict[str, Any]:
    """openai/DALL-E `encoder.py` and `decoder.py`, of any number of blocks."""

    def conv(name: str) -> dict[str, np.ndarray]:
        kernel = source[f"{name}.w"].transpose(2, 3, 1, 0)
        return {"kernel": kernel, "bias": source[f"{name}.b"]}

    def side(top: str) -> dict[str, Any]:
        body: dict[str, Any] = {}
        pattern = rf"{re.escape(top)}\.(group_\d+)\.(block_\d+)\.res_path\.conv_1\.w"
        for found in filter(None, (re.fullmatch(pattern, n) for n in source.arrays)):
            name = ".".join((top, *found.groups()))
            block = {
                f"conv_{n}": conv(f"{name}.res_path.conv_{n}") for n in range(1, 5)
            }
            if f"{name}.id_path.w" in source:
                block["skip"] = conv(f"{name}.id_path")
            body["_".join(found.groups())] = block
        ends = {"input": conv(f"{top}.input"), "output": conv(f"{top}.output.conv")}
        return {**ends, "body": body}

    return {"encoder": side("encoder.blocks"), "decoder": side("decoder.blocks")}


def aim_encoder(source: Source, heads: int, names: Layer) -> dict[str, Any]:
    """The trunk of apple/ml-l3m and apple/ml-aim."""
    return {
        "patch": patch(source, "preprocessor.patchifier.proj"),
        "patch_scale": norm(source, "preprocessor.patchifier.norm"),
        "blocks": {"layers": layers(source, "trunk.blocks", names, heads)},
        "norm": norm(source, "trunk.post_trunk_norm"),
    }


def attentive_head(source: Source, heads: int) -> dict[str, Any]:
    """apple/ml-aim `AttentionPoolingClassifier`, without its running statistics."""

    def by_heads(name: str) -> dict[str, np.ndarray]:
        kernel = source[f"head.{name}.weight"].T
        return {"kernel": kernel.reshape(len(kernel), heads, -1)}

    return {
        "query": source["head.cls_token"].reshape(heads, -1),
        "key": by_heads("k"),
        "value": by_heads("v"),
        "head": linear(source, "head.linear"),
    }


def attentive(source: Source, heads: int) -> dict[str, Any]:
    """apple/ml-aim, trunk and attentive probe: parameters and running statistics."""
    encoder = aim_encoder(source, heads, ML_AIM)
    return {
        "params": {"encoder": encoder, **attentive_head(source, heads)},
        "moving": running(source),
    }


def running(source: Source) -> dict[str, np.ndarray]:
    """The running statistics of the attentive probe."""
    names = {"mean": "head.bn.running_mean", "variance": "head.bn.running_var"}
    return {ours: source[theirs].copy() for ours, theirs in names.items()}


def aim(source: Source, heads: int) -> dict[str, Any]:
    """apple/ml-l3m, trunk and `SimpleDecoder`."""
    return {
        "encoder": aim_encoder(source, heads, ML_L3M),
        "head_embed": linear(source, "head.decoder_projection"),
        "head_blocks": {"layers": layers(source, "head.decoder_blocks", ML_L3M, heads)},
        "head_norm": norm(source, "head.decoder_norm"),
        "head_pred": linear(source, "head.decoder_pred"),
    }


def vit_jax(source: Source) -> dict[str, Any]:
    """google-research/vision_transformer `models_vit.py`, arrays in Flax layout."""

    def dense(name: str) -> dict[str, np.ndarray]:
        return {part: source[f"{name}/{part}"] for part in ("kernel", "bias")}

    def scale(name: str) -> dict[str, np.ndarray]:
        return {part: source[f"{name}/{part}"] for part in ("scale", "bias")}

    def block(name: str) -> dict[str, Any]:
        attn = f"{name}/MultiHeadDotProductAttention_0"
        parts = [dense(f"{attn}/{part}") for part in ("query", "key", "value")]
        qkv = {
            "kernel": np.stack([part["kernel"] for part in parts], axis=1),
            "bias": np.stack([part["bias"] for part in parts]),
        }
        mlp = {
            "up": dense(f"{name}/MlpBlock_0/Dense_0"),
            "down": dense(f"{name}/MlpBlock_0/Dense_1"),
        }
        norms = {"norm1": scale(f"{name}/LayerNorm_0")}
        norms["norm2"] = scale(f"{name}/LayerNorm_1")
        return {**norms, "attn": {"qkv": qkv, "out": dense(f"{attn}/out")}, "mlp": mlp}

    blocks = []
    while f"Transformer/encoderblock_{len(blocks)}/LayerNorm_0/scale" in source:
        blocks.append(block(f"Transformer/encoderblock_{len(blocks)}"))
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)
    patch = dense("embedding")
    patch["kernel"] = patch["kernel"].reshape(-1, patch["kernel"].shape[-1])
    encoder = {
        "patch": patch,
        "pos_embed": source["Transformer/posembed_input/pos_embedding"],
        "blocks": {"layers": stacked},
        "norm": scale("Transformer/encoder_norm"),
    }
    if "cls" in source:
        encoder["cls_token"] = source["cls"]
    if "conv_root/kernel" in source:
        encoder["stem"] = vit_jax_stem(source)
    tree = {"encoder": encoder, "head": dense("head")}
    if "pre_logits/kernel" in source:
        tree["pre_logits"] = dense("pre_logits")
    return tree


def vit_jax_stem(source: Source) -> dict[str, Any]:
    """google-research/vision_transformer `models_resnet.py`."""

    def norm_of(name: str) -> dict[str, np.ndarray]:
        return {part: source[f"{name}/{part}"] for part in ("scale", "bias")}

    def conv_of(name: str) -> dict[str, np.ndarray]:
        return {"kernel": source[f"{name}/kernel"]}

    tree = {"root": conv_of("conv_root"), "root_norm": norm_of("gn_root")}
    stage = unit = 1
    while f"block{stage}/unit1/conv1/kernel" in source:
        name = f"block{stage}/unit{unit}"
        ours = {f"conv{n}": conv_of(f"{name}/conv{n}") for n in (1, 2, 3)}
        ours |= {f"norm{n}": norm_of(f"{name}/gn{n}") for n in (1, 2, 3)}
        if f"{name}/conv_proj/kernel" in source:
            ours["conv_skip"] = conv_of(f"{name}/conv_proj")
            ours["norm_skip"] = norm_of(f"{name}/gn_proj")
        tree[f"stage_{stage}_unit_{unit}"] = ours
        unit += 1
        if f"block{stage}/unit{unit}/conv1/kernel" not in source:
            stage, unit = stage + 1, 1
    return tree


def hugging_face_vit(source: Source, heads: int) -> dict[str, Any]:
    """transformers `ViTModel` below the name `vit`."""
    return {
        "patch": patch(source, "vit.embeddings.patch_embeddings.projection"),
        "cls_token": source["vit.embeddings.cls_token"],
        "blocks": {"layers": layers(source, "vit.layers", HUGGING_FACE, heads)},
        "norm": norm(source, "vit.layernorm"),
    }


def hugging_face_dinov2(source: Source, heads: int) -> dict[str, Any]:
    """transformers `Dinov2Model` and `Dinov2WithRegistersModel`."""
    encoder = {
        "patch": patch(source, "embeddings.patch_embeddings.projection"),
        "cls_token": source["embeddings.cls_token"],
        "pos_embed": source["embeddings.position_embeddings"],
        "blocks": {"layers": layers(source, "encoder.layer", HUGGING_FACE_DINO, heads)},
        "norm": norm(source, "layernorm"),
    }
    if "embeddings.register_tokens" in source:
        encoder["register_tokens"] = source["embeddings.register_tokens"]
    return encoder


def timm_vit(source: Source, heads: int) -> dict[str, Any]:
    """timm `VisionTransformer` and `Beit`."""
    encoder = {
        "patch": patch(source, "patch_embed.proj"),
        "blocks": {"layers": layers(source, "blocks", TIMM, heads)},
    }
    if "norm.weight" in source:  # none where the mean of the patches is taken before it
        encoder["norm"] = norm(source, "norm")
    table = "rel_pos_bias.relative_position_bias_table"
    for ours, theirs in (
        ("cls_token", "cls_token"),
        ("relative_table", table),
        ("pos_embed", "pos_embed"),
    ):
        if theirs in source:
            encoder[ours] = source[theirs]
    return encoder


def timm_stem(source: Source) -> dict[str, Any]:
    """timm `ResNetV2`, as in its hybrids."""

    def conv_of(name: str) -> dict[str, np.ndarray]:
        return {"kernel": source[f"{name}.weight"].transpose(2, 3, 1, 0)}

    source = source.below("patch_embed.backbone.")
    tree = {"root": conv_of("stem.conv"), "root_norm": norm(source, "stem.norm")}
    stage = unit = 0
    while f"stages.{stage}.blocks.0.conv1.weight" in source:
        name = f"stages.{stage}.blocks.{unit}"
        ours = {f"conv{n}": conv_of(f"{name}.conv{n}") for n in (1, 2, 3)}
        ours |= {f"norm{n}": norm(source, f"{name}.norm{n}") for n in (1, 2, 3)}
        if f"{name}.downsample.conv.weight" in source:
            ours["conv_skip"] = conv_of(f"{name}.downsample.conv")
            ours["norm_skip"] = norm(source, f"{name}.downsample.norm")
        tree[f"stage_{stage + 1}_unit_{unit + 1}"] = ours
        unit += 1
        if f"stages.{stage}.blocks.{unit}.conv1.weight" not in source:
            stage, unit = stage + 1, 0
    return tree


def swin_stages(
    source: Source, names: Layer, heads: tuple[int, ...], late: int = 0
) -> dict[str, Any]:
    """The stages of a Swin transformer and what merges tokens between them.

    That is in the stage before, or with `late` 1 in the one after.
    """
    tree: dict[str, Any] = {}
    for stage, count in enumerate(heads):
        stacked = layers(source, f"layers.{stage}.blocks", names, count)
        tree[f"stages_{stage}"] = {"layers": stacked}
        merge = f"layers.{stage + late}.downsample"
        if f"{merge}.reduction.weight" in source:
            tree[f"merges_{stage}"] = {
                "norm": norm(source, f"{merge}.norm"),
                "reduction": linear(source, f"{merge}.reduction"),
            }
    return tree


def swin_encoder(
    source: Source, heads: tuple[int, ...], late: int = 0
) -> dict[str, Any]:
    """microsoft/Swin-Transformer `swin_transformer.py`; `late` 1 is for timm's."""
    return {
        "patch": patch(source, "patch_embed.proj"),
        "patch_scale": norm(source, "patch_embed.norm"),
        "norm": norm(source, "norm"),
        **swin_stages(source, TIMM, heads, late),
    }


def hugging_face_swin(source: Source, heads: tuple[int, ...]) -> dict[str, Any]:
    """transformers `SwinModel` below the name `swin`."""
    return {
        "patch": patch(source, "swin.embeddings.patch_embeddings.projection"),
        "patch_scale": norm(source, "swin.embeddings.norm"),
        "norm": norm(source, "swin.layernorm"),
        **swin_stages(source.below("swin.encoder."), HUGGING_FACE, heads),
    }
