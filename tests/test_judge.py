"""What is looked at between updates, and how it is cut short."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import tiny
from PIL import Image

from mimjax import batches, config, evaluate, patches, sharding, train
from mimjax.data.faults import BadDataError
from mimjax.evaluate import features
from mimjax.run import judge as judging
from mimjax.run.drawing import Drawing
from mimjax.run.judge import Judge

PLAN = train.Plan(10, 0, np.zeros(3, np.float32), np.ones(3, np.float32))


@pytest.mark.parametrize(("layers", "counted"), [((-2,), (1,)), ((1, -1), (1, 2))])
def test_features_are_of_the_layers_asked_for(tmp_path, layers, counted):
    given = tiny.resolve("mae", evaluate__layers=layers, evaluate__pool="max")
    judge = Judge(given, PLAN, tiny.mesh_of(), tmp_path, lambda: False)
    params = tiny.start(given, tiny.mesh_of()).params
    image = np.random.default_rng(0).integers(256, size=(2, 16, 16, 3), dtype=np.uint8)

    def first(module, image):
        return module.run(module.embed(image), chosen=counted)[1][:, 1:].max(axis=1)

    wanted = given.encoder.apply(
        {"params": params["encoder"]}, patches.unit(jnp.asarray(image)), method=first
    )
    found = judge.embed(params, judge.put(image))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


SMALL = {
    "evaluate__train_images": 40,
    "evaluate__test_images": 24,
    "evaluate__batch_size": 16,
    "evaluate__linear_iterations": 2,
    "evaluate__shots": (1, 2),
    "evaluate__health_images": 13,
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run on one device, and what judges it."""
    # Of the thousand classes of noise none is there twice.
    run = tiny.Run(tiny.resolve("mae", **SMALL, evaluate__source="digits"))
    folder = tmp_path_factory.mktemp("alone")
    return run, Judge(run.config, PLAN, run.mesh, folder, lambda: False)


def test_an_evaluation_changes_nothing_of_the_training(alone):
    """With everything that is judged, to the bit."""
    run, judge = alone
    host, found = jax.device_get(run.state), []
    for period in (5, 2):
        run.state = jax.device_put(host, sharding.shardings(host, run.mesh))
        values = []
        for step in range(4):
            if step % period == 0 and period < 5:
                judge.evaluate(run.state)
            values.append(run.step())
        found.append((values, tiny.bits(run.state)))
    assert found[0] == found[1]
    run.state = jax.device_put(host, sharding.shardings(host, run.mesh))


def test_the_average_is_what_is_judged(alone):
    run, judge = alone
    other = jax.tree.map(lambda x: 1.5 * x, run.state.params)
    states = (
        dataclasses.replace(run.state, ema=other),
        dataclasses.replace(run.state, params=other, ema={}),
        run.state,
    )
    averaged, wanted, latest = (judge.evaluate(state) for state in states)
    for found in (averaged, wanted, latest):
        found.pop("eval/seconds")
    assert averaged == wanted
    assert averaged["eval/loss"] != latest["eval/loss"]


def test_the_held_out_loss_is_the_mean_over_whole_batches(alone, tmp_path):
    """With the mask of the batch's number; here of three batches, and of one."""
    run, _ = alone
    for size, count in ((8, 3), (16, 1)):
        given = tiny.resolve("mae", **{**SMALL, "evaluate__batch_size": size})
        judge = Judge(given, PLAN, run.mesh, tmp_path, lambda: False)
        wanted = []
        for number in range(count):
            first = number * size
            rows = {n: jnp.asarray(x[first:][:size]) for n, x in judge.test.items()}
            batch = batches.prepare(rows, PLAN.mean, PLAN.std)
            loss, _ = given.objective.apply(
                {"params": run.state.params},
                {**batch, "step": 0},
                train=False,
                rngs=train.streams(0, number),
            )
            wanted.append(float(loss))
        found = judge.held_out(run.state)["loss"]
        np.testing.assert_allclose(found, np.mean(wanted), rtol=1e-5)


