"""Names and shapes as others release them, written out here and not by our tables.

Sizes are small; what a file holds, and how it calls it, is as it is in the world.
"""

import numpy as np
import pytest

from mimjax.convert import shapes, weights
from mimjax.convert.files import BadFileError

WIDTH, MLP, CLASSES, TOKENS = 64, 256, 10, 16


def zeros(*shape):
    return np.zeros(shape, np.float32)


def layer(qv=False, scales=(), gated=False):
    """A layer under timm's names."""
    found = {
        "norm1.weight": zeros(WIDTH),
        "norm1.bias": zeros(WIDTH),
        "attn.qkv.weight": zeros(3 * WIDTH, WIDTH),
        "attn.proj.weight": zeros(WIDTH, WIDTH),
        "attn.proj.bias": zeros(WIDTH),
        "norm2.weight": zeros(WIDTH),
        "norm2.bias": zeros(WIDTH),
    }
    names = ("mlp.w12", "mlp.w3") if gated else ("mlp.fc1", "mlp.fc2")
    found |= {f"{names[0]}.weight": zeros(MLP * (1 + gated), WIDTH)}
    found |= {f"{names[0]}.bias": zeros(MLP * (1 + gated))}
    found |= {f"{names[1]}.weight": zeros(WIDTH, MLP), f"{names[1]}.bias": zeros(WIDTH)}
    biases = ("attn.q_bias", "attn.v_bias") if qv else ()
    found |= {name: zeros(WIDTH) for name in (*biases, *scales)}
    return found if qv else {**found, "attn.qkv.bias": zeros(3 * WIDTH)}


def vit(*, pos=True, norm=True, **kind):
    """Two layers, a class token, patches of 4 pixels."""
    found = {
        "cls_token": zeros(1, 1, WIDTH),
        "patch_embed.proj.weight": zeros(WIDTH, 3, 4, 4),
        "patch_embed.proj.bias": zeros(WIDTH),
    }
    for i in range(2):
        found |= {f"blocks.{i}.{name}": x for name, x in layer(**kind).items()}
    if pos:
        found["pos_embed"] = zeros(1, 1 + TOKENS, WIDTH) + 0.1
    if norm:
        found |= {"norm.weight": zeros(WIDTH), "norm.bias": zeros(WIDTH)}
    return found


FC_NORM = {"fc_norm.weight": zeros(WIDTH), "fc_norm.bias": zeros(WIDTH)}
HEAD = {"head.weight": zeros(CLASSES, WIDTH), "head.bias": zeros(CLASSES)}
TUNED = {**FC_NORM, **HEAD}
GAMMAS = ("gamma_1", "gamma_2")
LAYER_SCALES = ("ls1.gamma", "ls2.gamma")
TABLE = zeros(7 * 7 + 3, 4)
INDEX = np.zeros((17, 17), np.int64)
OWN = {
    f"blocks.{i}.attn.relative_position_{name}": x
    for i in range(2)
    for name, x in (("bias_table", TABLE), ("index", INDEX))
}
SHARED = {
    "rel_pos_bias.relative_position_bias_table": TABLE,
    "rel_pos_bias.relative_position_index": INDEX,
}
LM_HEAD = {"lm_head.weight": zeros(8192, WIDTH), "lm_head.bias": zeros(8192)}
MASK = {"mask_token": zeros(1, 1, WIDTH)}
DINO = {f"head.mlp.{i}.{n}": zeros(8, 8) for i in (0, 2, 4) for n in ("weight", "bias")}
DINO |= {f"head.last_layer.weight_{n}": zeros(8, 8) for n in "gv"}
SIDES = {
    f"{side}.{name}": x
    for side in ("encoder", "decoder")
    for name, x in {**vit(qv=True, norm=False), **FC_NORM}.items()
}
VQKD = {**SIDES, "decoder.patch_embed.proj.weight": zeros(WIDTH, 32, 1, 1)}
for task, ends in (("encode", (WIDTH, 32)), ("decode", (WIDTH, 512))):
    for number, width in zip((0, 2), ends, strict=True):
        VQKD[f"{task}_task_layer.{number}.weight"] = zeros(width, WIDTH)
        VQKD[f"{task}_task_layer.{number}.bias"] = zeros(width)
