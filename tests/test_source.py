"""What the data of a run must offer, and what became of it, are told in time."""

import dataclasses
import functools
import html
import json
import types
from typing import Any, cast

import numpy as np
import pytest
import tiny
from PIL import Image

from mimjax import config, data, metrics
from mimjax.config import ConfigError
from mimjax.data import BadDataError, Data, faults
from mimjax.data import folder as folders
from mimjax.run import loop, source, workdir
from mimjax.schema import flatten


def photos(folder, count, unreadable=()):
    """A folder of images in one class, some of which are none."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0)
    for n in range(count):
        path = folder / f"{n:02d}.png"
        pixels = noise.integers(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        if n in unreadable:
            path.write_bytes(b"no image")


def folder_config(top, **changes):
    return tiny.resolve("mae", data__source=f"folder:{top}", **changes)


def test_a_first_image_that_cannot_be_read_refuses_no_run(tmp_path):
    photos(tmp_path / "train" / "a", 3)
    photos(tmp_path / "val" / "a", 4, unreadable=[0, 1])
    source.check_images(folder_config(tmp_path, eval_every=5), 3)
    for path in (tmp_path / "val" / "a").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(
        BadDataError, match=r"none of 4 images .*/00\.png is unreadable"
    ):
        source.check_images(folder_config(tmp_path, eval_every=5), 3)
    source.check_images(folder_config(tmp_path), 3)
    without = {"data__holdout_fraction": 0.0, "eval_every": 5}
    given = folder_config(tmp_path / "train", **without)
    with pytest.raises(ConfigError, match="has no held-out image to evaluate"):
        source.check_images(given, 3)


def test_images_to_probe_with_of_which_none_is_held_out_are_one_line(tmp_path):
    for name in ("train/a", "val/a"):
        photos(tmp_path / name, 3)
    for name in ("train/a", "train/b", "val/c", "val/d"):
        photos(tmp_path / "other" / name, 3)
    asked = {"evaluate__source": f"folder:{tmp_path}/other", "eval_every": 5}
    asked["data__holdout_fraction"] = 0.0
    with pytest.raises(ConfigError, match=r"config\.evaluate\.source: .* no held-out"):
        source.check_images(folder_config(tmp_path, **asked), 3)


def test_processes_that_see_other_images_do_not_start(tmp_path, monkeypatch):
    photos(tmp_path / "train" / "a", 3)
    given, seen = folder_config(tmp_path), []
    found = source.fingerprint(given, tmp_path / "run")
    assert found["length"] == 2, "and one held out"
    monkeypatch.setattr(source, "same", lambda number: seen.append(number))
    with pytest.raises(BadDataError, match="do not see the same images of folder:"):
        source.fingerprint(given, tmp_path / "run")
    photos(tmp_path / "more" / "train" / "a", 5)
    with pytest.raises(BadDataError):
        source.fingerprint(folder_config(tmp_path / "more"), tmp_path / "run")
    assert len({*seen}) == 2


def test_a_folder_that_may_not_be_read_is_one_line(tmp_path, monkeypatch):
    photos(tmp_path / "train" / "a", 3)

    def forbidden(*_):
        raise PermissionError(13, "Permission denied", str(tmp_path / "lost+found"))

    given = folder_config(tmp_path)
    monkeypatch.setattr(folders, "scan", forbidden)
    with pytest.raises(BadDataError, match=r"config\.data\.source: .*lost\+found"):
        source.check_labels(given)
    with pytest.raises(ConfigError) as caught:
        tiny.resolve("mae", evaluate__source=f"folder:{tmp_path}")
    (line,) = caught.value.problems
    assert line.startswith("config.evaluate.source: ") and "lost+found" in line


def test_what_is_trained_on_is_told(tmp_path):
    for name, count in (("a", 3), ("b", 2)):
        photos(tmp_path / "train" / name, count)
    given = folder_config(tmp_path)
    plan = tiny.setup.make_plan(given, 5)
    told = source.told(given, plan, 5)
    where = f"folder:{tmp_path}: 5 training images in 2 classes"
    assert told == f"{where}, 30 steps of 8 (more than there are)"
    looked = source.told(folder_config(tmp_path, picture_every=5), plan, 5)
    assert looked.startswith(f"{where}, 1 held out, 30 steps of"), "a tenth of it"
    changes = {"data__source": f"folder:{tmp_path}", "objective__num_classes": 5}
    told = source.told(tiny.resolve("classify", **changes), plan, 5)
    assert told.startswith(f"{where} (config.objective.num_classes: 5), 30 steps")


def test_held_out_images_that_are_not_used_are_told(tmp_path):
    """As ImageNet's archives unpack: training images in classes, the others not."""
    for name in ("train/a", "train/b", "val"):
        photos(tmp_path / name, 2)
    plan = tiny.setup.train.Plan(30, 0, (0.0,), (1.0,))
    given = tiny.resolve("mae", data__source=f"folder:{tmp_path}")
    told = source.told(given, plan, 4)
    assert "; val/ is left aside and a share of train/ held out (data.holdout" in told
    for name in ("train/a", "train/b", "val/a", "val/b"):
        photos(tmp_path / "sorted" / name, 2)
    given = tiny.resolve("mae", data__source=f"folder:{tmp_path / 'sorted'}")
    assert "aside" not in source.told(given, plan, 4)


