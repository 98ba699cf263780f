"""Linear segmentation probe of ViT-B/16 on ADE20K, after DINOv2 (arXiv 2304.07193).

    python -m mimjax.main --config=configs/segment_b16.py \
        --workdir=runs/segment --config.init_from=runs/mae_b16

Hardware: 4 TPU v5e chips (compiled for them: 0.9 GiB each). Time: not yet measured.
Expected: not yet measured. The paper's (table 10), on whole images where this crops:
33.3 % of MAE's ViT-H/14, 47.3 % of DINOv2's ViT-B/14.

The encoder is that of the run or of the converted weights in config.init_from; without
it a random one is probed. Batch, updates and optimiser are those of the official
`dinov2_vitb14_ade20k_linear_config.py`, whose rate falls from the first update on, here
from the end of the warm-up, 4 % above it; crop and jitter are ours, after its resizing
from 0.5 to 2 and its PhotoMetricDistortion.
Data: ADEChallengeData2016 as it is unpacked, images/training and annotations/training,
images/validation and annotations/validation; for your own, images/ and masks/, add
--config.data.source=masks:/path/to/data --config.objective.num_classes=N
--config.objective.ignore_zero=False.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.steps = 40_000
    config.batch_size = 16
    config.eval_every = 10_000
    config.picture_every = 10_000

    config.data = ConfigDict()
    config.data.source = "masks:data/ADEChallengeData2016"
    config.data.crop_scale = (0.25, 1.0)
    config.data.jitter = (0.125, 0.5, 0.5, 0.1)
    config.data.jitter_rate = 0.5

    config.encoder = ConfigDict()
    config.encoder.size = "B"
    config.encoder.image_size = (512, 512)
    # MAE's fixed table, resized; AIM's code computes another: "sincos".
    config.encoder.position = "learned"
    config.encoder.dtype = "bfloat16"

    config.objective = ConfigDict()
    config.objective.name = "segment"
    config.objective.ignore_zero = True

    config.optim = ConfigDict()
    config.optim.frozen = ("encoder",)
    config.optim.base_lr = 1e-3
    config.optim.lr_batch = 0
    config.optim.schedule = "linear"
    config.optim.warmup_steps = 1500
    config.optim.b2 = 0.999
    config.optim.weight_decay = 1e-4

    config.evaluate = ConfigDict()
    config.evaluate.batch_size = 16
    config.evaluate.test_images = 2000
    return config
