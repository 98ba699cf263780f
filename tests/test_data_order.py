"""The order of the data: a fair permutation each epoch, the same however it is read."""

import dataclasses
import functools
import time

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from mimjax import data
from mimjax.data import Data, digits, folder, order
from mimjax.data.quiet import graph, tf

BATCH = 8
PLAIN = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip": False}
FULL = {"jitter": (0.4, 0.4, 0.4, 0.1), "jitter_rate": 0.8}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of 20 photographs of mixed sizes in two classes; 13 is no divisor."""
    top = tmp_path_factory.mktemp("photos")
    pictures = [Image.fromarray(p) for p in load_sample_images().images]
    for n in range(20):
        place = top / "ab"[n % 2] / f"{n:02d}.jpg"
        place.parent.mkdir(exist_ok=True)
        size = (70 + 3 * n, 90 - 2 * n)
        pictures[n % 2].rotate(n).resize(size).save(place, quality=90)
    return top


@pytest.fixture(params=["folder", "digits"])
def settings(request, photos):
    if request.param == "digits":
        return Data(num_images=21, **FULL)
    return Data(source=f"folder:{photos}", holdout_fraction=0.0, **FULL)


@functools.cache
def read(settings, start, stop, rows=range(BATCH), seed=5, view_size=(0, 0), **changes):
    stream = data.train_batches(
        dataclasses.replace(settings, **changes),
        image_size=(24, 16),
        view_size=view_size,
        channels=3,
        seed=seed,
        batch_size=BATCH,
        rows=np.asarray(rows),
        start_step=start,
        stop_step=stop,
        workdir=None,
    )
    return list(stream)


def assert_equal(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a["label"], b["label"])
        np.testing.assert_array_equal(a["image"], b["image"])


@pytest.mark.parametrize("length", [1, 2, 7, 100, 1797])
def test_every_epoch_is_another_permutation(length):
    epochs = [
        order.example(np.arange(length) + e * length, 3, length).numpy()
        for e in range(3)
    ]
    for epoch in epochs:
        assert sorted(epoch) == list(range(length))
    if length > 7:
        assert not np.array_equal(epochs[0], epochs[1])
        assert not np.array_equal(epochs[1], epochs[2])


@pytest.mark.parametrize("length", [2**16 + 1, 2**18])
def test_lengths_about_a_power_of_four_are_permuted_too(length):
    """Of 4^8 + 1 and the like TensorFlow's cipher leaves the last out."""
    found = order.example(np.arange(length) + length, 3, length).numpy()
    assert np.array_equal(np.sort(found), np.arange(length))


def test_seeds_and_epochs_beyond_a_word_of_the_cipher_have_other_orders():
    """And below 256 those that they have by it alone."""
    length = 1797
    at = np.arange(200)

    def taken(seed, epoch):
        return order.example(at + epoch * length, seed, length).numpy()

    for seed, epoch in ((0, 0), (5, 7), (255, 255)):
        words = np.broadcast_to(np.array([seed, epoch, 0], np.int64), (200, 3))
        most = np.full(200, length - 1, np.int64)
        alone = tf.raw_ops.RandomIndexShuffle(
            index=at, seed=words, max_index=most, rounds=order.ROUNDS
        )
        np.testing.assert_array_equal(taken(seed, epoch), alone)
    many = [(0, 0), (256, 0), (512, 0), (1000, 3), (2024, 3), (0, 256), (0, 512)]
    many += [(65_280, 0), (0, 65_280), (20_240_101, 0), (20_240_102, 0)]
    orders = {tuple(taken(seed, epoch)) for seed, epoch in many}
    assert len(orders) == len(many)


def test_graph_and_eager_values_agree_over_an_epoch_border():
    at = np.arange(90, 120)
    dataset = tf.data.Dataset.from_tensor_slices(at)
    dataset = dataset.map(graph(lambda position: order.example(position, 7, 100)))
    eager = order.example(at, 7, 100).numpy()
    assert list(dataset.as_numpy_iterator()) == eager.tolist()
    assert [int(order.example(p, 7, 100)) for p in at] == eager.tolist()


def test_billions_of_examples():
    length = 5_000_000_000
    at = length * 3 + np.arange(-500, 500)
    index = order.example(at, 0, length).numpy()
    assert index.min() >= 0
    assert index.max() < length
    assert len(set(index[:500])) == 500
    assert index.max() > 2**32


def test_batches_are_as_mixed_as_fair_draws():
    """Of examples sorted by class, and from one epoch to the next.

    The four rounds that TensorFlow's public function makes give 117 and about 10.
    """
    length, classes = 1797, 10
    epochs = [
        order.example(np.arange(length) + e * length, 0, length).numpy()
        for e in range(8)
    ]
    labels = np.stack(epochs)[:, : 14 * 128].reshape(-1, 128) * classes // length
    variance = np.mean([np.bincount(b, minlength=classes).var() for b in labels])
    assert 9 < variance < 13  # 11.5 less what drawing without return takes
    bins = 32
    moved = (epochs[1] - epochs[0]) % length * bins // length
    counts = np.bincount(moved, minlength=bins)
    expected = length / bins
    assert ((counts - expected) ** 2 / expected).sum() / (bins - 1) < 2


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_batch_of_one(settings, hosts):
    alone = read(settings, 0, 6)[1:5]  # over a border of an epoch
    share = BATCH // hosts
    parts = [
        read(settings, 1, 5, range(h * share, (h + 1) * share)) for h in range(hosts)
    ]
    joined = [
        {key: np.concatenate([part[s][key] for part in parts]) for key in alone[s]}
        for s in range(4)
    ]
    assert_equal(alone, joined)