@pytest.mark.parametrize(
    ("held", "told"),
    [
        ("val", "val/ is left aside and a share of train/ held out (data.holdout_frac"),
        ("val", "holdout_fraction), for it holds no image"),
        ("val/x val/y", "holdout_fraction), for they have no class in common"),
        ("val/a val/b val/c val/d", "; 4 in val/ left out: train/ lacks their class"),
        ("val/a val/b", ""),
    ],
)
def test_held_out_images_are_there_and_of_the_classes(tmp_path, held, told):
    (tmp_path / "val").mkdir()
    for name in ("train/a", "train/b", *held.split()):
        photos(tmp_path / name, 2 * (name != "val"))
    given = folder_config(tmp_path, eval_every=5)
    source.check_images(given, 4)
    said = source.told(given, tiny.setup.train.Plan(30, 0, (0.0,), (1.0,)), 4)
    assert told in said
    assert ("; " in said) == bool(told)


def test_a_run_that_its_data_ends_says_so_in_its_record(tmp_path):
    photos(tmp_path / "photos" / "a", 40, unreadable=range(5, 30))
    given = folder_config(tmp_path / "photos", data__bad_minimum=3)
    with pytest.raises(BadDataError):
        loop.run(given, tmp_path / "run", ["mimjax"])
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["status"] == 78
    assert "unreadable" in run["reason"] or "could not be read" in run["reason"]
    told = html.escape(f"status 78: {run['reason']}")
    assert told in (tmp_path / "run" / "report.html").read_text()


def test_a_finished_run_that_lost_its_report_is_given_one(tmp_path):
    never = {"eval_every": 0, "picture_every": 0, "optim__warmup_steps": 0}
    given = tiny.resolve("mae", steps=1, **never)
    state = tiny.random_state(given, tiny.mesh_of(), 0.4)
    state = dataclasses.replace(state, step=state.step + 1)
    tiny.save_workdir(tmp_path, given, state)
    facts = {"status": 0, "step": 1, "steps": 1, "data": data.fingerprint(given.data)}
    (tmp_path / "run.json").write_text(json.dumps(facts))
    assert loop.run(given, tmp_path, ["mimjax"]) == loop.DONE
    assert (tmp_path / "report.html").exists()
    assert not (tmp_path / "metrics.jsonl").exists(), "there was nothing to train"


def test_a_warm_up_too_long_for_the_images_names_its_field():
    given = {"steps": 0, "epochs": 1, "optim__warmup_steps": 1000}
    for changes, told in (
        (given, r"warmup_steps: a warm-up of 1000 steps .* run of 50 \(0 for none\)"),
        (
            {**given, "optim__warmup_steps": 0, "optim__warmup_epochs": 0.999},
            r"warmup_epochs: a warm-up of 50 steps .* or set config.optim.warmup_steps",
        ),
    ):
        with pytest.raises(ConfigError, match=told):
            tiny.setup.make_plan(tiny.resolve("mae", **changes), 50 * 8)


