"""Linear probe of MAE's ViT-B/16, by LARS (arXiv 2111.06377, table 10).

    python -m mimjax.main --config=configs/linear_mae_b16.py --workdir=runs/linear \
        --config.init_from=runs/mae_b16

Hardware: not yet measured. Time: not yet measured. Expected: not yet measured. The
paper's, on ImageNet-1k: 68.0 %; of the released weights, the official code's, 67.8 %
(--config.init_from=mae_pretrain_vit_base.pth).

The encoder is that of the run or of the file in config.init_from; without it a random
one is probed. The official crop is drawn once and cut to the image; here it is drawn
again until it lies within.
Data: ImageNet-1k as `tfds build imagenet2012 --file_format=array_record` prepares it;
for your own labelled images, one sub-folder a class, add
--config.data.source=folder:/path/to/images --config.objective.num_classes=N.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.epochs = 90
    config.batch_size = 16_384
    config.checkpoint_every = 782
    config.eval_every = 782

    config.data = ConfigDict()
    config.data.source = "tfds:imagenet2012"
    config.data.crop_scale = (0.08, 1.0)

    config.encoder = ConfigDict()
    config.encoder.size = "B"
    config.encoder.dtype = "bfloat16"

    config.objective = ConfigDict()
    config.objective.name = "linear"

    config.optim = ConfigDict()
    config.optim.name = "lars"
    config.optim.frozen = ("encoder",)
    config.optim.base_lr = 0.1
    config.optim.warmup_epochs = 10
    config.optim.weight_decay = 0.0

    config.evaluate = ConfigDict()
    config.evaluate.pool = "cls"
    config.evaluate.train_images = 20_000
    config.evaluate.test_images = 5_000  # what the papers say is of all 50_000
    return config
