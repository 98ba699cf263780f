"""RandAugment against timm's, change by change."""

import itertools
import types

import numpy as np
import pytest
import scipy.stats
from PIL import Image
from sklearn.datasets import load_sample_images
from test_randaugment import draws
from timms import torchvision

from mimjax import data
from mimjax.data import Data, randaugment

with torchvision():
    from timm.data import auto_augment as theirs

PHOTO = Image.fromarray(load_sample_images().images[0]).resize((61, 43))
MODES = {"RGB": np.asarray(PHOTO), "L": np.asarray(PHOTO.convert("L"))[..., None]}
MEANS, _ = data.normalise_constants(Data(), 3)
NAMES = theirs._RAND_INCREASING_TRANSFORMS
SIGNED = ("Rotate", "Shear", "Translate", "Color", "Contrast", "Bright", "Sharp")


def hparams(mode, interpolation):
    """What timm 0.3.2 is told (`transforms_factory.py`); grey as its own mean."""
    fill = tuple(min(255, round(255 * x)) for x in (0.485, 0.456, 0.406))
    pillow = Image.Resampling[interpolation.upper()]
    return {"img_mean": fill if mode == "RGB" else fill[0], "interpolation": pillow}


def fed(numbers):
    """Python's `random` that gives these, timm's being the magnitude's normal too."""
    given = iter(numbers)
    return types.SimpleNamespace(
        random=lambda: next(given), gauss=lambda *_: next(given)
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", range(15), ids=NAMES)
def test_changes_are_those_of_timm(mode, number, monkeypatch):
    image = MODES[mode]
    picture = Image.fromarray(image.squeeze())
    changed = 0
    for level, sign, interpolation in itertools.product(
        (0, 3.3, 9, 10), (-1, 1), ("bicubic", "bilinear")
    ):
        known = hparams(mode, interpolation)
        made = theirs.AugmentOp(NAMES[number], 1, level, known)
        monkeypatch.setattr(theirs, "random", fed([0.5 - 0.1 * sign]))
        if (NAMES[number], level) == ("PosterizeIncreasing", 10):
            # No bit is left: black by the Pillow of timm 0.3.2, refused by today's.
            wanted = np.zeros_like(image)
        else:
            wanted = np.asarray(made(picture)).reshape(image.shape)
        change = randaugment.OPERATIONS[number], sign * level / 10
        mean = MEANS[: image.shape[2]]
        found = randaugment.apply(image, [change], mean, interpolation)
        np.testing.assert_array_equal(found, wanted)
        changed += not np.array_equal(found, image)
    # Grey has no saturation, and at level 0 half of the changes leave all as it is.
    assert changed >= 8 or (mode, NAMES[number]) == ("L", "ColorIncreasing")


def test_two_changes_of_an_image_are_timm_s(monkeypatch):
    """The whole of "rand-m9-mstd0.5-inc1", given the same numbers."""
    made = theirs.rand_augment_transform(
        "rand-m9-mstd0.5-inc1", hparams("RGB", "bicubic")
    )
    counts = set()
    for u in draws()[:120].astype(np.float64):
        numbers, chosen = [], []
        for which, whether, how, sign in u.reshape(2, 4):
            name = NAMES[int(which * 15)]
            chosen.append(made.ops[int(which * 15)])
            numbers += [whether]
            if whether < 0.5:
                numbers += [scipy.stats.norm.ppf(how, 9, 0.5)]
                numbers += [1 - sign] * name.startswith(SIGNED)
        monkeypatch.setattr(theirs, "random", fed(numbers))
        monkeypatch.setattr(theirs.np.random, "choice", lambda *_, c=chosen, **__: c)
        wanted = np.asarray(made(PHOTO))
        changes = randaugment.draw(u.astype(np.float32), 9.0, 0.5)
        found = randaugment.apply(MODES["RGB"], changes, MEANS, "bicubic")
        np.testing.assert_array_equal(found, wanted)
        counts.add(len(changes))
    assert counts == {0, 1, 2}
