"""Scaling study of AIM: its four sizes times parts of ImageNet-1k (arXiv 2401.08541).

    python -m mimjax.study --config=configs/scaling_aim.py --workdir=runs/scaling_aim

Hardware: a pod for the runs; there make those that --list names with mimjax.main into
the same workdir, and the report with this command. Time: not run here. Expected: not
run here. The paper's attentive probes of the last layers rise from 78.5 % at 600M to
82.4 % at 7B parameters, after two to five billion images.

Data: the paper's DFN-2B+ is not public. Here the sets are parts of ImageNet-1k as
`tfds build imagenet2012 --file_format=array_record` prepares it; for your own images
write folder:/path/to/images for each in SETS. The accuracy is the linear probe's, where
the paper has the attentive one's.
"""

from typing import Any

SIZES = ("600m", "1b", "3b", "7b")
# A law needs four or more.
SETS = {
    "images13k": "tfds:imagenet2012:train[:1%]",
    "images38k": "tfds:imagenet2012:train[:3%]",
    "images128k": "tfds:imagenet2012:train[:10%]",
    "images384k": "tfds:imagenet2012:train[:30%]",
    "images1281k": "tfds:imagenet2012",
}
# The last is the shorter of the paper's two.
STEPS = (100_000, 200_000, 500_000)

SCALING = ("eval/loss", "eval/linear")


def get_study() -> dict[str, tuple[str, dict[str, Any]]]:
    return {
        f"{size}/{images}/steps{steps}": (
            f"configs/aim_{size}.py",
            {
                "steps": steps,
                "optim.warmup_steps": steps // 40,
                "data.source": source,
                # What the smallest set has: all probes learn from as many.
                "evaluate.train_images": 12_800,
            },
        )
        for size in SIZES
        for images, source in SETS.items()
        for steps in STEPS
    }
