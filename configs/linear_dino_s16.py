"""Linear probe of DINO's ViT-S/16, by SGD (arXiv 2104.14294).

    python -m mimjax.main --config=configs/linear_dino_s16.py --workdir=runs/dino \
        --config.init_from=dino_deitsmall16_pretrain.pth

Hardware: not yet measured. Time: not yet measured. Expected: not yet measured. The
official code's, on ImageNet-1k: 77.0 %.

The numbers are those of facebookresearch/dino `eval_linear.py` with 8 GPUs of 128
images; its rate falls once an epoch, here with every step. For ViT-B/16 (78.2 %) add
--config.encoder.size=B --config.objective.pool=cls_mean --config.objective.layers=-1
Data: ImageNet-1k as `tfds build imagenet2012 --file_format=array_record` prepares it;
for your own labelled images, one sub-folder a class, add
--config.data.source=folder:/path/to/images --config.objective.num_classes=N.
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
    config.data.interpolation = "bilinear"

    config.encoder = ConfigDict()
    config.encoder.size = "S"
    config.encoder.position = "learned"
    config.encoder.dtype = "bfloat16"

    config.objective = ConfigDict()
    config.objective.name = "linear"
    config.objective.layers = (-4, -3, -2, -1)
    config.objective.batch_norm = False

    config.optim = ConfigDict()
    config.optim.name = "sgd"
    config.optim.frozen = ("encoder",)
    config.optim.base_lr = 1e-3
    config.optim.weight_decay = 0.0

    config.evaluate = ConfigDict()
    config.evaluate.pool = "cls"
    config.evaluate.train_images = 20_000
    config.evaluate.test_images = 5_000  # what the papers say is of all 50_000
    return config
