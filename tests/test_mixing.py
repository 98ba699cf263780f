"""Erasing, mixup, CutMix and smoothed labels, by formulas in numpy."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import tiny
from scipy.special import log_softmax

from mimjax import mixing

SIZE = (30, 41)
KEYS = jax.random.split(jax.random.key(4), 2000)
IMAGES = np.random.default_rng(0).normal(size=(6, *SIZE, 3)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=(0, 1))
def many(mixup, cutmix):
    """How much of 2,000 images is kept, pixel by pixel, and their shares."""
    keep = jax.vmap(lambda key: mixing.draw(key, SIZE, mixup, cutmix))
    kept, share = keep(KEYS)
    return kept[..., 0], share


def test_images_are_blended_with_their_partners():
    found = mixing.blended(jnp.asarray(IMAGES), jnp.float32(0.3))
    np.testing.assert_allclose(found, 0.3 * IMAGES + 0.7 * IMAGES[::-1], atol=1e-6)


def box(size, share, centre):
    """The rectangle of timm 0.3.2 (`rand_bbox`), whose centre is drawn by randint."""
    ends = []
    for side, at in zip(size, centre, strict=True):
        cut, middle = int(side * math.sqrt(1 - share)), int(at * side)
        ends += [max(0, middle - cut // 2), min(side, middle + cut // 2)]
    return ends


def test_rectangles_are_those_of_timm_0_3_2():
    found = jax.jit(functools.partial(mixing.rectangle, SIZE))
    drawn = np.random.default_rng(1).uniform(size=(200, 3)).astype(np.float32)
    for share, *centre in drawn:
        wanted = np.zeros(SIZE, bool)
        top, bottom, left, right = box(SIZE, share, centre)
        wanted[top:bottom, left:right] = True
        np.testing.assert_array_equal(found(share, np.asarray(centre)), wanted)


def test_a_rectangle_comes_from_the_partner_and_its_area_counts():
    kept, shares = many(0.0, 1.0)
    assert set(np.unique(kept)) == {0.0, 1.0}
    np.testing.assert_allclose(shares, kept.mean(axis=(1, 2)), atol=1e-6)
    number = int(np.argmin(np.abs(shares - 0.5)))
    found = mixing.blended(jnp.asarray(IMAGES), kept[number][..., None])
    hidden = np.asarray(kept[number]) == 0
    rows, columns = np.flatnonzero(hidden.any(1)), np.flatnonzero(hidden.any(0))
    assert hidden[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    np.testing.assert_array_equal(found[:, hidden], IMAGES[::-1][:, hidden])
    np.testing.assert_array_equal(found[:, ~hidden], IMAGES[:, ~hidden])


def test_shares_are_distributed_as_in_timm():
    """Beta for mixup; for CutMix beta less what is beyond the border; each by half."""
    kept, mixed = many(0.8, 0.0)
    assert (np.ptp(kept, axis=(1, 2)) == 0).all()
    assert scipy.stats.kstest(mixed, scipy.stats.beta(0.8, 0.8).cdf).pvalue > 0.01
    _, cut = many(0.0, 1.0)
    drawn = np.random.default_rng(2).uniform(size=(4000, 3))
    boxes = [box(SIZE, *u[:1], u[1:]) for u in drawn]
    top, bottom, left, right = np.transpose(boxes)
    wanted = 1 - (bottom - top) * (right - left) / math.prod(SIZE)
    assert scipy.stats.ks_2samp(cut, wanted).pvalue > 0.01
    kept, both = many(0.8, 1.0)
    mixes = (kept > 0).all(axis=(1, 2)) & (kept < 1).all(axis=(1, 2))
    assert abs(mixes.mean() - 0.5) < 0.03
    assert scipy.stats.ks_2samp(both[mixes], mixed).pvalue > 0.01
    assert scipy.stats.ks_2samp(both[~mixes], cut).pvalue > 0.01


def test_what_is_erased_is_noise_in_as_many_images_as_is_asked_for():
    images = jnp.full((2000, 16, 16, 2), 7.0)
    found = np.asarray(mixing.erased(KEYS[0], images, 0.25))
    hidden = (found != 7).any(axis=(1, 2, 3))
    assert abs(hidden.mean() - 0.25) < 0.03
    noise = found[found != 7]
    assert scipy.stats.kstest(noise[:5000], scipy.stats.norm.cdf).pvalue > 0.01
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.02
    areas = (found != 7).all(axis=-1).mean(axis=(1, 2))[hidden]
    assert areas.min() < 0.05 and 0.3 < areas.max() < 0.38


@pytest.fixture(scope="module")
def classifier():
    """A tiny one that varies its images, its parameters and a batch."""
    given = tiny.resolve("classify")
    params = tiny.random_state(given, tiny.mesh_of(), 0.3).params
    image = jax.random.normal(KEYS[1], (8, 16, 16, 3))
    return given.objective, params, {"image": image, "label": jnp.arange(8) * 9}


def targets(label, count, share, smoothing):
    """Smoothed labels, each with a share of the partner's."""
    row = np.full(count, smoothing / count)
    each = row + (1 - smoothing) * np.eye(count)[label]
    return share * each + (1 - share) * each[::-1]


