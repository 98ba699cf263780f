"""A tokenizer of one's own on digits, for BEiT; runs anywhere, needs no download.

    python -m mimjax.main --config=configs/quickstart_tokenizer.py \
        --workdir=runs/tokenizer

Hardware: two CPU cores. Time: 4 minutes. Expected: the squared error of held-out images
falls from 0.117 to 0.013; half of the 128 codes are used. From the untrained encoder to
the last step kNN rises from 29 % to 73 %, the linear probe from 34 % to 68 %: of which
neighbours have like tokens (evaluate.pool="edges").
Next: configs/quickstart_beit.py.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.steps = 1000
    config.batch_size = 32
    config.log_every = 50
    config.checkpoint_every = 500
    config.eval_every = 500
    config.picture_every = 250

    config.data = ConfigDict()
    config.data.source = "digits"
    config.data.crop_scale = (1.0, 1.0)
    config.data.crop_ratio = (1.0, 1.0)
    config.data.flip = False
    config.data.normalise = "pixels"

    config.encoder = ConfigDict()
    config.encoder.name = "dvae"
    config.encoder.image_size = (32, 32)
    config.encoder.width = 32
    config.encoder.groups = 3
    config.encoder.blocks = 1
    config.encoder.num_codes = 128

    config.objective = ConfigDict()
    config.objective.name = "dvae"
    config.objective.decoder_first = 32
    config.objective.temperature_steps = 800
    config.objective.kl_steps = 500
    # The paper's 6.6 is for 3,000,000 updates: so soon it would leave few tokens.
    config.objective.kl_weight = 0.5

    config.optim = ConfigDict()
    config.optim.base_lr = 3e-3
    config.optim.lr_batch = 0
    config.optim.warmup_steps = 50
    config.optim.weight_decay = 1e-4

    config.evaluate = ConfigDict()
    config.evaluate.pool = "edges"
    return config
