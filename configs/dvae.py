"""The tokenizer of DALL-E, trained on one's own images (arXiv 2102.12092, A.2).

    python -m mimjax.main --config=configs/dvae.py --workdir=runs/dvae

Hardware: not yet measured. Time: not yet measured. Expected: not yet measured.
Data: ImageNet-1k as `tfds build imagenet2012 --file_format=array_record` prepares it;
for your own images add --config.data.source=folder:/path/to/images.

The paper trains 3,000,000 updates, of which the first 1,200,000 anneal the rate: the
run ends there. BEiT then takes runs/dvae (configs/beit_b16.py).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.steps = 1_200_000
    config.batch_size = 512
    config.picture_every = 10_000

    config.data = ConfigDict()
    config.data.source = "tfds:imagenet2012"
    config.data.normalise = "pixels"
    config.data.crop_scale = (0.79, 1.0)
    config.data.crop_ratio = (1.0, 1.0)

    config.encoder = ConfigDict()
    config.encoder.name = "dvae"

    config.objective = ConfigDict()
    config.objective.name = "dvae"

    config.optim = ConfigDict()
    config.optim.base_lr = 1e-4
    config.optim.lr_batch = 0
    config.optim.min_lr = 1.25e-6
    config.optim.b2 = 0.999
    config.optim.weight_decay = 1e-4
    config.optim.ema = 0.999
    return config
