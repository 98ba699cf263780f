"""Scaling study of MAE on digits: sizes of the encoder times different images.

    python -m mimjax.study --config=configs/scaling_digits.py --workdir=runs/scaling

Hardware: two CPU cores. Time: not yet measured, meant to be 20 minutes. Expected: not
yet measured.
Widths of 16 to 128 are 16,000 to 800,000 parameters, all of 4 layers and trained for
the same steps. A pool of images below STEPS x 32 = 19,200 is seen more than once.
"""

from typing import Any

STEPS = 600
# Width and heads.
SIZES = ((16, 1), (32, 1), (64, 2), (96, 3), (128, 4))
IMAGES = (250, 1000, 4000, 60_000)

SCALING = ("eval/loss", "eval/linear")


def get_study() -> dict[str, tuple[str, dict[str, Any]]]:
    return {
        f"width{width}/images{images}": (
            "configs/quickstart.py",
            {
                **dict.fromkeys(("steps", "eval_every", "checkpoint_every"), STEPS),
                "picture_every": STEPS,
                "encoder.width": width,
                "encoder.heads": heads,
                "data.num_images": images,
                # For every run the same, or the probe would tell of their number.
                "evaluate.train_images": min(IMAGES),
            },
        )
        for width, heads in SIZES
        for images in IMAGES
    }
