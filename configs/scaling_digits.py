"""Scaling study of MAE on digits: sizes of the encoder, and different images.

    python -m mimjax.study --config=configs/scaling_digits.py --workdir=runs/scaling

Hardware: two CPU cores. Time: 18 minutes. Expected: with the size the held-out loss
falls from 0.516 to 0.459, α = 0.32 ± 0.08 above 0.44; with images from 0.889 (30) to
0.454 (1,000), α = 0.91 ± 0.14; of 28,800, each seen once, it is 0.459.
Widths of 16 to 128, all of 4 layers, are 14,000 to 800,000 parameters. All runs are of
STEPS x 32 images: of so many different ones for the largest set, of the same ones again
and again for the others. Sets are compared for the largest encoder, sizes for the
largest set; with WHOLE every size is trained on every set.
"""

from typing import Any

STEPS = 900
# Width and heads.
SIZES = ((16, 1), (32, 1), (64, 2), (96, 3), (128, 4))
IMAGES = (30, 60, 125, 250, 500, 1000, 4000, 60_000)
WHOLE = False

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
                "evaluate.source": "digits",
                "evaluate.train_images": 250,
            },
        )
        for width, heads in SIZES
        for images in IMAGES
        if WHOLE or (width, heads) == SIZES[-1] or images == IMAGES[-1]
    }
