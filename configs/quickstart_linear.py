"""Linear probe of the MAE that configs/quickstart.py trains, on digits; four rates.

    python -m mimjax.main --config=configs/quickstart_linear.py --workdir=runs/dense

Hardware: two busy CPU cores. Time: 3 minutes. Expected: 38 % of held-out digits are
named rightly (10 % by chance) at a rate of 100; of a random encoder 26 %.
The encoder is looked for in runs/quickstart; for another one add
--config.init_from=WORKDIR, for a random one --config.init_from=.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.init_from = "runs/quickstart"
    config.steps = 400
    config.batch_size = 64
    config.log_every = 50
    config.checkpoint_every = 200
    config.eval_every = 400

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
    config.objective.name = "linear"
    config.objective.num_classes = 10
    config.objective.pool = "cls_mean"

    config.optim = ConfigDict()
    config.optim.name = "lars"
    config.optim.frozen = ("encoder",)
    config.optim.rates = (10.0, 30.0, 100.0, 300.0)
    config.optim.lr_batch = 0
    config.optim.warmup_steps = 20
    config.optim.weight_decay = 0.0

    config.evaluate = ConfigDict()
    config.evaluate.pool = "max"
    return config