def test_a_mesh_judges_as_one_device_does(alone, tmp_path):
    run, judge = alone
    one, mesh = judge.evaluate(run.state), tiny.mesh_of(2, 2, 2)
    names = ["loss", "knn", "knn_10", "linear", "few_1", "few_2", "rankme"]
    names += [f"health/norm_{layer:02d}" for layer in (1, 2)]
    far = [f"health/attention_distance_{layer:02d}" for layer in (1, 2)]
    assert [*one] == [f"eval/{name}" for name in [*names, *far, "seconds"]]
    assert 1 < one["eval/rankme"] < 24
    assert all(0 < one[f"eval/{name}"] < 1 for name in names[1:6])
    assert all(1 < one[f"eval/{name}"] < 16 for name in far)
    judge = Judge(run.config, PLAN, mesh, tmp_path, lambda: False)
    state = jax.device_get(run.state)
    with jax.set_mesh(mesh):
        many = judge.evaluate(jax.device_put(state, sharding.shardings(state, mesh)))
    assert 0 < many.pop("eval/seconds") < 600
    assert {**one, **many} == pytest.approx(one, rel=1e-4)


def test_health_is_that_of_images_from_first_to_last(alone, monkeypatch):
    """Those of a folder come class by class."""
    (run, judge), seen = alone, []

    def extract(apply_fn, params, images, size):
        seen.append(images)
        return Judge.extract(judge, apply_fn, params, images, size)

    monkeypatch.setattr(judge, "extract", extract)
    judge.frozen(run.state.params)
    chosen = [0, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23]
    np.testing.assert_array_equal(seen[-1], judge.asked[0][chosen])


def test_without_images_to_learn_from_there_are_no_classifiers(tmp_path):
    given = tiny.resolve("mae", **{**SMALL, "evaluate__train_images": 0})
    judge = Judge(given, PLAN, tiny.mesh_of(), tmp_path, lambda: False)
    assert judge.told() == "at most 24 held-out images"
    found = judge.evaluate(tiny.start(given, tiny.mesh_of()))
    assert {"eval/loss", "eval/rankme"} < found.keys()
    assert not {"eval/knn", "eval/linear", "eval/few_1"} & found.keys()


def test_held_out_masks_are_the_same_in_every_run(alone, tmp_path):
    """Curves of runs that differ in their seed can be compared."""
    run, judge = alone
    wanted = judge.held_out(run.state)
    assert judge.held_out(run.state) == wanted
    given = tiny.resolve("mae", **SMALL, seed=5)
    other = Judge(given, PLAN, run.mesh, tmp_path, lambda: False)
    assert other.held_out(run.state) == wanted
    other.test["image"] = other.test["image"][::-1]
    assert other.held_out(run.state) != wanted, "another mask is another loss"


def test_asked_to_stop_it_neither_judges_nor_draws_and_can_do_both_later(tmp_path):
    small = {"evaluate__train_images": 8, "evaluate__knn_k": 2}
    sizes = {"evaluate__test_images": 8, "evaluate__batch_size": 8}
    given = tiny.resolve("mae", **small, **sizes, evaluate__linear_iterations=1)
    asked = True
    how = given, PLAN, tiny.mesh_of(), tmp_path, lambda: asked
    judge = Judge(*how)
    drawing = Drawing(*how, lambda: judge.test)
    state = tiny.start(given, tiny.mesh_of())
    for look in (judge.evaluate, lambda state: drawing.draw(state, 3)):
        with pytest.raises(evaluate.Interrupted):
            look(state)
    assert not drawing.drawn(3)
    asked = False
    drawing.draw(state, 3)
    assert drawing.drawn(3)
    assert 0 < judge.evaluate(state)["eval/loss"] < 10


