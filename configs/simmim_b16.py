"""SimMIM pretraining of ViT-B/16 on ImageNet-1k (arXiv 2111.09886).

    python -m mimjax.main --config=configs/simmim_b16.py --workdir=runs/simmim_b16

Hardware: 64 TPU v5e chips (compiled for them: 4.1 GiB each). Time: not yet measured.
Expected: not yet measured. The official code's: 83.8 % on ImageNet-1k fine-tuned.
Data: ImageNet-1k as `tfds build imagenet2012 --file_format=array_record` prepares it;
for your own images add --config.data.source=folder:/path/to/images.

The encoder is BEiT's ViT, as in the official `models/vision_transformer.py`; the recipe
is its 800-epoch one, whose rates are given for a batch of 512 and scaled to 2048.
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
    config.encoder.size = "B"
    config.encoder.position = "relative"
    config.encoder.qkv_bias = "qv"
    config.encoder.layer_scale = 0.1
    config.encoder.drop_path = 0.1
    config.encoder.start = "beit"
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
    config.optim.decay_also = ("mask_token", "relative_table")
    config.optim.clip = 5.0

    config.evaluate = ConfigDict()
    config.evaluate.train_images = 20_000
    config.evaluate.test_images = 5_000
    return config
