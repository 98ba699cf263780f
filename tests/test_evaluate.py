"""kNN, the linear probe and few shots against brute force and scikit-learn."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from threadpoolctl import threadpool_limits

from mimjax import evaluate
from mimjax.evaluate import features, fewshot, knn, linear


def clusters(n: int, width: int = 24, classes: int = 5, seed: int = 0):
    """Overlapping Gaussian clusters: features [n, width], labels [n]."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    labels = rng.integers(0, classes, n)
    x = 0.5 * centres[labels] + rng.normal(size=(n, width))
    return x.astype(np.float32), labels.astype(np.int32)


def digits():
    """Scikit-learn's digits: 1,200 to learn from, 597 held out."""
    x, labels = load_digits(return_X_y=True)
    x = x.astype(np.float32)
    return (x[:1200], labels[:1200]), (x[1200:], labels[1200:])


def brute_force_cosines(train, test):
    """All of them, in float64."""

    def unit(x):
        x = x.astype(np.float64)
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)

    # Row by row: of a product of two tables equal rows may come out unequal.
    return (unit(test)[:, None] * unit(train)[None]).sum(axis=-1)


def brute_force_knn(train, labels, test, classes, k, temperature):
    """One row at a time, in float64, by a stable sort."""
    answers = []
    for similarity in brute_force_cosines(train, test):
        nearest = np.argsort(-similarity, kind="stable")[:k]
        votes = np.zeros(classes)
        for i in nearest:
            votes[labels[i]] += np.exp(similarity[i] / temperature)
        answers.append(np.argmax(votes))
    return np.array(answers)


@pytest.mark.parametrize(("train_rows", "test_rows"), [(4096, 512), (13, 7), (40, 1)])
def test_knn_is_brute_force_whatever_the_blocks(monkeypatch, train_rows, test_rows):
    monkeypatch.setattr(knn, "TRAIN_ROWS", train_rows)
    monkeypatch.setattr(knn, "TEST_ROWS", test_rows)
    (x, labels), (asked, _) = clusters(150), clusters(40, seed=1)
    ks = (20, 1, 149, 150, 200)
    for k, answers in zip(ks, knn.predict(x, labels, asked, 5, ks, 0.07), strict=True):
        expected = brute_force_knn(x, labels, asked, 5, k, 0.07)
        np.testing.assert_array_equal(answers, expected)
        assert len(set(expected.tolist())) == 5


@pytest.mark.parametrize("train_rows", [4096, 13])
def test_the_nearest_are_the_same_bits_on_every_mesh(monkeypatch, train_rows):
    monkeypatch.setattr(knn, "TRAIN_ROWS", train_rows)
    (x, _), (asked, _) = clusters(150), clusters(40, seed=1)
    x[::3] = x[0]  # as near as one another, on all devices
    wanted = knn.nearest(x, asked, 60)
    order = np.argsort(-brute_force_cosines(x, asked), kind="stable")[:, :60]
    np.testing.assert_array_equal(wanted[1], order)
    for shape in [(2, 2, 2), (8, 1, 1)]:
        mesh = tiny.mesh_of(*shape)
        with jax.set_mesh(mesh), jax.transfer_guard("disallow"):
            assert tiny.bits(knn.nearest(x, asked, 60, mesh)) == tiny.bits(wanted)


def test_knn_on_real_digits():
    (x, labels), (asked, truth) = digits()
    for k, answers in zip(
        (10, 20), knn.predict(x, labels, asked, 10, (10, 20), 0.07), strict=True
    ):
        expected = brute_force_knn(x, labels, asked, 10, k, 0.07)
        np.testing.assert_array_equal(answers, expected)
        assert np.mean(answers == truth) > 0.93


