"""Masked patch prediction on digits; runs anywhere, needs no download.

    python -m mimjax.main --config=configs/quickstart_mpp.py --workdir=runs/mpp

Hardware: two CPU cores. Time: 6 minutes. Expected: the held-out loss falls from 0.26 to
0.017, kNN rises from 14 % to 23 %, the linear probe from 29 % to 36 %.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.steps = 1200
    config.batch_size = 32
    config.log_every = 50
    config.checkpoint_every = 600
    config.eval_every = 1200
    config.picture_every = 600

    config.data = ConfigDict()
    config.data.source = "digits"
    config.data.crop_scale = (1.0, 1.0)
    config.data.crop_ratio = (1.0, 1.0)
    config.data.flip = False

    config.encoder = ConfigDict()
    config.encoder.image_size = (32, 32)
    config.encoder.patch_size = (4, 4)
    config.encoder.width = 128
    config.encoder.depth = 4
    config.encoder.heads = 4
    config.encoder.unroll = 1

    config.objective = ConfigDict()
    config.objective.name = "mpp"
    # Mean colours say little of a digit: with them the probe falls in this time.
    config.objective.target = "pixels"

    config.optim = ConfigDict()
    config.optim.base_lr = 1.5e-3
    config.optim.lr_batch = 0
    config.optim.warmup_steps = 50
    config.optim.clip = 5.0

    config.evaluate = ConfigDict()
    config.evaluate.pool = "max"
    return config
