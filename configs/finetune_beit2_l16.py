"""Fine-tuning of BEiT v2's ViT-L/16 on ImageNet-1k (arXiv 2208.06366).

    python -m mimjax.main --config=configs/finetune_beit2_l16.py \
        --workdir=runs/finetune_beit2_l16 --config.init_from=runs/beit2_l16

Hardware: not yet measured. Time: not yet measured. Expected: not yet measured. The
paper's, after 300 epochs of pretraining: 86.6 %.

The numbers are those of the official code; after 1,600 epochs of pretraining it has
optim.base_lr=2e-4.
Data: ImageNet-1k as `tfds build imagenet2012 --file_format=array_record` prepares it;
yours: --config.data.source=folder:/path/to/images --config.objective.num_classes=N.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.epochs = 50
    config.batch_size = 1024
    config.eval_every = 12_510

    config.data = ConfigDict()
    config.data.source = "tfds:imagenet2012"
    config.data.crop_scale = (0.08, 1.0)
    config.data.randaugment = 9.0

    config.encoder = ConfigDict()
    config.encoder.size = "L"
    config.encoder.position = "relative_layers"
    config.encoder.qkv_bias = "qv"
    config.encoder.layer_scale = 1e-5
    config.encoder.drop_path = 0.2
    config.encoder.dtype = "bfloat16"

    config.objective = ConfigDict()
    config.objective.name = "classify"
    config.objective.pool = "mean"
    config.objective.head_std = 2e-5
    config.objective.mixup = 0.8
    config.objective.cutmix = 1.0
    config.objective.smoothing = 0.1
    config.objective.erasing = 0.25

    config.optim = ConfigDict()
    config.optim.base_lr = 5e-4
    config.optim.lr_batch = 0
    config.optim.schedule = "cosine_beit"
    config.optim.warmup_epochs = 5.0
    config.optim.min_lr = 1e-6
    config.optim.b2 = 0.999
    config.optim.decay_also = ("relative_table",)
    config.optim.layer_decay = 0.8

    config.evaluate = ConfigDict()
    config.evaluate.train_images = 20_000
    config.evaluate.test_images = 5_000  # what the papers say is of all 50_000
    return config
