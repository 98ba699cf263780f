"""Training a tokenizer, by formulas in numpy, and its place in another run."""

import dataclasses
import functools
import json
import pathlib
import shutil
import unittest.mock

import closeness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from scipy import stats

from mimjax import config, origins, train
from mimjax.checkpoint import Checkpoints
from mimjax.objectives import dvae
from mimjax.report.progress import Progress
from mimjax.run.start import first_state
from mimjax.tokenizers import dvae as net

ENCODER = net.Encoder(image_size=(8, 8), width=8, groups=2, blocks=1, num_codes=12)


@pytest.fixture(scope="module")
def batch():
    image = jax.random.uniform(jax.random.key(1), (3, 8, 8, 3))
    # What a decoder of pixels meets at the ends: black and white.
    return {"image": image.at[0, 0].set(0.0).at[0, 1].set(1.0)}


@pytest.fixture(scope="module")
def objective():
    return dvae.Objective(
        ENCODER, decoder_first=8, temperature_steps=100, kl_steps=10, kl_weight=2.0
    )


@pytest.fixture(scope="module")
def params(objective, batch):
    return closeness.random_params(objective, batch, train=False)


def test_the_likelihood_is_a_density_of_pixels(objective):
    """Its integral over all that a pixel can be is one, wherever its mean is."""
    mean, log_width = np.asarray([-1.5, 0.0, 0.7]), np.asarray([-1.0, 0.3, -0.4])
    values = np.linspace(1e-6, 1 - 1e-6, 400_001)
    pixels = (values - 0.1) / 0.8
    for mu, log_b in zip(mean, log_width, strict=True):
        b = np.exp(log_b)
        logit = np.log(values / (1 - values))
        density = np.exp(-np.abs(logit - mu) / b) / (2 * b * values * (1 - values))
        np.testing.assert_allclose(np.trapezoid(density, values), 1.0, atol=1e-3)
        # The same from the distribution of SciPy, by a change of variable.
        laplace = stats.laplace.pdf(logit, mu, b) / (values * (1 - values))
        np.testing.assert_allclose(density, laplace, rtol=1e-9)
        known = jnp.asarray([[[[mu, log_b]]]], jnp.float32)
        for n in (60_000, 200_000, 330_000):
            image = jnp.full((1, 1, 1, 1), pixels[n], jnp.float32)
            found = objective.bind({}).reconstruction(image, known)
            np.testing.assert_allclose(found, -np.log(density[n]), atol=2e-5)


def test_the_divergence_is_that_to_the_uniform_prior(objective):
    logits = np.random.default_rng(0).normal(size=(2, 5, 12)) * 3
    chance = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    each = stats.entropy(chance, np.full(12, 1 / 12), axis=-1)
    # A token stands for 2 x 2 pixels of 3 channels.
    found = objective.bind({}).divergence(jnp.asarray(logits, jnp.float32))
    np.testing.assert_allclose(found, each.mean() / 12, rtol=1e-5)


def test_loss_and_metrics_of_held_out_images(objective, params, batch):
    bound = objective.bind({"params": params})

    @jax.jit
    def run():
        logits = bound.encoder.logits(batch["image"])
        drawn = bound.decoder(jax.nn.one_hot(logits.argmax(axis=-1), 12))
        found = objective.apply({"params": params}, batch, train=False)
        return found, logits, drawn

    (loss, metrics), *numbers = run()
    logits, known = (np.asarray(x, np.float64) for x in numbers)
    ids = logits.argmax(axis=-1)
    mean, log_width = known[..., :3], known[..., 3:]
    value = 0.8 * np.asarray(batch["image"], np.float64) + 0.1
    logit = np.log(value / (1 - value))
    likelihood = stats.laplace.logpdf(logit, mean, np.exp(log_width))
    likelihood -= np.log(value * (1 - value))
    chance = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    kl = stats.entropy(chance, np.full(12, 1 / 12), axis=-1).mean() / 12
    np.testing.assert_allclose(loss, -likelihood.mean() + 2.0 * kl, rtol=1e-5)
    np.testing.assert_allclose(metrics["kl"], kl, rtol=1e-5)
    drawn = np.clip((1 / (1 + np.exp(-mean)) - 0.1) / 0.8, 0, 1)
    error = np.square(drawn - np.asarray(batch["image"])).mean()
    np.testing.assert_allclose(metrics["mse"], error, rtol=1e-5)
    shares = np.bincount(ids.ravel(), minlength=12) / ids.size
    np.testing.assert_allclose(metrics["codes_used"], (shares > 0).mean(), rtol=1e-6)
    perplexity = np.exp(stats.entropy(shares))
    np.testing.assert_allclose(metrics["perplexity"], perplexity, rtol=1e-5)


