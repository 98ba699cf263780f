"""BEiT v2 pretraining of ViT-L/16 on ImageNet-1k (arXiv 2208.06366, 300 epochs).

    python -m mimjax.main --config=configs/beit2_l16.py \
        --workdir=runs/beit2_l16 --config.objective.tokenizer=runs/vqkd_b16

Hardware: not yet measured. Time: not yet measured. Expected: not yet measured. The
paper's: 86.6 % on ImageNet-1k fine-tuned. For 1,600 epochs the official code has
optim.b2=0.999 and encoder.drop_path=0.1.
Data: ImageNet-1k as `tfds build imagenet2012 --file_format=array_record` prepares it;
for your own images add --config.data.source=folder:/path/to/images. The tokenizer is
the workdir of a run of configs/vqkd_b16.py.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.epochs = 300
    config.batch_size = 2048
    config.eval_every = 10_000
    config.picture_every = 5_000

    config.data = ConfigDict()
    config.data.source = "tfds:imagenet2012"
    config.data.jitter = (0.4, 0.4, 0.4, 0.0)

    config.encoder = ConfigDict()
    config.encoder.size = "L"
    config.encoder.position = "relative"
    config.encoder.qkv_bias = "qv"
    config.encoder.layer_scale = 1e-5
    config.encoder.start = "beit"
    config.encoder.dtype = "bfloat16"

    config.objective = ConfigDict()
    config.objective.name = "beit2"
    config.objective.early_layer = 21

    config.optim = ConfigDict()
    config.optim.base_lr = 1.5e-3
    config.optim.lr_batch = 0
    config.optim.schedule = "cosine_beit"
    config.optim.warmup_epochs = 10
    config.optim.min_lr = 1e-5
    config.optim.b2 = 0.98
    config.optim.decay_also = ("mask_token", "relative_table")
    config.optim.clip = 3.0

    config.evaluate = ConfigDict()
    config.evaluate.train_images = 20_000
    config.evaluate.test_images = 5_000
    return config
