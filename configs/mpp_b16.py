"""Masked patch prediction with ViT-B/16 (arXiv 2010.11929, appendix B.1.2).

    python -m mimjax.main --config=configs/mpp_b16.py --workdir=runs/mpp_b16

Hardware: not yet measured. Time: not yet measured. Expected: not yet measured. The
paper's: 79.9 % on ImageNet-1k fine-tuned at 384 pixels, after 1,000,000 updates on
JFT-300M, which is not public.
Data: ImageNet-1k as `tfds build imagenet2012 --file_format=array_record` prepares it;
for your own images add --config.data.source=folder:/path/to/images.

The paper does not give the augmentation or the weight decay: the former is that of
vit_b16, the latter that of its supervised runs on JFT-300M (table 3).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.steps = 1_000_000
    config.batch_size = 4096
    config.eval_every = 10_000
    config.picture_every = 5_000

    config.data = ConfigDict()
    config.data.source = "tfds:imagenet2012"
    config.data.crop_scale = (0.05, 1.0)
    config.data.crop_ratio = (0.75, 1.33)
    config.data.interpolation = "bilinear"
    config.data.antialias = False
    config.data.normalise = "inception"

    config.encoder = ConfigDict()
    config.encoder.size = "B"
    config.encoder.position = "learned"
    config.encoder.gelu_tanh = True
    config.encoder.start = "vit"
    config.encoder.dtype = "bfloat16"

    config.objective = ConfigDict()
    config.objective.name = "mpp"

    config.optim = ConfigDict()
    config.optim.base_lr = 2e-4
    config.optim.lr_batch = 0
    config.optim.warmup_steps = 10_000
    config.optim.b2 = 0.999
    config.optim.weight_decay = 0.1
    config.optim.decay_also = ()

    config.evaluate = ConfigDict()
    config.evaluate.train_images = 20_000
    config.evaluate.test_images = 5_000
    return config