VQKD |= {
    "quantize.embedding.weight": zeros(24, 32),
    "quantize.embedding.initted": np.ones(1, np.float32),
    "quantize.embedding.cluster_size": zeros(24),
    "quantize.embedding.embed_avg": zeros(24, 32),
    "quantize.cluster_size": zeros(24),
}
TEACHER = {f"teacher_model.{n}": x for n, x in vit().items()}
TEACHER |= {f"scaling_layer.{name}": zeros(1, 3, 1, 1) for name in ("shift", "scale")}

# What is released, the layout, fields that follow, and what is missing or left over.
RELEASES = {
    "DeiT": (
        {**vit(), **HEAD},
        "timm_vit",
        {"position": "learned", "pool": "token", "num_classes": CLASSES},
        ([], []),
    ),
    "DINO, its teacher whole": (
        {**{f"backbone.{n}": x for n, x in vit().items()}, **DINO},
        "dino",
        {"position": "learned", "norm_eps": 1e-6},
        ([], sorted(DINO)),
    ),
    "MAE, fine-tuned": (
        {**vit(norm=False), **FC_NORM, **HEAD},
        "timm_vit",
        {"pool": "mean", "num_classes": CLASSES},
        ([], []),
    ),
    "DINOv2": (
        {**vit(scales=LAYER_SCALES), "mask_token": zeros(1, WIDTH)},
        "dinov2",
        {"registers": 0, "swiglu": False, "layer_scale": 0.1},
        ([], []),
    ),
    "DINOv2 g with registers": (
        {
            **vit(scales=LAYER_SCALES, gated=True),
            "mask_token": zeros(1, WIDTH),
            "register_tokens": zeros(1, 4, WIDTH),
        },
        "dinov2",
        {"registers": 4, "swiglu": True, "mlp_ratio": 4.0},
        ([], []),
    ),
    "BEiT, ImageNet-22k": (
        {**vit(pos=False, qv=True, scales=GAMMAS), **SHARED, **MASK, **LM_HEAD},
        "beit",
        {"position": "relative", "qkv_bias": "qv", "normalise": "inception"},
        ([], []),
    ),
    "BEiT, ImageNet-1k 800 epochs": (
        {**vit(qv=True), **MASK, **LM_HEAD},
        "beit",
        {"position": "learned", "layer_scale": 0.0, "normalise": "imagenet"},
        ([], []),
    ),
    "BEiT, fine-tuned": (
        {
            **vit(pos=False, norm=False, qv=True, scales=GAMMAS),
            **OWN,
            **FC_NORM,
            **HEAD,
        },
        "timm_beit",
        {"position": "relative_layers", "pool": "mean", "normalise": "inception"},
        ([], []),
    ),
    "SimMIM on ViT, its encoder's names": (
        {
            **{
                f"encoder.{n}": x
                for n, x in {
                    **vit(pos=False, qv=True, scales=GAMMAS),
                    **SHARED,
                    **MASK,
                }.items()
            },
            "decoder.0.weight": zeros(48, WIDTH, 1, 1),
            "decoder.0.bias": zeros(48),
        },
        "simmim",
        {"position": "relative", "normalise": "imagenet"},
        ([], []),
    ),
    "VQ-KD, taught by CLIP": (
        VQKD,
        "vqkd",
        {"num_codes": 24, "code_width": 32, "normalise": "inception"},
        (["decoder_pred/bias", "decoder_pred/kernel"], ["decode_task_layer.2.bias"]),
    ),
    "VQ-KD, taught by DINO": (
        {**VQKD, **TEACHER},
        "vqkd",
        {"num_codes": 24, "code_width": 32, "normalise": "inception"},
        (
            ["decoder_pred/bias", "decoder_pred/kernel"],
            ["decode_task_layer.2.bias", *TEACHER],
        ),
    ),
}


def written(folder, arrays):
    np.savez(folder / "weights.npz", **arrays)
    return folder / "weights.npz"


FOUR = (("encoder.heads", "4"),)