@pytest.mark.parametrize("frozen", ["encoder", "encoder/blocks[:1]"])
def test_an_encoder_is_judged_once_where_it_is_not_trained(tmp_path, frozen):
    """So that of another one, which cannot come, the same is said."""
    given = tiny.resolve("linear", **SMALL, optim__frozen=(frozen,))
    mesh = tiny.mesh_of()
    judge = Judge(given, PLAN, mesh, tmp_path, lambda: False)
    first, second = (
        judge.evaluate(tiny.random_state(given, mesh, scale)) for scale in (0.1, 0.3)
    )
    assert [*first] == [*second]
    changed = {name[5:] for name in first if first[name] != second[name]}
    if frozen == "encoder":
        assert {"loss"} <= changed <= {"loss", "accuracy", "accuracy_top5", "seconds"}
    else:
        assert changed >= {"loss", "rankme", "health/norm_01"}


@pytest.mark.parametrize(
    ("size", "count", "devices", "expected"),
    [
        (256, 7, 1, 8),
        (256, 0, 1, 1),
        (256, 128, 1, 128),
        (256, 129, 1, 256),
        (96, 7, 1, 12),
        (96, 1, 1, 3),
        (256, 7, 8, 8),
        (24, 7, 8, 24),
    ],
)
def test_a_few_images_are_not_judged_in_a_large_batch(size, count, devices, expected):
    assert features.fitting(size, count, devices) == expected


def test_no_image_is_computed_thirty_times_over(tmp_path, monkeypatch):
    """Of 7 held-out images and batches of 256."""
    sizes = {"evaluate__test_images": 7, "evaluate__batch_size": 256}
    given = tiny.resolve("mae", **sizes, evaluate__train_images=0)
    judge, seen = Judge(given, PLAN, tiny.mesh_of(), tmp_path, lambda: False), []
    put = judge.put
    monkeypatch.setattr(judge, "put", lambda rows: seen.append(len(rows)) or put(rows))
    judge.evaluate(tiny.start(given, tiny.mesh_of()))
    assert max(seen) == 8


