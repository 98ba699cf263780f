"""Attentive probe of AIM-600M: only the head is trained (arXiv 2401.08541).

    python -m mimjax.main --config=configs/attentive_aim_600m.py \
        --workdir=runs/attentive --config.init_from=runs/aim_600m

Hardware: 16 TPU v5e chips (compiled for them: 1.3 GiB each). Time: not yet measured.
Expected: not yet measured. The paper's, on ImageNet-1k: 78.5 % of the last six layers.

The encoder is that of the run or of the converted weights in config.init_from; without
it a random one is probed. The numbers are those of AIM v2 (arXiv 2411.14402, table A2),
whose recipe is that of AIM: the best of seven rates counts, tried at once here, with
the weight decay of 0.1 (it tried 0.05 too). The jitter of 0.3 it names does nothing
beside RandAugment.
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
    config.data.randaugment = 9.0

    config.encoder = ConfigDict()
    config.encoder.size = "AIM-600M"
    config.encoder.patch_size = (14, 14)
    config.encoder.cls = False
    config.encoder.qkv_bias = "none"
    config.encoder.bias = False
    config.encoder.patch_norm = True
    config.encoder.start = "aim"
    config.encoder.dtype = "bfloat16"

    config.objective = ConfigDict()
    config.objective.name = "attentive"

    config.optim = ConfigDict()
    config.optim.frozen = ("encoder",)
    config.optim.rates = (5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3, 2e-3)
    config.optim.lr_batch = 0
    config.optim.warmup_epochs = 5.0
    config.optim.min_lr = 1e-5
    config.optim.b2 = 0.999
    config.optim.weight_decay = 0.1
    config.optim.clip = 3.0

    config.evaluate = ConfigDict()
    config.evaluate.layers = (-6, -5, -4, -3, -2, -1)
    config.evaluate.train_images = 20_000
    config.evaluate.test_images = 5_000  # what the papers say is of all 50_000
    return config
