"""AIM-1B: autoregressive pretraining (arXiv 2401.08541).

    python -m mimjax.main --config=configs/aim_1b.py --workdir=runs/aim_1b

Hardware: 256 TPU v5e chips (compiled for them: 4.7 GiB each). Time: not yet measured.
Expected: not yet measured. The paper's, on web images: 80.6 % on ImageNet-1k by
attentive probe of the last six layers, 82.3 % of the best six.

The released weights saw 5 billion images:
--config.steps=1200000 --config.optim.warmup_steps=30000
Data, and what the authors do on ImageNet-1k alone: see aim_600m.py; for your own images
add --config.data.source=folder:/path/to/images.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.steps = 500_000
    config.batch_size = 4096
    config.eval_every = 10_000
    config.picture_every = 5_000

    config.data = ConfigDict()
    config.data.source = "tfds:imagenet2012"
    config.data.crop_scale = (0.4, 1.0)

    config.encoder = ConfigDict()
    config.encoder.size = "AIM-1B"
    config.encoder.patch_size = (14, 14)
    config.encoder.cls = False
    config.encoder.qkv_bias = "none"
    config.encoder.bias = False
    config.encoder.patch_norm = True
    config.encoder.start = "aim"
    config.encoder.remat = "dots"
    config.encoder.dtype = "bfloat16"

    config.objective = ConfigDict()
    config.objective.name = "aim"

    config.optim = ConfigDict()
    config.optim.base_lr = 1e-3
    config.optim.lr_batch = 0
    config.optim.warmup_steps = 12_500
    config.optim.warmup_lr = 1e-6
    config.optim.clip = 1.0

    config.evaluate = ConfigDict()
    config.evaluate.layers = (-6, -5, -4, -3, -2, -1)
    config.evaluate.train_images = 20_000
    config.evaluate.test_images = 5_000
    return config
