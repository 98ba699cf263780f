"""Mixup and erasing against timm's own."""

import itertools
import math
import types

import jax.numpy as jnp
import numpy as np
import pytest
import test_mixing
import torch
from timms import torchvision

from mimjax import mixing

with torchvision():
    from timm.data import mixup as timm_mixup
    from timm.data import random_erasing as timm_erasing
    from timm.loss import SoftTargetCrossEntropy

IMAGES = np.random.default_rng(0).normal(size=(6, 30, 41, 3)).astype(np.float32)


def test_images_are_blended_as_timm_does():
    """By mixup, which timm is given the share of; partners swap their parts."""
    theirs = timm_mixup.Mixup(mixup_alpha=0.8)
    theirs._params_per_batch = lambda: (0.3, False)
    wanted = torch.tensor(IMAGES)
    assert theirs._mix_batch(wanted) == 0.3
    found = mixing.blended(jnp.asarray(IMAGES), jnp.float32(0.3))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_targets_are_timm_s():
    """Those that `test_mixing` works out in numpy, and their loss."""
    label = np.arange(8) * 9
    scores = np.random.default_rng(1).normal(size=(8, 80)).astype(np.float32)
    wanted = timm_mixup.mixup_target(torch.tensor(label), 80, 0.3, 0.1)
    found = test_mixing.targets(label, 80, 0.3, 0.1)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    loss = SoftTargetCrossEntropy()(torch.tensor(scores), wanted)
    np.testing.assert_allclose(test_mixing.entropy(scores, found), loss, rtol=1e-6)


def fed(u):
    """Python's `random` that gives the numbers of one image: whether, then the rest."""
    numbers = itertools.chain([u[-1]], u[:-1])
    return types.SimpleNamespace(
        random=lambda: next(numbers),
        uniform=lambda low, high: low + (high - low) * next(numbers),
        randint=lambda low, high: low + int(next(numbers) * (high - low + 1)),
    )


@pytest.mark.parametrize("size", [(30, 41), (40, 9)])
def test_rectangles_that_are_erased_are_timm_s(size, monkeypatch):
    """In the narrow image many draws do not fit, and of some images none."""
    shape = 300, 4 * mixing.ATTEMPTS + 1
    u = np.random.default_rng(2).uniform(size=shape).astype(np.float32)
    found = np.asarray(mixing.rectangles(jnp.asarray(u[:, :-1]), size))
    found = found & (u[:, -1:, None] < 0.6)
    theirs = timm_erasing.RandomErasing(0.6, mode="pixel", device="cpu")
    monkeypatch.setattr(
        timm_erasing, "_get_pixels", lambda *_, **__: torch.tensor(torch.nan)
    )
    attempts = set()
    for row, hidden in zip(u, found, strict=True):
        # Two numbers of a rectangle that does not fit are not asked for.
        given, image = fed(asked(row, size, attempts)), torch.zeros(3, *size)
        monkeypatch.setattr(timm_erasing, "random", given)
        wanted = theirs(image).isnan().numpy()
        np.testing.assert_array_equal(hidden, wanted[0])
    assert len(attempts) > 1 + (size[1] < 10)


def asked(row, size, attempts):
    """The numbers of an image without those of the places of what does not fit."""
    kept = []
    for number in range(mixing.ATTEMPTS):
        area, shape, *place = (float(x) for x in row[4 * number : 4 * number + 4])
        area = math.prod(size) * (0.02 + (1 / 3 - 0.02) * area)
        ratio = 0.3 ** (1 - 2 * shape)
        sides = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        kept += [float(row[4 * number]), shape]
        if sides[0] < size[0] and sides[1] < size[1]:
            attempts.add(number)
            return [*kept, *place, float(row[-1])]
    return [*kept, float(row[-1])]