@pytest.mark.parametrize("train_rows", [4096, 4])
def test_knn_ties_go_to_the_lower_index_then_to_the_lower_class(
    monkeypatch, train_rows
):
    monkeypatch.setattr(knn, "TRAIN_ROWS", train_rows)
    x = np.ones((11, 3), np.float32)
    labels = np.array([2, 4, 2, 3, 3, 3, 3, 3, 3, 3, 3])
    asked = np.ones((1, 3), np.float32)
    for mesh in (None, tiny.mesh_of(8)):
        found = knn.predict(x, labels, asked, 5, (3, 4, 2, 6), 0.07, mesh)
        assert np.concatenate(found).tolist() == [2, 2, 2, 3]
    (found,) = knn.predict(x[:2], np.array([4, 1]), asked, 5, [2], 0.07)
    assert found.tolist() == [1]


def test_knn_votes_are_weighted_by_similarity():
    x = np.array([[1, 0], [1, 1.5], [1, -1.5]], np.float32)
    labels, asked = np.array([0, 1, 1]), np.array([[1, 0]], np.float32)
    for temperature, wanted in ((0.07, 0), (100.0, 1)):
        (found,) = knn.predict(x, labels, asked, 2, [3], temperature)
        assert found.tolist() == [wanted]


def test_knn_edges():
    x, labels = clusters(6)
    (everyone,) = knn.predict(x, labels, x, 5, [20], 1e-4)
    np.testing.assert_array_equal(everyone, labels)
    (nothing,) = knn.predict(np.zeros_like(x), labels, x[:1], 5, [1], 0.07)
    assert nothing.tolist() == [labels[0]]


def sklearn_probe(x, labels, l2):
    """Scikit-learn's answer to the same problem, solved tightly in float64."""
    x = x.astype(np.float64)
    mean, std = x.mean(axis=0), np.sqrt(x.var(axis=0) + linear.EPS)
    z = (x - mean) / std
    model = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-6, max_iter=10_000)
    with threadpool_limits(1):  # its threads would wait for one another on two cores
        model.fit(z, labels)
    chance = model.predict_proba(z)[np.arange(len(x)), labels]
    loss = -np.log(chance).mean() + l2 / 2 * np.sum(model.coef_**2)
    return loss, lambda asked: model.predict((asked - mean) / std)


@pytest.mark.parametrize("l2", [1e-3, 1e-1])
@pytest.mark.parametrize("data", ["digits", "clusters"])
def test_probe_is_scikit_learns(data, l2):
    if data == "digits":
        (x, labels), (asked, truth) = digits()
    else:
        (x, labels), (asked, truth) = clusters(800), clusters(300, seed=1)
    probe = linear.fit(x, labels, int(labels.max()) + 1, l2, 200)
    loss, predict = sklearn_probe(x, labels, l2)
    assert probe.loss == pytest.approx(loss, rel=1e-4)
    answers, expected = linear.predict(probe, asked), predict(asked)
    assert np.sum(answers != expected) <= 1
    assert np.mean(answers == truth) > 0.6


def test_probe_stops_at_its_limit_and_pauses_equally_often():
    x, labels = clusters(800)
    counts, losses = [], []
    for iterations in (1, 60, 400):
        pauses = []
        add = functools.partial(pauses.append, 1)
        probe = linear.fit(x, labels, 5, 1e-2, iterations, pause=add)
        counts.append(len(pauses))
        losses.append(probe.loss)
    assert counts == [1, 3, 16]
    assert losses[1] < losses[0] < np.log(5)
    assert losses[2] == losses[1], "solved within 60: more iterations change nothing"


def test_probe_takes_dead_and_huge_features():
    x, labels = clusters(800)
    x[:, -1] = 0
    plain = linear.fit(x, labels, 5, 1e-3, 200)
    x = 1e3 * x + 7
    probe = linear.fit(x, labels, 5, 1e-3, 200)
    assert probe.loss == pytest.approx(plain.loss, rel=1e-4)
    np.testing.assert_allclose(probe.layer.weight[-1], 0, atol=1e-6)