@pytest.mark.parametrize("name", RELEASES)
def test_a_release_is_known_by_its_names(tmp_path, name):
    arrays, layout, fields, (missing, left) = RELEASES[name]
    decoder = (("objective.decoder_heads", "4"),) if layout == "vqkd" else ()
    changes = FOUR + decoder
    found = weights.convert([written(tmp_path, arrays)], changes=changes)
    assert found.layout == layout
    assert sorted(found.missing) == missing
    assert set(left) <= set(found.unexpected)
    if not left:
        assert found.unexpected == []
    values = found.config.values
    told = {**values["data"], **values["encoder"], **values["objective"]}
    assert {field: told[field] for field in fields} == fields
    for place in found.parts:
        found.read(place)


STRANGE = {
    "a norm of queries": {"blocks.0.attn.q_norm.weight": zeros(16)},
    "a convolution before the patches": {"patch_embed.backbone.conv.weight": zeros(3)},
    "a third matrix of the MLP": {"blocks.1.mlp.fc3.weight": zeros(8, 8)},
    "positions of Swin beside its own": {"absolute_pos_embed": zeros(1, 16, 16)},
    "positions of BEiT beside its own": {"encoder.pos_embed": zeros(1, 16, 16)},
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_model_that_computes_more_is_refused(tmp_path, name):
    """It would load without a word, and say something else."""
    path = written(tmp_path, {**vit(), **HEAD, **STRANGE[name]})
    (extra,) = STRANGE[name]
    with pytest.raises(BadFileError, match=f"no timm_vit model: .* for '{extra}'"):
        weights.convert([path], changes=FOUR)


def test_tables_stay_as_they_are_unless_another_size_is_asked_for(tmp_path):
    arrays = {**vit(pos=False, norm=False, qv=True, scales=GAMMAS), **OWN}
    arrays |= {**FC_NORM, **HEAD}
    arrays["blocks.1.attn.relative_position_bias_table"] = zeros(9 * 9 + 3, 4)
    path = written(tmp_path, arrays)
    found = weights.convert([path])
    with pytest.raises(BadFileError, match="relative_position_bias_table"):
        _ = found.params


def test_windows_that_differ_are_told(tmp_path):
    arrays = {
        "patch_embed.proj.weight": zeros(16, 3, 4, 4),
        "layers.0.downsample.reduction.weight": zeros(32, 64),
    }
    for stage, rows in enumerate((49, 225)):
        names = {f"layers.{stage}.blocks.0.{n}": x for n, x in layer().items()}
        table = f"layers.{stage}.blocks.0.attn.relative_position_bias_table"
        arrays |= {**names, table: zeros(rows, 2)}
    with pytest.raises(BadFileError, match="windows"):
        weights.convert([written(tmp_path, arrays)])


@pytest.mark.parametrize("act", ["relu", "quick_gelu", "silu"])
def test_another_activation_is_told(tmp_path, act):
    with pytest.raises(ValueError, match=f"activation is '{act}', not gelu"):
        shapes.gelu_tanh({"hidden_act": act})
    assert shapes.gelu_tanh({"hidden_act": "gelu_new"})
    assert not shapes.gelu_tanh({})


def test_a_layer_that_is_not_there_is_told(tmp_path):
    """All layers are one array here: it would leave them all as they start."""
    arrays = {n: x for n, x in {**vit(), **HEAD}.items() if ".1.norm2" not in n}
    with pytest.raises(BadFileError, match=r"no blocks\.1\.norm2"):
        weights.convert([written(tmp_path, arrays)], changes=FOUR)
    fewer = (*FOUR, ("encoder.depth", "1"))
    with pytest.raises(BadFileError, match=r"no place for 'blocks\.1\."):
        weights.convert([written(tmp_path, {**vit(), **HEAD})], changes=fewer)


def test_the_layer_of_another_shape_is_named(tmp_path):
    arrays = {**vit(), **HEAD, "blocks.1.norm1.weight": zeros(3)}
    found = weights.convert([written(tmp_path, arrays)], changes=FOUR)
    with pytest.raises(BadFileError, match=r"blocks.1.norm1.weight of \(3,\) does not"):
        _ = found.params