def entropy(scores, target):
    """The mean cross-entropy of scores with what should be."""
    return -(log_softmax(scores, axis=1) * target).sum(axis=1).mean()


def test_a_classifier_learns_from_what_is_varied(classifier):
    """Erased first, then blended; the accuracy is that of the larger part."""
    objective, params, batch = classifier
    assert (objective.mixup, objective.cutmix) == (0.8, 1.0)

    def keys(bound):
        return bound.make_rng("mix"), bound.make_rng("mix")

    @jax.jit
    def run(key):
        rngs = {"mix": key, "drop": key}
        given = {"params": params}
        found = objective.apply(given, batch, train=True, rngs=rngs)
        erase, mix = objective.apply(given, rngs=rngs, method=keys)
        image = mixing.erased(erase, batch["image"], 0.25)
        kept, share = mixing.draw(mix, (16, 16), 0.8, 1.0)
        image = kept * image + (1 - kept) * image[::-1]
        logits = objective.apply(given, image, method="logits")
        return found, logits, share

    for key in KEYS[:6]:
        (loss, metrics), logits, share = run(key)
        target = targets(np.asarray(batch["label"]), 1000, float(share), 0.1)
        np.testing.assert_allclose(loss, entropy(logits, target), rtol=1e-5)
        right = (logits.argmax(axis=1) == target.argmax(axis=1)).mean()
        assert float(metrics["accuracy"]) == float(right)


def test_what_is_held_out_is_not_varied(classifier):
    objective, params, batch = classifier

    @jax.jit
    def run(params):
        found = objective.apply({"params": params}, batch, train=False)
        image = batch["image"]
        return found, objective.apply({"params": params}, image, method="logits")

    (loss, metrics), logits = run(params)
    target = targets(np.asarray(batch["label"]), 1000, 1.0, 0.0)
    np.testing.assert_allclose(loss, entropy(logits, target), rtol=1e-5)
    right = (logits.argmax(axis=1) == batch["label"]).mean()
    assert float(metrics["accuracy"]) == float(right)


@pytest.mark.parametrize(("std", "wanted"), [(0.0, 0.0), (2e-5, 2e-5)])
def test_the_head_starts_as_told(classifier, std, wanted):
    objective, _, batch = classifier
    told = objective.clone(head_std=std)
    init = jax.jit(lambda key: told.init(key, batch, train=False)["params"]["head"])
    head = init(KEYS[0])
    np.testing.assert_allclose(np.std(head["kernel"]), wanted, rtol=0.02)
    assert not np.any(head["bias"])
