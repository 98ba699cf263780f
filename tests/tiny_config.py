"""A model of a few thousand numbers on random images; the argument names the objective,
and after a line below it another encoder than the vision transformer.

One layer width is above `meshes.SMALLEST_CUT`, so that fsdp cuts something.
"""

from ml_collections import ConfigDict

# Fields that an objective needs smaller, or other than they are by default.
OBJECTIVE = {
    "mae": {"decoder_width": 32, "decoder_depth": 1, "decoder_heads": 4},
    "aim": {"head_width": 32, "head_depth": 2},
    "attentive": {"layers": (-2, -1)},
    "segment": {"num_classes": 5},
    "simmim": {"mask_cell": 8},
    "beit": {"num_hidden": 7, "min_block": 2},
    "classify": {"mixup": 0.8, "cutmix": 1.0, "smoothing": 0.1, "erasing": 0.25},
    "mpp": {"target": "colours"},
    "beit2": {"num_hidden": 7, "min_block": 2, "early_layer": 1, "branch_depth": 1},
    "dvae": {"decoder_first": 16, "kl_steps": 20, "temperature_steps": 20},
    "vqkd": {
        "num_codes": 16,
        "code_width": 8,
        "decoder_width": 32,
        "decoder_depth": 1,
        "decoder_heads": 4,
    },
}
# One layer for the compiler, which is most of the time of these tests.
VIT = {"patch_size": (4, 4), "width": 64, "depth": 2, "heads": 4, "unroll": 1}
BEIT = {"position": "relative", "qkv_bias": "qv", "layer_scale": 0.1, "start": "beit"}
AIM = {**VIT, "cls": False, "patch_norm": True, "qkv_bias": "none"}
ENCODER = {
    "aim": AIM,
    "attentive": AIM,
    "beit": {**VIT, **BEIT},
    "beit2": {**VIT, **BEIT},
    "vqkd": {**VIT, "position": "learned", "qkv_bias": "qv", "start": "beit_normal"},
    "mpp": {**VIT, "position": "learned", "start": "vit"},
    # Tokens of 2 pixels: BEiT's patches of 4 need a second view half as large.
    "dvae": {"name": "dvae", "width": 32, "groups": 2, "blocks": 1, "num_codes": 16},
    "swin": {
        "name": "swin",
        "patch_size": (4, 4),
        "width": 64,
        "depths": (2, 1),
        "heads": (4, 4),
        "window": 2,
        "unroll": 1,
        # Drawn in the layers, on every mesh alike.
        "dropout": 0.1,
        "drop_path": 0.2,
    },
}


def get_config(objective: str = "simmim") -> ConfigDict:
    objective, _, encoder = objective.partition("_")
    config = ConfigDict()
    config.steps = 30
    config.batch_size = 8
    config.log_every = 1
    config.checkpoint_every = 5

    config.data = ConfigDict()
    config.data.source = "synthetic"

    config.encoder = ConfigDict(ENCODER.get(encoder or objective, VIT))
    config.encoder.image_size = (16, 16)
    if objective == "dvae":
        config.data.normalise = "pixels"

    config.objective = ConfigDict(OBJECTIVE.get(objective, {}))
    config.objective.name = objective

    config.optim = ConfigDict()
    config.optim.base_lr = 3e-4 if encoder else 1e-3
    config.optim.lr_batch = 0
    config.optim.warmup_steps = 3
    if encoder:
        config.optim.clip = 1.0
        config.optim.ema = 0.9
    if objective in ("attentive", "linear", "segment"):
        config.optim.frozen = ("encoder",)
    return config
