"""kNN, a linear layer and few shots, of the features of a frozen ViT-B/16.

    python -m mimjax.main --config=configs/knn_b16.py --workdir=runs/knn \
        --config.init_from=runs/mae_b16

Hardware: not yet measured. Time: not yet measured. Expected: not yet measured; of MAE's
ViT-B the DINO protocol is not published.

All that is of interest comes before the first and only update: kNN as DINO has it
(arXiv 2104.14294; its features are class tokens: --config.evaluate.pool=cls), a linear
layer by L-BFGS and few shots as ViT's paper (arXiv 2010.11929). Features of all
training images are 4 GB, which a process holds twice, its devices twice more between
them; held-out images stay, 150 kB each. For BEiT and others add the fields of their
encoder; features are config.evaluate.pool of .layers.
Data: ImageNet-1k as `tfds build imagenet2012 --file_format=array_record` prepares it;
for your own labelled images, one sub-folder a class, add
--config.data.source=folder:/path/to/images --config.objective.num_classes=N.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.steps = 1
    config.eval_every = 1

    config.data = ConfigDict()
    config.data.source = "tfds:imagenet2012"

    config.encoder = ConfigDict()
    config.encoder.size = "B"
    config.encoder.dtype = "bfloat16"

    config.objective = ConfigDict()
    config.objective.name = "linear"

    config.optim = ConfigDict()
    config.optim.frozen = ("encoder",)

    config.evaluate = ConfigDict()
    config.evaluate.train_images = 1_281_167
    config.evaluate.test_images = 50_000
    config.evaluate.shots = (1, 5, 10)
    return config
