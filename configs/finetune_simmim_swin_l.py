"""Fine-tuning of SimMIM's Swin-L on ImageNet-1k (arXiv 2111.09886).

    python -m mimjax.main --config=configs/finetune_simmim_swin_l.py \
        --workdir=runs/finetune_simmim_swin_l --config.init_from=runs/simmim_swin_l

Hardware: not yet measured. Time: not yet measured. Expected: not yet measured. The
official code's, after 800 epochs of pretraining: 85.4 %.

The numbers are those of the official code, whose layer decay leaves the ends of the
schedule, 1e-6, as they are. Windows are larger than in pretraining.
Data: ImageNet-1k as `tfds build imagenet2012 --file_format=array_record` prepares it;
yours: --config.data.source=folder:/path/to/images --config.objective.num_classes=N.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.epochs = 100
    config.batch_size = 2048
    config.eval_every = 6_260

    config.data = ConfigDict()
    config.data.source = "tfds:imagenet2012"
    config.data.crop_scale = (0.08, 1.0)
    config.data.randaugment = 9.0

    config.encoder = ConfigDict()
    config.encoder.name = "swin"
    config.encoder.size = "L"
    config.encoder.window = 14
    config.encoder.drop_path = 0.2
    config.encoder.dtype = "bfloat16"

    config.objective = ConfigDict()
    config.objective.name = "classify"
    config.objective.pool = "gap"
    config.objective.mixup = 0.8
    config.objective.cutmix = 1.0
    config.objective.smoothing = 0.1
    config.objective.erasing = 0.25

    config.optim = ConfigDict()
    config.optim.base_lr = 1.25e-3
    config.optim.lr_batch = 512
    config.optim.schedule = "cosine_simmim"
    config.optim.warmup_epochs = 20.0
    config.optim.warmup_lr = 1e-6  # 2.5e-7 at a batch of 512; absolute, so scale it too
    config.optim.min_lr = 1e-6  # The same.
    config.optim.b2 = 0.999
    config.optim.decay_also = ()
    config.optim.layer_decay = 0.7
    config.optim.clip = 5.0

    config.evaluate = ConfigDict()
    config.evaluate.train_images = 20_000
    config.evaluate.test_images = 5_000  # what the papers say is of all 50_000
    return config