def claimed(folder, **changes):
    """The config of a run that has begun to make a workdir its own."""
    given = tiny.resolve("mae", **changes)
    with workdir.claim(given, folder):
        workdir.take(given, folder)
    return given


def test_what_was_killed_before_it_had_begun_is_no_run(tmp_path):
    """Nothing measured, drawn or saved."""
    claimed(tmp_path, seed=2)
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "run.json").write_text("{}")
    claimed(tmp_path, seed=1)
    assert not (tmp_path / "run.json").exists()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "step_00000000.png").write_text("")
    with pytest.raises(ConfigError, match=r"config\.seed: 3 here, 1 in"):
        claimed(tmp_path, seed=3)


@pytest.fixture
def uncompiled(monkeypatch):
    """A run whose updates are not made need not be compiled."""
    monkeypatch.setattr(loop.setup, "compile_step", lambda *_: (print, None))
    monkeypatch.setattr(loop.setup, "step_flops", lambda *_: 0)


def test_a_run_that_a_mistake_of_ours_ends_says_so_in_its_record(
    monkeypatch, uncompiled, tmp_path
):
    monkeypatch.setattr(loop, "advance", lambda *_: [][1])
    with pytest.raises(IndexError):
        loop.run(tiny.resolve("mae"), tmp_path, ["mimjax"])
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["status"] == 70 and run["reason"].startswith("IndexError(")


def test_a_run_that_is_stopped_at_step_0_keeps_its_evaluation(
    monkeypatch, uncompiled, tmp_path
):
    def stopped(session, update, state, start):
        if not session.checkpoints.steps():
            session.writer.write(0, {"eval/loss": 1.5})
            session.checkpoints.save(state, 0)
            session.checkpoints.wait()
        return 75, 0

    monkeypatch.setattr(loop, "advance", stopped)
    for _ in range(2):
        assert loop.run(tiny.resolve("mae"), tmp_path, ["mimjax"]) == 75
        assert metrics.read_metrics(tmp_path) == [{"step": 0, "eval/loss": 1.5}]


def test_of_a_run_that_was_not_saved_no_picture_stays(tmp_path):
    """Another source may be named then, whose images they would not be."""
    (tmp_path / "pictures").mkdir()
    for name in ("step_00000000.png", "mine.png", "step_by_step.png"):
        (tmp_path / "pictures" / name).write_text("")
    (tmp_path / "pictures" / "encoder_00000007").mkdir()
    claimed(tmp_path)
    kept = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert kept == ["mine.png", "step_by_step.png"]


def test_a_field_that_is_new_since_must_have_its_default(tmp_path):
    """An older version wrote a config.json without it."""
    claim = functools.partial(claimed, tmp_path)
    given = claim(optim__clip=1.0)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    values = json.loads(json.dumps(given.values))
    assert ("optim", "clip") in flatten(values)
    del values["optim"]["clip"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError) as caught:
        claim(optim__clip=1.0)
    line, hint = caught.value.problems
    assert line == f"config.optim.clip: 1.0 here, not set in {tmp_path}"
    assert hint.startswith("--workdir: ")
    claim()


