"""Linear segmentation probe of the MAE that configs/quickstart.py trains, on digits.

    python -m mimjax.main --config=configs/quickstart_segment.py --workdir=runs/pixels

Hardware: two CPU cores. Time: 1 minute. Expected: mean IoU 13.5 %, of a random encoder
11.0 %; most pixels are ground, so that 77 % of them are right either way.
Every pixel is to be named: a digit where it has ink, else the ground behind it. The
encoder is looked for in runs/quickstart; for another one add
--config.init_from=WORKDIR, for a random one --config.init_from=.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.init_from = "runs/quickstart"
    config.steps = 600
    config.batch_size = 64
    config.log_every = 50
    config.checkpoint_every = 300
    config.eval_every = 600
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
    config.objective.name = "segment"
    # Ten digits and what is behind them.
    config.objective.num_classes = 11

    config.optim = ConfigDict()
    config.optim.frozen = ("encoder",)
    # Ten times DINOv2's, for so short a run.
    config.optim.base_lr = 1e-2
    config.optim.lr_batch = 0
    config.optim.warmup_steps = 50
    config.optim.b2 = 0.999
    config.optim.weight_decay = 1e-4

    config.evaluate = ConfigDict()
    config.evaluate.pool = "max"
    return config
