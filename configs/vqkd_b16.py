"""BEiT v2's tokenizer, VQ-KD, on ImageNet-1k (arXiv 2208.06366; official TOKENIZER.md).

    python -m mimjax.main --config=configs/vqkd_b16.py --workdir=runs/vqkd_b16 \
        --config.objective.teacher=runs/teacher

Hardware: not yet measured. Time: not yet measured. Expected: not yet measured; of the
official codes 97 % are used over a whole data set. The teacher is the workdir of a run
with patches of 16 pixels at 224: officially CLIP or DINO, here for example
configs/mae_b16.py.
Data: ImageNet-1k as `tfds build imagenet2012 --file_format=array_record` prepares it;
for your own images add --config.data.source=folder:/path/to/images.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.epochs = 100
    config.batch_size = 512
    config.eval_every = 10_000
    config.picture_every = 5_000

    config.data = ConfigDict()
    config.data.source = "tfds:imagenet2012"
    config.data.crop_scale = (0.08, 1.0)
    config.data.normalise = "inception"

    config.encoder = ConfigDict()
    config.encoder.size = "B"
    config.encoder.position = "learned"
    config.encoder.qkv_bias = "qv"
    config.encoder.start = "beit_normal"
    config.encoder.dtype = "bfloat16"

    config.objective = ConfigDict()
    config.objective.name = "vqkd"

    config.optim = ConfigDict()
    config.optim.base_lr = 5e-5
    config.optim.lr_batch = 128
    config.optim.schedule = "cosine_beit"
    config.optim.warmup_epochs = 10
    config.optim.min_lr = 1e-5
    config.optim.b2 = 0.99
    config.optim.weight_decay = 1e-4
    config.optim.decay_also = ()

    config.evaluate = ConfigDict()
    config.evaluate.train_images = 20_000
    config.evaluate.test_images = 5_000
    return config
