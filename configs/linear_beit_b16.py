"""Linear probe of BEiT's ViT-B/16, of its ninth layer (arXiv 2106.08254, appendix D).

    python -m mimjax.main --config=configs/linear_beit_b16.py --workdir=runs/ninth \
        --config.init_from=runs/beit_b16

Hardware: not yet measured. Time: not yet measured. Expected: not yet measured. The
paper's, on ImageNet-1k: 56.7 %.

The encoder is that of the run or of the file in config.init_from; without it a random
one is probed. For ViT-L (73.5 %) add --config.encoder.size=L and
--config.objective.layers=14 --config.evaluate.layers=14.
The cosine without warm-up is ours.
Data: ImageNet-1k as `tfds build imagenet2012 --file_format=array_record` prepares it;
for your own labelled images, one sub-folder a class, add
--config.data.source=folder:/path/to/images --config.objective.num_classes=N.
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
    config.data.interpolation = "bilinear"

    config.encoder = ConfigDict()
    config.encoder.size = "B"
    config.encoder.position = "relative"
    config.encoder.qkv_bias = "qv"
    config.encoder.layer_scale = 0.1
    config.encoder.dtype = "bfloat16"

    config.objective = ConfigDict()
    config.objective.name = "linear"
    config.objective.pool = "mean"
    config.objective.layers = (9,)
    config.objective.last_norm = False
    config.objective.batch_norm = False

    config.optim = ConfigDict()
    config.optim.frozen = ("encoder",)
    config.optim.base_lr = 4e-3
    config.optim.lr_batch = 0
    config.optim.b2 = 0.999
    config.optim.weight_decay = 1e-4

    config.evaluate = ConfigDict()
    config.evaluate.layers = (9,)
    config.evaluate.train_images = 20_000
    config.evaluate.test_images = 5_000  # what the papers say is of all 50_000
    return config