def test_probe_on_a_mesh_is_the_probe_of_one_device():
    """803 rows are no multiple of the devices."""
    x, labels = clusters(803)
    wanted = linear.fit(x, labels, 5, 1e-2, 30)
    mesh = tiny.mesh_of(2, 2)
    with jax.set_mesh(mesh), jax.transfer_guard("disallow"):
        found = linear.fit(x, labels, 5, 1e-2, 30, mesh)
    assert found.loss == pytest.approx(wanted.loss, rel=1e-5)
    np.testing.assert_allclose(found.layer.weight, wanted.layer.weight, atol=1e-3)


def test_moments_are_numpys():
    x = 3 + clusters(9000)[0]
    mean, variance = linear.moments(x)
    np.testing.assert_allclose(mean, x.astype(np.float64).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(variance, x.astype(np.float64).var(axis=0), rtol=1e-12)


@pytest.mark.parametrize("count", [12, 200], ids=["images", "features"])
def test_few_shots_are_ridge_regression(count):
    """Beside stacked least squares, and scikit-learn's classifier."""
    (x, labels), (asked, _) = clusters(count), clusters(300, seed=1)
    weight, bias = fewshot.fit(x, labels, 5, 8.0)
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64) + 1e-5
    z = (x - mean) / std
    targets = 2 * np.eye(5)[labels] - 1
    stacked = np.concatenate([z, 8**0.5 * np.eye(z.shape[1])])
    level = targets.mean(axis=0)
    right = np.concatenate([targets - level, np.zeros((z.shape[1], 5))])
    wanted = np.linalg.lstsq(stacked, right, rcond=None)[0]
    np.testing.assert_allclose(weight * std[:, None], wanted, rtol=1e-8, atol=1e-12)
    ours = asked @ weight + bias
    np.testing.assert_allclose(ours, (asked - mean) / std @ wanted + level, rtol=1e-6)
    theirs = RidgeClassifier(alpha=8.0).fit(z, labels)
    np.testing.assert_allclose(
        ours, theirs.decision_function((asked - mean) / std), rtol=1e-4, atol=1e-6
    )


def test_a_draw_has_so_many_of_each_class_and_is_always_the_same():
    labels = np.array([0] * 4 + [1] * 9 + [3] * 20)[::-1].copy()
    five, two = (fewshot.draw(labels, n, 0) for n in (5, 2))
    assert np.bincount(labels[five]).tolist() == [4, 5, 0, 5]
    assert len(set(five.tolist())) == len(five)
    assert set(two.tolist()) < set(five.tolist()), "more shots are those and others"
    np.testing.assert_array_equal(fewshot.draw(labels, 5, 0), five)
    assert set(fewshot.draw(labels, 5, 1).tolist()) != set(five.tolist())


def test_few_shots_are_the_mean_of_three_draws():
    (x, labels), (asked, truth) = digits()
    found = [
        fewshot.accuracy(x, labels, asked, truth, 10, shots) for shots in (1, 5, 10)
    ]
    assert 0.3 < found[0] < found[1] < found[2] < 0.95
    once = []
    for seed in range(3):
        chosen = fewshot.draw(labels, 5, seed)
        weight, bias = fewshot.fit(x[chosen], labels[chosen], 10)
        once.append(np.mean((asked @ weight + bias).argmax(axis=1) == truth))
    assert len(set(once)) > 1
    assert found[1] == pytest.approx(np.mean(once), abs=1e-12)


IMAGES = np.random.default_rng(0).integers(0, 256, (10, 4, 6, 3), np.uint8)


def test_extract_keeps_order_and_drops_padding():
    shapes = []

    def apply_fn(batch):
        shapes.append(batch.shape)
        return batch.reshape(len(batch), -1).astype(jnp.bfloat16)[:, :5]

    found = features.extract(apply_fn, IMAGES, 4, jax.device_put)
    np.testing.assert_array_equal(found, IMAGES.reshape(10, -1)[:, :5])
    assert found.dtype == np.float32
    assert shapes == [(4, 4, 6, 3)] * 3