@pytest.mark.parametrize("start", [1, 2, 3, 5])
def test_a_resumed_stream_equals_the_unbroken_one(settings, start):
    assert_equal(read(settings, start, 6), read(settings, 0, 6)[start:])


def test_workers_and_prefetch_do_not_matter(settings):
    usual = read(settings, 0, 6)
    assert_equal(usual, read(settings, 0, 6, workers=1, prefetch=1))
    assert_equal(usual, read(settings, 0, 6, workers=5, prefetch=9))


def test_images_are_bytes_of_the_size_asked_for(settings):
    (batch,) = read(settings, 0, 1)
    assert batch["image"].shape == (BATCH, 24, 16, 3)
    assert batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32


def test_another_seed_is_another_order(settings):
    """Of the same images, where nothing is left to chance but the order."""
    length = 20 if settings.source.startswith("folder:") else settings.num_images
    changes, found = {"jitter": (0.0, 0.0, 0.0, 0.0), **PLAIN}, []
    for seed in (5, 6):
        batches = read(settings, 0, 3, seed=seed, **changes)
        images = np.concatenate([batch["image"] for batch in batches])[:length]
        numbers = order.example(np.arange(length), seed, length).numpy()
        found.append(dict(zip(numbers.tolist(), images, strict=True)))
    assert [*found[0]] != [*found[1]]
    for number, image in found[0].items():
        np.testing.assert_array_equal(image, found[1][number])


def test_another_seed_is_another_crop():
    """Of the same example at the same place of the stream."""
    settings = Data(num_images=1, flip=False)
    (a,), (b,) = (read(settings, 0, 1, seed=seed) for seed in (5, 6))
    assert (a["image"] != b["image"]).any(axis=(1, 2, 3)).all()


def test_a_stream_begins_far_out_without_reading_what_came_before(photos, monkeypatch):
    start, seen, real = 10**7, [], folder.Folder.read

    def counted(self, number):
        seen.append(number)
        return real(self, number)

    monkeypatch.setattr(folder.Folder, "read", counted)
    settings = Data(source=f"folder:{photos}", holdout_fraction=0.0)
    assert len(read(settings, start, start + 2)) == 2
    at = np.arange(start * BATCH, (start + 2) * BATCH)
    assert sorted(seen) == sorted(order.example(at, 5, 20).numpy())


@pytest.mark.parametrize("jitter", [False, True])
def test_a_second_view_is_the_same_crop_and_moves_nothing_else(settings, jitter):
    """At the size of the image, and by the same filter, it is the image."""
    strengths = {} if jitter else {"jitter": (0.0, 0.0, 0.0, 0.0)}
    changes = {"interpolation": "lanczos", **strengths}
    alone = read(settings, 0, 3, **changes)
    same = read(settings, 0, 3, view_size=(24, 16), **changes)
    small = read(settings, 0, 3, view_size=(12, 8), **changes)
    for a, b, c in zip(alone, same, small, strict=True):
        assert sorted(a) == ["image", "label"]
        np.testing.assert_array_equal(b["view"], a["image"])
        assert_equal([a], [{k: v for k, v in b.items() if k != "view"}])
        assert_equal([a], [{k: v for k, v in c.items() if k != "view"}])
        assert c["view"].shape == (BATCH, 12, 8, 3)
        halved = a["image"].reshape(BATCH, 12, 2, 8, 2, 3).mean(axis=(2, 4))
        assert np.abs(c["view"] - halved).mean() < 6


def test_all_examples_come_once_an_epoch(photos):
    """Seen by the images themselves; a photograph differs from every other."""
    settings = Data(source=f"folder:{photos}", holdout_fraction=0.0, **PLAIN)
    batches = read(settings, 0, 5)
    rows = [image.tobytes() for b in batches for image in b["image"]]
    assert len(set(rows[:20])) == len(set(rows[20:])) == 20
    assert set(rows[:20]) == set(rows[20:])
    assert rows[:20] != rows[20:]


def test_digits_stand_where_the_order_puts_them():
    settings = Data(num_images=21, **PLAIN)
    index = order.example(np.arange(16, 24), 5, 21).numpy()
    images, labels = digits.draw(index, "train", (24, 16))
    (batch,) = read(settings, 2, 3)
    np.testing.assert_array_equal(batch["image"], images)
    np.testing.assert_array_equal(batch["label"], labels)


def test_closing_a_stream_stops_it(photos, monkeypatch):
    """And the threads behind it, which read ahead."""
    seen, real = [], folder.Folder.read

    def counted(self, number):
        seen.append(number)
        return real(self, number)

    monkeypatch.setattr(folder.Folder, "read", counted)
    stream = data.train_batches(
        Data(source=f"folder:{photos}", holdout_fraction=0.0),
        image_size=(32, 32),
        channels=3,
        seed=0,
        batch_size=BATCH,
        rows=np.arange(BATCH),
        start_step=0,
        stop_step=10**9,
        workdir=None,
    )
    next(stream)
    stream.close()
    time.sleep(0.5)  # for what was being read
    before = len(seen)
    time.sleep(0.5)
    assert len(seen) == before >= BATCH