@pytest.mark.parametrize(
    ("objective", "images", "nameless"),
    [("linear", 12, []), ("attentive", 23, []), ("classify", 5, [0, 3])],
)
def test_classes_are_found_of_all_held_out_images_once(
    tmp_path, objective, images, nameless
):
    """Whole batches, and a last one that is not full; some images tell no class."""
    sizes = {"evaluate__test_images": images, "evaluate__batch_size": 8}
    given, mesh = tiny.resolve(objective, **sizes), tiny.mesh_of(2)
    judge = Judge(given, PLAN, mesh, tmp_path, lambda: False)
    state = tiny.random_state(given, mesh, 0.3)
    judge.test["label"][nameless] = -1
    found = judge.held_out(state)
    variables = {"params": state.params, **state.frozen}
    logits = jax.jit(
        lambda image: given.objective.apply(variables, image, method="logits")
    )(jnp.asarray(judge.test["image"] / np.float32(255)))
    scores, label = np.asarray(logits, np.float64), judge.test["label"]
    told = label >= 0
    assert (len(label), sum(told)) == (images, images - len(nameless))
    right = (scores.argmax(-1) == label)[told]
    assert found["accuracy"] == pytest.approx(right.mean())
    chances = scipy.special.log_softmax(scores, axis=-1)
    losses = -chances[np.arange(images), label][told]
    assert found["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    judge.test["label"][:] = -1
    with pytest.raises(BadDataError, match="no held-out image of synthetic has a"):
        judge.held_out(state)


@pytest.fixture
def unlabelled(tmp_path):
    """A run on a folder of pictures, without a class."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n, pixels in enumerate(np.random.default_rng(0).integers(256, size=(30, 32))):
        rows = np.tile(pixels.astype(np.uint8)[:, None, None], (1, 32, 3))
        Image.fromarray(rows).save(folder / f"{n}.png")
    sizes = {"encoder__image_size": (32, 32), "data__holdout_fraction": 0.5}
    return {**SMALL, **sizes, "data__source": f"folder:{folder}"}


def test_other_images_to_probe_with_leave_the_loss_as_it_is(unlabelled, tmp_path):
    """Digits beside the pictures that are trained on."""
    asked = {"evaluate__source": "digits"}
    digits = {**unlabelled, "data__source": "digits"}
    found, state = [], None
    for changes in (unlabelled, {**unlabelled, **asked}, digits):
        given, mesh = tiny.resolve("mae", **changes), tiny.mesh_of()
        state = state or tiny.start(given, mesh)
        judge = Judge(given, PLAN, mesh, tmp_path / "run", lambda: False)
        found.append((judge.evaluate(state), judge.told()))
    (alone, _), (both, told), (probed, _) = found
    assert told.endswith("24 held-out images and 40 to learn from of digits")
    names = {"eval/knn", "eval/linear", "eval/few_1", "eval/rankme"}
    assert not names & set(alone) - {"eval/rankme"}
    assert both["eval/loss"] == alone["eval/loss"] != probed["eval/loss"]
    assert [both[n] for n in sorted(names)] == [probed[n] for n in sorted(names)]


@pytest.mark.parametrize(("source", "count"), [("", 6), ("digits", 40)])
def test_however_few_are_trained_on_probes_learn_from_as_many(tmp_path, source, count):
    few = {"data__source": "digits", "data__num_images": 6, "evaluate__source": source}
    given = tiny.resolve("mae", **{**SMALL, **few, "evaluate__knn_k": (3,)})
    judge = Judge(given, PLAN, tiny.mesh_of(), tmp_path, lambda: False)
    assert len(judge.learned[1]) == count


def test_images_that_cannot_be_probed_with_are_one_line(unlabelled, tmp_path):
    place, none = unlabelled["data__source"], f"folder:{tmp_path}/none"
    for source, told in (
        (place, f"{place} has no labels (one sub-folder a class)"),
        (none, f"there is no folder {tmp_path}/none; point at your own images with "),
    ):
        with pytest.raises(config.ConfigError) as caught:
            tiny.resolve("mae", **unlabelled, evaluate__source=source)
        (line,) = caught.value.problems
        assert line.startswith(f"config.evaluate.source: {told}")
        assert "data.source" not in line
    with pytest.raises(config.ConfigError) as caught:
        tiny.resolve("mae", **unlabelled, evaluate__source="tfds:nowhere")
    (line,) = caught.value.problems
    assert line.startswith("config.evaluate.source: nowhere is not prepared under ")
    assert "set --config.data.tfds_dir" in line


def test_images_whose_class_is_not_said_are_left_out_of_classes(tmp_path):
    given = tiny.resolve("mae", **SMALL)
    judge = Judge(given, PLAN, tiny.mesh_of(), tmp_path, lambda: False)
    params = tiny.start(given, tiny.mesh_of()).params
    whole = judge.frozen(params)
    for labels in (judge.learned[1], judge.test["label"]):
        labels[:5], labels[5:] = 3, -1
    assert len(judge.known(params)[0]) == 5
    some = judge.frozen(params)
    assert some["knn"] == some["linear"] == 1, "of five images of one class"
    assert some["rankme"] == whole["rankme"], "which knows no classes"
    judge.learned[1][:] = -1
    none = judge.frozen(params)
    assert none.keys() < whole.keys() and "knn" not in none


def test_images_of_an_encoder_that_stays_are_not_kept(tmp_path, monkeypatch):
    """They are read in blocks, of which the features are the same."""
    given = tiny.resolve("mae", **SMALL)
    kept = Judge(given, PLAN, tiny.mesh_of(), tmp_path, lambda: False)
    monkeypatch.setattr(judging, "BLOCK", 17)  # of batches of 16: one a block
    given = tiny.resolve("linear", **SMALL, optim__frozen=("encoder",))
    judge = Judge(given, PLAN, tiny.mesh_of(), tmp_path, lambda: False)
    params = tiny.start(given, tiny.mesh_of()).params
    for part, whole in zip(judge.known(params), kept.known(params), strict=True):
        np.testing.assert_array_equal(part, whole)
    assert len(whole) == 40
    assert ("learned" in vars(kept), "learned" in vars(judge)) == (True, False)
    judge.should_stop = lambda: True
    with pytest.raises(evaluate.Interrupted):
        judge.known(params)