def test_a_workdir_of_another_model_or_without_locks_is_not_taken(
    tmp_path, monkeypatch
):
    claim = functools.partial(claimed, tmp_path)
    claim()
    claim(seed=1)  # nothing was begun
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"config\.seed: 0 here, 1 in"):
        claim()
    (tmp_path / "params.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=f"--config.init_from={tmp_path} in another"):
        claim(seed=1)
    (tmp_path / "params.safetensors").unlink()

    def without(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(workdir.fcntl, "flock", without)
    with pytest.raises(ConfigError, match=r"cannot lock .*: Function not implemented"):
        claim(seed=1)


def test_what_a_run_began_from_may_be_gone_when_it_goes_on(tmp_path):
    changes = [("init_from", "/nowhere")]
    with pytest.raises(ConfigError, match="holds no checkpoint"):
        config.resolve(f"{tiny.CONFIG}:mae", changes, 1, workdir=str(tmp_path))
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    found = config.resolve(f"{tiny.CONFIG}:mae", changes, 1, workdir=str(tmp_path))
    assert found.run.init_from == "/nowhere"


def test_what_a_run_began_from_may_be_elsewhere_when_it_goes_on(tmp_path, monkeypatch):
    """By another path, or moved; another run is another run."""
    monkeypatch.chdir(tmp_path)
    for name in ("old/vit", "run", "other/vit"):
        (tmp_path / name / "checkpoints" / "5").mkdir(parents=True)

    def claim(place):
        claimed(tmp_path / "run", init_from=place)

    claim("old/vit")
    claim(tmp_path / "old" / "vit")
    with pytest.raises(ConfigError, match=r"config\.init_from: 'other/vit' here, "):
        claim("other/vit")
    (tmp_path / "old").rename(tmp_path / "new")
    claim("new/vit")
    (tmp_path / "new" / "vit").rename(tmp_path / "new" / "swin")
    with pytest.raises(ConfigError, match=r"config\.init_from: 'new/swin' here, "):
        claim("new/swin")


def test_images_may_have_moved_when_a_run_goes_on(tmp_path):
    def given(where, **more):
        return tiny.resolve("mae", data__source=where, **more)

    for job in (1, 2):
        photos(tmp_path / f"job{job}", 3)
    before = given(f"folder:{tmp_path}/job1")
    written = json.loads(json.dumps(before.values))
    after = given(f"folder:{tmp_path}/job2", data__tfds_dir=str(tmp_path))
    assert workdir.differences(after, written, tmp_path) == []
    lines = workdir.differences(after, written, tmp_path, judged=True)
    names = [line.partition(":")[0] for line in lines]
    assert names == ["config.data.source", "config.data.tfds_dir"], "of a finished run"
    (line,) = workdir.differences(given("digits"), written, tmp_path)
    assert line.startswith("config.data.source: ")
    found = source.fingerprint(before, tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"data": found}))
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    assert source.fingerprint(after, tmp_path)["source"] == after.data.source
    photos(tmp_path / "job3", 4)
    with pytest.raises(ConfigError, match=r"had 2 images .* and now has 3"):
        source.fingerprint(given(f"folder:{tmp_path}/job3"), tmp_path)


def test_other_images_than_at_the_start_are_refused_before_anything_moves(tmp_path):
    found = {"source": "digits", "length": 9, "content": "0123456789"}
    (tmp_path / "run.json").write_text(json.dumps({"data": found}))
    other = {**found, "length": 8}
    workdir.check_data(tmp_path, other)
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    workdir.check_data(tmp_path, found)
    with pytest.raises(ConfigError, match=r"had 9 images .* and now has 8"):
        workdir.check_data(tmp_path, other)


@pytest.mark.parametrize(
    ("saved", "listed"), [(True, ["folder:/b", "folder:/c"]), (False, [])]
)
def test_what_was_unreadable_goes_on_with_a_run_alone(
    tmp_path, monkeypatch, saved, listed
):
    """By where its images lie now; a run that begins anew reads all of them anew."""
    workdir.write(tmp_path / "config.json", {"data": {"source": "folder:/a"}})
    for where in ("folder:/a", "folder:/c"):
        faults.Ledger(tmp_path, 9, 0, where).note("x.jpg", "empty", 1)
    monkeypatch.setattr(workdir, "has_checkpoint", lambda _: saved)
    now = types.SimpleNamespace(values={}, data=Data(source="folder:/b"))
    workdir.take(cast(Any, now), tmp_path)
    path = tmp_path / faults.FILE_NAME
    lines = path.read_text().splitlines() if path.exists() else []
    assert [json.loads(line)["source"] for line in lines] == listed
