"""BEiT pretraining of ViT-L/16 on ImageNet-1k (arXiv 2106.08254, table 12).

    python -m mimjax.main --config=configs/beit_l16.py --workdir=runs/beit_l16 \
        --config.objective.tokenizer=runs/dalle

Hardware: not yet measured. Time: not yet measured. Expected: not yet measured. The
paper's: 85.2 % on ImageNet-1k fine-tuned, with the public tokenizer of DALL-E.
Data: ImageNet-1k as `tfds build imagenet2012 --file_format=array_record` prepares it;
for your own images add --config.data.source=folder:/path/to/images. The tokenizer is
a workdir: the public one's two files made into one by mimjax.convert (docs/weights.md),
or a run of configs/dvae.py.
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
    config.data.crop_scale = (0.08, 1.0)
    config.data.jitter = (0.4, 0.4, 0.4, 0.0)

    config.encoder = ConfigDict()
    config.encoder.size = "L"
    config.encoder.position = "relative"
    config.encoder.qkv_bias = "qv"
    config.encoder.layer_scale = 1e-5
    config.encoder.drop_path = 0.1
    config.encoder.start = "beit"
    config.encoder.dtype = "bfloat16"

    config.objective = ConfigDict()
    config.objective.name = "beit"

    config.optim = ConfigDict()
    config.optim.base_lr = 1.5e-3
    config.optim.lr_batch = 0
    config.optim.schedule = "cosine_beit"
    config.optim.warmup_epochs = 10
    config.optim.min_lr = 1e-5
    config.optim.b2 = 0.999
    config.optim.decay_also = ("mask_token", "relative_table")
    config.optim.clip = 1.0

    config.evaluate = ConfigDict()
    config.evaluate.layers = (14,)
    config.evaluate.train_images = 20_000
    config.evaluate.test_images = 5_000
    return config
