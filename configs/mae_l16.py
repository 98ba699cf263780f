"""MAE pretraining of ViT-L/16 on ImageNet-1k (arXiv 2111.06377, table 8).

    python -m mimjax.main --config=configs/mae_l16.py --workdir=runs/mae_l16

Hardware: 64 TPU v5e chips (compiled for them: 6.2 GiB each).
Time: not yet measured (the authors: 42 h on 64 V100).
Expected: not yet measured. The paper's after 800 epochs: 85.4 % on ImageNet-1k
fine-tuned; 85.9 % after 1,600 (--config.epochs=1600).
Data: ImageNet-1k as `tfds build imagenet2012 --file_format=array_record` prepares it;
for your own images add --config.data.source=folder:/path/to/images.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.epochs = 800
    config.batch_size = 4096
    config.eval_every = 10_000
    config.picture_every = 5_000

    config.data = ConfigDict()
    config.data.source = "tfds:imagenet2012"

    config.encoder = ConfigDict()
    config.encoder.size = "L"
    config.encoder.dtype = "bfloat16"

    config.objective = ConfigDict()
    config.objective.name = "mae"

    config.optim = ConfigDict()
    config.optim.warmup_epochs = 40

    config.evaluate = ConfigDict()
    config.evaluate.train_images = 20_000
    config.evaluate.test_images = 5_000
    return config