def test_edges_are_the_likeness_of_the_tokens_of_neighbours(params, batch):
    """Pair by pair in numpy, on a grid that is not square; of the tokens alone."""
    encoder = ENCODER.clone(image_size=(4, 8))
    image = batch["image"][:, :4]

    @jax.jit
    def run(variables):
        return [
            encoder.apply(variables, image, "edges", method="features"),
            encoder.apply(variables, image, method="logits"),
            encoder.apply(variables, image, "mean", method="features"),
            encoder.apply(variables, image, method=lambda m, x: m(m.embed(x))),
        ]

    found, logits, mean, last = run({"params": params["encoder"]})
    ids = np.asarray(logits).argmax(axis=-1)
    codes = np.asarray(params["encoder"]["output"]["kernel"], np.float64)[0, 0].T
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    pairs = [(4 * y + x, 4 * y + x + 1) for y in range(2) for x in range(3)]
    pairs += [(x, 4 + x) for x in range(4)]
    wanted = [[codes[i[a]] @ codes[i[b]] for a, b in pairs] for i in ids]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert len(np.unique(np.round(found, 4))) > 3, "or any would do"
    # The other pools are those of every encoder.
    np.testing.assert_allclose(mean, last.mean(axis=1), rtol=1e-5, atol=1e-6)


def test_edges_need_two_places():
    given = {"evaluate__pool": "edges"}
    tiny.resolve("dvae", **given)
    with pytest.raises(config.ConfigError) as caught:
        tiny.resolve("dvae", encoder__image_size=(4, 4), encoder__groups=3, **given)
    (line,) = caught.value.problems
    assert line.startswith("config.evaluate.pool: 'edges' needs ")


def test_temperature_and_weight_follow_the_step():
    """At the start, half-way and from the last on, along half a cosine."""
    for step, done in (
        (0, 0.0),
        (50, 0.5),
        (25, (1 - 0.5**0.5) / 2),
        (100, 1),
        (150, 1),
    ):
        found = dvae.cosine(jnp.asarray(step), 1.0, 1 / 16, 100)
        np.testing.assert_allclose(found, 1 + (1 / 16 - 1) * done, rtol=1e-6)
        found = dvae.cosine(jnp.asarray(step), 0.0, 6.6, 100)
        np.testing.assert_allclose(found, 6.6 * done, rtol=1e-6, atol=1e-6)


def test_training_draws_relaxed_tokens_by_the_step(objective, params, batch):
    """Cold and sharp it is the held-out loss of drawn tokens; the seed decides them."""

    @functools.partial(jax.jit, static_argnums=0)
    def loss_of(objective, step, seed):
        rngs = {"drop": jax.random.key(seed)}
        given = {**batch, "step": step}
        return objective.apply({"params": params}, given, train=True, rngs=rngs)[0]

    def loss(step, seed, **fields):
        return loss_of(objective.clone(**fields), step, seed)

    assert loss(0, 0) == loss(0, 0) != loss(0, 1)
    assert loss(0, 0) != loss(5, 0), "warmer, and KL weighs less"
    # Without temperature left, the relaxed token is a one-hot drawn by its chance.
    cold = {"temperature": 1e-6, "temperature_steps": 0, "kl_weight": 0.0}

    @jax.jit
    def wanted(image):
        bound = objective.bind({"params": params})
        logits = bound.encoder.logits(image)
        key = objective.apply(
            {}, rngs={"drop": jax.random.key(3)}, method=lambda m: m.make_rng("drop")
        )
        ids = (logits + jax.random.gumbel(key, logits.shape)).argmax(axis=-1)
        return bound.reconstruction(image, bound.decoder(jax.nn.one_hot(ids, 12)))

    np.testing.assert_allclose(loss(7, 3, **cold), wanted(batch["image"]), rtol=1e-6)


@pytest.fixture(scope="module")
def run():
    """BEiT with the tiny tokenizer."""
    return tiny.Run(tiny.resolve("beit"))


def test_a_frozen_tokenizer_moves_with_the_run_and_never_changes(run, tmp_path):
    teacher = run.state.frozen["frozen"]["tokenizer"]["params"]
    before = tiny.bits(teacher)
    saved = origins.newest(pathlib.Path(tiny.workdir_of("dvae")))[0]
    assert saved.parent.name == "1"
    (workdir,) = run.config.builds_on.values()
    assert workdir == tiny.workdir_of("dvae")
    for _ in range(3):
        run.step()
    assert tiny.bits(run.state.frozen["frozen"]["tokenizer"]["params"]) == before
    checkpoints = Checkpoints(tmp_path, 1, 0)
    checkpoints.save(run.state, 3)
    checkpoints.wait()
    restored, problems = checkpoints.restore(train.abstract_state(run.config, run.mesh))
    checkpoints.close()
    assert not problems
    assert tiny.bits(restored) == tiny.bits(run.state)
    assert len(set(before)) > 1, "it was filled"


