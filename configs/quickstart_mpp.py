"""Masked patch prediction on digits; runs anywhere, needs no download.

    python -m mimjax.main --config=configs/quickstart_mpp.py --workdir=runs/mpp

Hardware: two CPU cores. Time: not yet measured. Expected: not yet measured.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.steps = 800
    config.batch_size = 32
    config.log_every = 50
    config.checkpoint_every = 400
    config.eval_every = 400
    config.picture_every = 400

    config.data = ConfigDict()
    config.data.source = "digits"
    config.data.crop_scale = (1.0, 1.0)
    config.data.crop_ratio = (1.0, 1.0)
    config.data.flip = False
    config.data.normalise = "inception"

    config.encoder = ConfigDict()
    config.encoder.image_size = (32, 32)
    config.encoder.patch_size = (4, 4)
    config.encoder.width = 128
    config.encoder.depth = 4
    config.encoder.heads = 4

    config.objective = ConfigDict()
    config.objective.name = "mpp"
    # Finer than a patch's mean, which is most of what 4 x 4 pixels are.
    config.objective.target = "colours"

    config.optim = ConfigDict()
    config.optim.base_lr = 1.5e-3
    config.optim.lr_batch = 0
    config.optim.warmup_steps = 50

    config.evaluate = ConfigDict()
    config.evaluate.pool = "max"
    return config
