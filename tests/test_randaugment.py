"""RandAugment as it is drawn, and as the data path applies it."""

import functools

import numpy as np
import pytest
import scipy.stats

from mimjax import data
from mimjax.data import Data, augment, order, randaugment
from mimjax.data.quiet import tf


@functools.cache
def draws():
    """What 3,000 positions draw."""
    rows = tf.data.Dataset.range(3000).map(
        lambda n: order.uniforms(n, 5, augment.NUM_UNIFORMS)
    )
    return np.stack([row[augment.RANDAUGMENT] for row in rows.as_numpy_iterator()])


def test_changes_and_strengths_are_drawn_as_told():
    """Each of fifteen alike, by half, from a normal cut at 10, in both directions."""
    drawn = [change for u in draws() for change in randaugment.draw(u, 9.0, 0.5)]
    assert abs(len(drawn) / len(draws()) - 1) < 0.03
    numbers = [randaugment.OPERATIONS.index(change) for change, _ in drawn]
    assert scipy.stats.chisquare(np.bincount(numbers, minlength=15)).pvalue > 0.01
    strengths = np.asarray([strength for _, strength in drawn])
    assert abs((strengths > 0).mean() - 0.5) < 0.03
    levels = 10 * np.abs(strengths)
    assert abs((levels == 10).mean() - scipy.stats.norm.sf(2)) < 0.01
    cut = scipy.stats.norm(9, 0.5).cdf
    assert scipy.stats.kstest(levels[levels < 10], cut).statistic < 0.05
    (exact,) = {abs(s) for u in draws()[:50] for _, s in randaugment.draw(u, 7.0, 0.0)}
    assert exact == 0.7


@pytest.mark.parametrize("channels", [1, 3])
def test_the_data_path_changes_what_it_has_cropped_and_mirrored(channels):
    def read(**fields):
        stream = data.train_batches(
            Data(num_images=50, **fields),
            image_size=(20, 24),
            channels=channels,
            seed=5,
            batch_size=8,
            rows=np.arange(8),
            start_step=1,
            stop_step=4,
            workdir=None,
        )
        return np.concatenate([batch["image"] for batch in stream])

    plain, changed = read(), read(randaugment=9.0)
    mean, _ = data.normalise_constants(Data(), channels)
    wanted = [
        randaugment.apply(image, randaugment.draw(u, 9.0, 0.5), mean, "bicubic")
        for image, u in zip(plain, draws()[8:32], strict=True)
    ]
    np.testing.assert_array_equal(changed, wanted)
    assert 10 < (plain != changed).any(axis=(1, 2, 3)).sum() < 24


def test_the_numbers_drawn_before_are_what_they_were():
    """Longer vectors of random numbers begin as shorter ones."""
    for position in (0, 7, 10**12):
        whole = order.uniforms(position, 3, augment.NUM_UNIFORMS).numpy()
        np.testing.assert_array_equal(order.uniforms(position, 3, 50), whole[:50])
    assert augment.RANDAUGMENT.start == 50


# What each change does, by the constants of timm 0.3.2 and numpy alone.
SIGNS = pytest.mark.parametrize("sign", [-1, 1])
NOISE = np.random.default_rng(3).integers(0, 256, (21, 41, 3), dtype=np.uint8)


def changed(number, strength, image):
    mean = np.full(image.shape[2], 0.5)
    change = randaugment.OPERATIONS[number], strength
    return randaugment.apply(image, [change], mean, "bilinear").astype(int)


def dot(x, y):
    """A bright spot on black, 61 x 101."""
    image = np.zeros((61, 101, 1), np.uint8)
    image[y - 1 : y + 2, x - 1 : x + 2] = 255
    return image


def place(image):
    """Where the spot is: what comes from outside is half as bright."""
    y, x = np.nonzero(image[..., 0] > 200)
    return x.mean(), y.mean()


@SIGNS
@pytest.mark.parametrize("level", [5, 9])
def test_spots_move_as_far_as_told(sign, level):
    """30 degrees, 0.3 of the other side and 0.45 of the own one, at level 10."""
    share = sign * level / 10
    x, y = place(changed(3, share, dot(70, 30)))
    angle = np.degrees(np.arctan2(30 - y, x - 50))
    assert angle == pytest.approx(30 * share, abs=1.5)
    assert np.hypot(x - 50, y - 30) == pytest.approx(20, abs=0.7)
    moved = {11: (0.3 * 20, 0), 12: (0, 0.3 * 50), 13: (0.45 * 101, 0)}
    for number, by in {**moved, 14: (0, 0.45 * 61)}.items():
        # A spot that stays inside whichever way it goes.
        start = (50, 20 if number == 11 else 30)
        found = np.subtract(start, place(changed(number, share, dot(*start))))
        np.testing.assert_allclose(found, share * np.asarray(by), atol=1.1)


@SIGNS
@pytest.mark.parametrize("level", [0, 5, 9])
def test_pixels_become_what_is_told(sign, level):
    strength, pixels = sign * level / 10, NOISE.astype(int)
    wanted = {
        2: 255 - pixels,
        4: pixels >> (4 + int(0.4 * level)) << (4 + int(0.4 * level)),
        5: np.where(pixels < 256 - int(25.6 * level), pixels, 255 - pixels),
        6: np.where(pixels < 128, np.minimum(pixels + 11 * level, 255), pixels),
    }
    for number, image in wanted.items():
        np.testing.assert_array_equal(changed(number, strength, NOISE), image)
    # Of what is left of an image: of no colour, of its mean, of black.
    grey = (pixels @ [0.299, 0.587, 0.114])[..., None]
    for number, other in {7: grey, 8: grey.mean(), 9: 0}.items():
        image = np.clip(other + (1 + 0.9 * strength) * (pixels - other), 0, 255)
        np.testing.assert_allclose(changed(number, strength, NOISE), image, atol=2)


@SIGNS
def test_blur_is_mixed_with_and_histograms_are_stretched(sign):
    """The three that remain; Pillow's blur has weights 1, 5 in the middle, over 13."""
    strength = 0.9 * sign
    pixels = NOISE.astype(int)
    near = np.pad(pixels, ((1, 1), (1, 1), (0, 0)))
    rows, columns = pixels.shape[:2]
    sums = sum(near[i : i + rows, j : j + columns] for i in range(3) for j in range(3))
    blurred = (sums + 4 * pixels) / 13
    image = np.clip(blurred + (1 + 0.9 * strength) * (pixels - blurred), 0, 255)
    inside = slice(1, -1), slice(1, -1)  # at the edges Pillow does not blur
    found = changed(10, strength, NOISE)
    np.testing.assert_allclose(found[inside], image[inside], atol=2)
    narrow = (50 + NOISE // 4).astype(np.uint8)
    low, high = narrow.min((0, 1)).astype(int), narrow.max((0, 1)).astype(int)
    stretched = (narrow - low) * 255 / (high - low)
    np.testing.assert_allclose(changed(0, strength, narrow), stretched, atol=1)
    many = np.tile(narrow, (8, 8, 1))  # it counts in 255ths of the pixels
    for channel in np.moveaxis(changed(1, strength, many), -1, 0):
        counts = np.histogram(channel, bins=4, range=(0, 256))[0]
        assert abs(counts / channel.size - 0.25).max() < 0.05
