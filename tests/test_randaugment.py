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