def test_extract_stops_when_asked():
    batches = []

    def apply_fn(batch):
        batches.append(batch)
        return batch.reshape(len(batch), -1)

    with pytest.raises(evaluate.Interrupted):
        features.extract(apply_fn, IMAGES, 2, jax.device_put, lambda: len(batches) == 3)
    assert len(batches) == 3


def test_frozen_accuracy_on_digits_is_high_and_repeatable():
    train, test = digits()
    settings = evaluate.Evaluate(shots=(5,), knn_k=(20, 10, 1200, 1201))
    with jax.set_mesh(tiny.mesh_of(8)), jax.transfer_guard("disallow"):
        first = evaluate.frozen_accuracy(train, test, 10, settings)
    second = evaluate.frozen_accuracy(train, test, 10, settings)
    assert first == second
    assert [*first] == ["knn", "knn_10", "knn_1200", "linear", "few_5"]
    assert first["knn"] > 0.93
    assert first["linear"] > 0.9
    shuffled = train[0], np.roll(train[1], 1)
    chance = evaluate.frozen_accuracy(shuffled, test, 10, settings)
    assert max(chance.values()) < 0.25


@pytest.mark.parametrize("part", [0, 1])
def test_features_that_are_not_finite_have_no_accuracy(part):
    both = [(x.copy(), labels) for x, labels in digits()]
    both[part][0][7, 3] = np.nan
    settings = evaluate.Evaluate(shots=(5,), knn_k=(20, 10))
    found = evaluate.frozen_accuracy(*both, 10, settings)
    assert [*found] == ["knn", "knn_10", "linear", "few_5"]
    assert all(map(math.isnan, found.values()))


@pytest.mark.parametrize("after", [0, 1, 2, 11])
def test_frozen_accuracy_stops_when_asked(after):
    """Before both blocks of rows, eight times in the probe, before each few shots."""
    train, test = digits()
    asked = []

    def should_stop() -> bool:
        asked.append(1)
        return len(asked) > after

    settings = evaluate.Evaluate(shots=(1, 5))
    with pytest.raises(evaluate.Interrupted):
        evaluate.frozen_accuracy(train, test, 10, settings, should_stop=should_stop)
    assert len(asked) == after + 1


@pytest.mark.parametrize("bad", [-1, 10])
def test_frozen_accuracy_refuses_labels_out_of_range(bad):
    train, test = digits()
    labels = test[1].copy()
    labels[3] = bad
    with pytest.raises(ValueError, match=r"held-out labels .* 0\.\.9"):
        evaluate.frozen_accuracy(train, (test[0], labels), 10, evaluate.Evaluate())


def test_check_names_every_bad_field():
    assert evaluate.check(evaluate.Evaluate()) == []
    bad = {
        "train_images": -1,
        "test_images": -1,
        "batch_size": 0,
        "pool": "sum",
        "knn_k": (5, 0),
        "knn_temperature": float("nan"),
        "linear_l2": -1.0,
        "linear_iterations": 0,
        "shots": (5, -1),
        "health_images": -1,
    }
    # What the layers are is known with the encoder alone, what a source is with `data`.
    names = {f.name for f in dataclasses.fields(evaluate.Evaluate)}
    names -= {"layers", "source"}
    assert bad.keys() == names
    problems = evaluate.check(evaluate.Evaluate(**bad))
    assert len(problems) == len(bad)
    for name in bad:
        assert sum(p.startswith(f"config.evaluate.{name}: ") for p in problems) == 1
    for ks in ((11,), ()):
        crowded = evaluate.check(evaluate.Evaluate(train_images=10, knn_k=ks))
        assert [p.split(":")[0] for p in crowded] == ["config.evaluate.knn_k"]
    assert evaluate.check(evaluate.Evaluate(train_images=10, knn_k=(10, 11))) == []
