"""Supervised ViT-B/16 from scratch on ImageNet-1k (arXiv 2010.11929, table 3).

    python -m mimjax.main --config=configs/vit_b16.py --workdir=runs/vit_b16

Hardware: 64 TPU v5e chips (compiled for them: 7.1 GiB each). Time: not yet measured.
Expected: not yet measured. The paper's: 77.91 % on ImageNet-1k after fine-tuning at 384
pixels (table 5).
Data: ImageNet-1k as `tfds build imagenet2012 --file_format=array_record` prepares it;
for your own labelled images, one sub-folder a class, add
--config.data.source=folder:/path/to/images --config.objective.num_classes=N.

The authors' training code is not public. Crop and GELU are those of their fine-tuning
code (vit_jax); weight decay is decoupled and on matrices alone, as in big_vision. The
paper's tanh layer before the head is --config.objective.representation=768.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.epochs = 300
    config.batch_size = 4096
    config.eval_every = 5_000

    config.data = ConfigDict()
    config.data.source = "tfds:imagenet2012"
    config.data.crop_scale = (0.05, 1.0)
    config.data.crop_ratio = (0.75, 1.33)
    config.data.interpolation = "bilinear"
    config.data.antialias = False
    config.data.normalise = "inception"

    config.encoder = ConfigDict()
    config.encoder.size = "B"
    config.encoder.position = "learned"
    config.encoder.gelu_tanh = True
    config.encoder.dropout = 0.1
    config.encoder.start = "vit"
    config.encoder.dtype = "bfloat16"

    config.objective = ConfigDict()
    config.objective.name = "classify"

    config.optim = ConfigDict()
    config.optim.base_lr = 3e-3
    config.optim.lr_batch = 0
    config.optim.warmup_steps = 10_000
    config.optim.b2 = 0.999
    config.optim.weight_decay = 0.3
    config.optim.decay_also = ()
    config.optim.clip = 1.0

    config.evaluate = ConfigDict()
    config.evaluate.pool = "cls"
    config.evaluate.train_images = 20_000
    config.evaluate.test_images = 5_000  # what the papers say is of all 50_000
    return config
