"""A model of a few thousand numbers on random images; the argument names the objective,
and after a line below it another encoder than the vision transformer.

One layer width is above `sharding.SMALLEST_CUT`, so that fsdp cuts something.
"""

from ml_collections import ConfigDict

# Fields that an objective needs smaller, or other than they are by default.
OBJECTIVE = {
    "mae": {"decoder_width": 32, "decoder_depth": 1, "decoder_heads": 4},
    "aim": {"head_width": 32, "head_depth": 2},
    "simmim": {"mask_cell": 8},
}
ENCODER = {"aim": {"cls": False, "patch_norm": True, "qkv_bias": "none"}}
SWIN = {"name": "swin", "depths": (2, 1), "heads": (4, 4), "window": 2}


def get_config(objective: str = "simmim") -> ConfigDict:
    objective, _, encoder = objective.partition("_")
    config = ConfigDict()
    config.steps = 30
    config.batch_size = 8
    config.log_every = 1
    config.checkpoint_every = 5

    config.data = ConfigDict()
    config.data.source = "synthetic"

    config.encoder = ConfigDict(SWIN if encoder else ENCODER.get(objective, {}))
    config.encoder.image_size = (16, 16)
    config.encoder.patch_size = (4, 4)
    config.encoder.width = 64
    if not encoder:
        config.encoder.depth = 2
        config.encoder.heads = 4
    # One layer for the compiler, which is most of the time of these tests.
    config.encoder.unroll = 1

    config.objective = ConfigDict(OBJECTIVE.get(objective, {}))
    config.objective.name = objective

    config.optim = ConfigDict()
    config.optim.base_lr = 3e-4 if encoder else 1e-3
    config.optim.lr_batch = 0
    config.optim.warmup_steps = 3
    return config
