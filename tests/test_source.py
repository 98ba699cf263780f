"""What the data of a run must offer, and what became of it, are told in time."""

import json

import numpy as np
import pytest
import tiny
from PIL import Image

from mimjax.config import ConfigError
from mimjax.data import BadDataError
from mimjax.run import loop, source, workdir
from mimjax.schema import flatten


def photos(folder, count, unreadable=()):
    """A folder of images in one class, some of which are none."""
    folder.mkdir(parents=True)
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


def test_what_is_trained_on_is_told(tmp_path):
    for name, count in (("a", 3), ("b", 2)):
        photos(tmp_path / "train" / name, count)
    given = folder_config(tmp_path)
    plan = tiny.setup.make_plan(given, 5)
    told = source.told(given, plan, 5)
    where = f"folder:{tmp_path}: 5 training images in 2 classes"
    assert told == f"{where}, 30 steps of 8 (more than there are)"
    changes = {"data__source": f"folder:{tmp_path}", "objective__num_classes": 5}
    told = source.told(tiny.resolve("classify", **changes), plan, 5)
    assert told.startswith(f"{where} (config.objective.num_classes: 5), 30 steps")


def test_a_run_that_its_data_ends_says_so_in_its_record(tmp_path):
    photos(tmp_path / "photos" / "a", 40, unreadable=range(5, 30))
    given = folder_config(tmp_path / "photos", data__bad_minimum=3)
    with pytest.raises(BadDataError):
        loop.run(given, tmp_path / "run", ["mimjax"])
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["status"] == 78
    assert "unreadable" in run["reason"] or "could not be read" in run["reason"]
    assert "bad data" in (tmp_path / "run" / "report.html").read_text()


def test_a_field_that_is_new_since_must_have_its_default(tmp_path):
    """An older version wrote a config.json without it."""

    def claim(**changes):
        given = tiny.resolve("mae", **changes)
        with workdir.claim(given, tmp_path):
            return given

    given = claim(optim__clip=1.0)
    (tmp_path / "metrics.jsonl").write_text("")
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


def test_other_images_than_at_the_start_are_refused_before_anything_moves(tmp_path):
    found = {"source": "digits", "length": 9, "content": "0123456789"}
    (tmp_path / "run.json").write_text(json.dumps({"data": found}))
    other = {**found, "length": 8}
    workdir.check_data(tmp_path, other)
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    workdir.check_data(tmp_path, found)
    with pytest.raises(ConfigError, match=r"had 9 images .* and now has 8"):
        workdir.check_data(tmp_path, other)
