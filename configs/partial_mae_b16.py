"""The last four of twelve layers of MAE's ViT-B/16, fine-tuned (arXiv 2111.06377).

    python -m mimjax.main --config=configs/partial_mae_b16.py \
        --workdir=runs/partial_mae_b16 --config.init_from=runs/mae_b16

Hardware: not yet measured. Time: not yet measured. Expected: not yet measured; the
paper shows ViT-L alone (figure 9).

The other layers stay as they are; what is trained is trained as in fine-tuning of the
whole. How many: --config.optim.frozen='("encoder/patch", "encoder/cls_token",
"encoder/blocks[:10]")' leaves two. Fewer layers want more epochs.
Data: ImageNet-1k as `tfds build imagenet2012 --file_format=array_record` prepares it;
yours: --config.data.source=folder:/path/to/images --config.objective.num_classes=N.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.epochs = 100
    config.batch_size = 1024
    config.eval_every = 12_510

    config.data = ConfigDict()
    config.data.source = "tfds:imagenet2012"
    config.data.crop_scale = (0.08, 1.0)
    config.data.randaugment = 9.0

    config.encoder = ConfigDict()
    config.encoder.size = "B"
    config.encoder.drop_path = 0.1
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
    config.optim.warmup_epochs = 5.0
    config.optim.min_lr = 1e-6
    config.optim.b2 = 0.999
    config.optim.decay_also = ()
    config.optim.layer_decay = 0.65
    config.optim.frozen = ("encoder/patch", "encoder/cls_token", "encoder/blocks[:8]")

    config.evaluate = ConfigDict()
    config.evaluate.train_images = 20_000
    config.evaluate.test_images = 5_000  # what the papers say is of all 50_000
    return config
