"""SimMIM pretraining of Swin-B on ImageNet-1k (arXiv 2111.09886).

    python -m mimjax.main --config=configs/simmim_swin_b.py --workdir=runs/simmim_swin_b

Hardware: not yet measured. Time: not yet measured.
Expected: not yet measured. The official code's: 84.0 % on ImageNet-1k fine-tuned.
Data: ImageNet-1k as `tfds build imagenet2012 --file_format=array_record` prepares it;
for your own images add --config.data.source=folder:/path/to/images.

The recipe is the official 800-epoch one, whose rates are given for a batch of 512 and
scaled to 2048; its grouping decays the relative tables, but not the mask token.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.epochs = 800
    config.batch_size = 2048
    config.eval_every = 10_000
    config.picture_every = 5_000

    config.data = ConfigDict()
    config.data.source = "tfds:imagenet2012"
    config.data.crop_scale = (0.67, 1.0)
    config.data.interpolation = "bilinear"

    config.encoder = ConfigDict()
    config.encoder.name = "swin"
    config.encoder.size = "B"
    config.encoder.image_size = (192, 192)
    config.encoder.window = 6
    config.encoder.dtype = "bfloat16"

    config.objective = ConfigDict()
    config.objective.name = "simmim"

    config.optim = ConfigDict()
    config.optim.base_lr = 1e-4
    config.optim.lr_batch = 512
    config.optim.schedule = "multistep_simmim"
    config.optim.warmup_epochs = 10
    config.optim.warmup_lr = 2e-6  # 5e-7 at a batch of 512; absolute, so scale it too
    config.optim.b2 = 0.999
    config.optim.decay_also = ("relative_table",)
    config.optim.clip = 5.0

    config.evaluate = ConfigDict()
    config.evaluate.train_images = 20_000
    config.evaluate.test_images = 5_000
    return config