def test_beit_asks_the_tokenizer_about_the_second_view(run):
    batch = jax.device_get(run.batch(0))
    assert batch["view"].shape == (8, 8, 8, 3)
    teacher = run.config.objective.teacher.objective
    variables = run.state.frozen["frozen"]["tokenizer"]
    pixels = jnp.asarray(batch["view"] / 255.0, jnp.float32)
    wanted = teacher.apply(variables, pixels, method="tokens")
    bound = run.config.objective.bind({"params": run.state.params, **run.state.frozen})
    found = bound.tokens({"view": pixels})
    np.testing.assert_array_equal(found, wanted)
    assert len(np.unique(found)) > 4, "or any would do"


def test_a_tokenizer_that_is_not_there_or_none_is_one_line(tmp_path):
    def lines(workdir, **changes):
        with pytest.raises(config.ConfigError) as caught:
            tiny.resolve("beit", objective__tokenizer=str(workdir), **changes)
        return caught.value.problems

    (line,) = lines("")
    assert line.startswith("config.objective.tokenizer: name the workdir")
    (line,) = lines(tmp_path / "none")
    assert line.endswith("none holds no run (no config.json)")
    copy = tmp_path / "copy"
    shutil.copytree(tiny.workdir_of("dvae"), copy)
    shutil.rmtree(copy / "checkpoints")
    (line,) = lines(copy)
    assert line.endswith("copy holds no checkpoint yet")
    # A run that goes on has it in its own checkpoint.
    (tmp_path / "begun" / "checkpoints" / "5").mkdir(parents=True)
    change = [("objective.tokenizer", str(copy))]
    begun = str(tmp_path / "begun")
    config.resolve(f"{tiny.CONFIG}:beit", change, 1, workdir=begun)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "config.json").write_text("{")
    (line,) = lines(tmp_path / "torn")
    assert "torn/config.json cannot be read: " in line
    (tmp_path / "torn" / "config.json").write_text("[]")
    (line,) = lines(tmp_path / "torn")
    assert line.endswith("torn/config.json cannot be read: it is no JSON object")
    values = json.loads((copy / "config.json").read_text())
    values["data"]["normalise"] = "of tomorrow"
    (tmp_path / "torn" / "config.json").write_text(json.dumps(values))
    (line,) = lines(tmp_path / "torn")
    assert "torn/config.json cannot be read: config.data.normalise: 'of tom" in line
    mae = tmp_path / "mae"
    shutil.copytree(tiny.workdir_of("dvae"), mae)
    (mae / "config.json").write_text(json.dumps(tiny.resolve("mae").values))
    (line,) = lines(mae)
    assert line.endswith("mae is no run of a tokenizer")
    (line,) = lines(tiny.workdir_of("dvae"), encoder__channels=1)
    assert "takes 3 channels, not the 1 of config.encoder.channels" in line


@pytest.mark.parametrize("objective", ["beit", "beit2"])
def test_what_stands_in_for_a_tokenizer_takes_grey_images(objective):
    """To compile for, and in a study whose tokenizer is not made yet."""
    changes = [("objective.tokenizer", ""), ("encoder.channels", "1")]
    path = f"{tiny.CONFIG}:{objective}"
    given = config.resolve(path, changes, None, with_data=False)
    image = jax.ShapeDtypeStruct((2, *given.encoder.image_size, 1), jnp.float32)
    view = jax.ShapeDtypeStruct((2, *given.objective.view_size, 1), jnp.float32)
    batch = {"image": image, "pixels": image, "view": view}
    rngs = {name: jax.random.key(0) for name in ("params", "mask", "drop")}
    init = functools.partial(given.objective.init, train=True)
    assert "params" in jax.eval_shape(init, rngs, batch)


def test_a_tokenizer_of_other_sizes_is_not_taken(tmp_path):
    """Its config says one width and its checkpoint another."""
    other = tmp_path / "other"
    shutil.copytree(tiny.workdir_of("dvae"), other)
    values = json.loads((other / "config.json").read_text())
    values["encoder"]["width"] = 16
    (other / "config.json").write_text(json.dumps(values))
    given = tiny.resolve("beit", objective__tokenizer=str(other))
    new = unittest.mock.MagicMock()
    new.restore.return_value = None, []
    told = r"config.objective.tokenizer: .*1 holds no (de|en)coder/.* of \("
    with pytest.raises(config.ConfigError, match=told):
        first_state(given, tiny.mesh_of(), new, Progress(10, silent=True))


def test_averaged_parameters_are_the_tokenizer_where_there_are_any(tmp_path):
    given = tiny.resolve("dvae", optim__ema=0.5)
    state = tiny.random_state(given, tiny.mesh_of(), 0.4)
    ema = closeness.random_like(state.params, 0.3)
    checkpoints = Checkpoints(tmp_path, 1, 0)
    checkpoints.save(dataclasses.replace(state, ema=ema), 1)
    checkpoints.close()
    (tmp_path / "config.json").write_text(json.dumps(given.values))
    beit = tiny.resolve("beit", objective__tokenizer=str(tmp_path))
    found = tiny.start(beit, tiny.mesh_of()).frozen["frozen"]["tokenizer"]["params"]
    assert tiny.bits(found) == tiny.bits(ema)
