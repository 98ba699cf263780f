"""The linear probe: what it reads, its norm, and what it learns beside scikit-learn."""

import closeness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from sklearn.datasets import load_digits
from test_evaluate import sklearn_probe

from mimjax.evaluate import inside
from mimjax.evaluate import linear as lbfgs
from mimjax.objectives import linear

# As the papers have it: the fields, and of which layers the tokens are, normed or not.
KINDS = {
    "MAE": ({}, (3,), True),
    "BEiT": ({"pool": "mean", "layers": (2,), "last_norm": False}, (2,), False),
    "DINO S": ({"layers": (-2, -1)}, (2, 3), True),
    "DINO B": ({"pool": "cls_mean"}, (3,), True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_reads_what_the_papers_read(encoder, kind):
    """Class tokens and means of patches, the last norm by a formula in numpy."""
    fields, layers, normed = KINDS[kind]
    objective = linear.Objective(encoder(depth=3, registers=1), **fields, num_classes=5)
    image = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    batch = {"image": image, "label": jnp.zeros(2, jnp.int32)}
    params = closeness.random_params(objective, batch, train=False)

    @jax.jit
    def run(image):
        found = objective.apply({"params": params}, image, method="probed")
        return found, inside.look(objective.encoder, params["encoder"], image)

    found, stages = run(image)
    wanted = []
    for number in layers:
        x = np.asarray(inside.layers_of(stages)[number - 1][0], np.float64)
        if normed:
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(
                x.var(-1, keepdims=True) + 1e-6
            )
            norm = params["encoder"]["norm"]
            x = x * norm["scale"] + norm["bias"]
        wanted += [x[:, 0]] * (objective.pool != "mean")
        wanted += [x[:, 2:].mean(axis=1)] * (objective.pool != "cls")
    assert closeness.difference(found, np.concatenate(wanted, axis=-1)) < 1e-5


def test_the_batch_norm_is_that_of_the_formula():
    norm, rng = linear.BatchNorm(3), np.random.default_rng(0)
    variables, mean, variance = norm.init({}, jnp.zeros((1, 3)), train=False), 0.0, 1.0
    for _ in range(2):
        x = rng.normal(2.0, 3.0, size=(5, 3))
        found, variables = norm.apply(
            variables, jnp.asarray(x, jnp.float32), train=True, mutable=["moving"]
        )
        wanted = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-6)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
        mean = 0.9 * mean + 0.1 * x.mean(axis=0)
        variance = 0.9 * variance + 0.1 * x.var(axis=0, ddof=1)
    wanted = (x - mean) / np.sqrt(variance + 1e-6)
    found = norm.apply(variables, jnp.asarray(x, jnp.float32), train=False)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


SMALL = {
    "encoder__image_size": (8, 8),
    "encoder__patch_size": (2, 2),
    "encoder__width": 32,
    "encoder__depth": 1,
    "encoder__channels": 1,
    "batch_size": 128,
    "steps": 300,
    "optim__name": "lars",
    "optim__rates": (30.0, 100.0),
    "optim__weight_decay": 0.0,
    "objective__pool": "mean",
    "objective__num_classes": 10,
}


def digits():
    """Images and classes of scikit-learn's digits, to learn from and to judge on."""
    found = load_digits()
    image = (found.images * 15.9).astype(np.uint8)[..., None]
    label = found.target.astype(np.int32)
    return (image[:1437], label[:1437]), (image[1437:], label[1437:])


def test_learns_as_much_as_logistic_regression():
    """By LARS, of a random encoder, whose every number stays; the best of two rates."""
    given = tiny.resolve("linear", **SMALL)
    run = tiny.Run(given)
    before = tiny.bits(run.state.params["encoder"])
    (image, label), (asked, truth) = digits()
    rng = np.random.default_rng(0)
    for _ in range(given.run.steps):
        rows = rng.integers(len(label), size=given.run.batch_size)
        batch = {"image": image[rows], "label": label[rows]}
        run.state, _ = run.update(run.state, batch)
    assert tiny.bits(run.state.params["encoder"]) == before

    @jax.jit
    def read(image):
        whole = {"params": run.state.params}
        pixels = (image / 255 - run.plan.mean) / run.plan.std
        return given.objective.apply(whole, pixels, method="probed")

    known, features = (np.asarray(read(x)) for x in (image, asked))
    moving = run.state.frozen["moving"]
    x = (features - moving["mean"]) / np.sqrt(moving["variance"] + 1e-6)
    head = run.state.params["head"]
    scores = jnp.einsum("nd,rdv->rnv", x, head["kernel"]) + head["bias"][:, None]
    ours = (scores.argmax(axis=-1) == truth).mean(axis=1)
    _, predict = sklearn_probe(known, label, 1e-4)
    theirs = (predict(features) == truth).mean()
    probe = lbfgs.fit(known, label, 10, 1e-4, 200)
    solved = (lbfgs.predict(probe, features) == truth).mean()
    assert theirs > 0.75
    assert solved == pytest.approx(theirs, abs=0.01)
    noise = np.sqrt(theirs * (1 - theirs) / len(truth))
    assert ours.max() == pytest.approx(theirs, abs=2 * noise)
