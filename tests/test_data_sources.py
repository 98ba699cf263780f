"""The sources, unreadable files among them, held-out images and the config checks."""

import dataclasses
import functools
import io
import json
import os
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from mimjax import data
from mimjax.data import (
    Data,
    augment,
    digits,
    faults,
    folder,
    letters,
    listing,
    named,
    order,
    prepared,
    quiet,
    samples,
    scaled,
    upright,
)
from mimjax.data.quiet import tf

BATCH = 8
PHOTO = Image.fromarray(load_sample_images().images[1])


def jpeg(n, size=None):
    out = io.BytesIO()
    PHOTO.rotate(n).resize(size or (60 + n, 50)).save(out, "JPEG", quality=85)
    return out.getvalue()


def write_folder(top, count):
    for n in range(count):
        (top / f"{n:03d}.jpg").write_bytes(jpeg(n))
    return Data(source=f"folder:{top}", holdout_fraction=0.0)


def read(settings, stop, workdir=None, start=0, rows=range(BATCH), stream_seed=5):
    return list(
        data.train_batches(
            settings,
            image_size=(16, 16),
            channels=3,
            seed=stream_seed,
            batch_size=BATCH,
            rows=np.asarray(rows),
            start_step=start,
            stop_step=stop,
            workdir=workdir,
        )
    )


def held(settings, split, limit=100, image_size=(32, 32), channels=3):
    return next(
        data.held_out(
            settings, image_size=image_size, channels=channels, split=split, limit=limit
        )
    )


def listed(workdir):
    text = (workdir / faults.FILE_NAME).read_text()
    return [json.loads(line) for line in text.splitlines()]


# ---------------------------------------------------------------------- digits


def test_digits_depend_on_their_index_alone():
    images, labels = digits.draw(np.arange(200), "train", (32, 32))
    some, same = digits.draw(np.asarray([150, 3]), "train", (32, 32))
    np.testing.assert_array_equal(some, images[[150, 3]])
    np.testing.assert_array_equal(same, labels[[150, 3]])
    assert len({image.tobytes() for image in images}) == 200
    assert set(labels) == set(range(10))
    assert images.shape == (200, 32, 32, 3)
    assert images.std() > 40


def test_held_out_digits_are_others_over_other_regions():
    train, test = digits.load("train"), digits.load("test")
    seen = {glyph.tobytes() for glyph in train.glyphs}
    assert not seen & {glyph.tobytes() for glyph in test.glyphs}
    assert len(train.glyphs) + len(test.glyphs) == 1797
    assert abs(len(test.glyphs) / 1797 - 0.2) < 0.01
    whole = np.stack(load_sample_images().images)
    columns = train.photos[0].shape[2]
    np.testing.assert_array_equal(train.photos[0], whole[:, :, :columns])
    np.testing.assert_array_equal(test.photos[0], whole[:, :, columns:])
    shares = [np.bincount(part.labels) / len(part.labels) for part in (train, test)]
    np.testing.assert_allclose(*shares, atol=0.005)


def test_digits_can_be_read(monkeypatch):
    """Over black, upright and at full size, an image is the glyph of its label."""
    monkeypatch.setattr(digits, "STRENGTH", (1.0, 1.0))
    monkeypatch.setattr(digits, "DIGIT_SIDE", (1.0, 1.0))
    monkeypatch.setattr(digits, "TILT", 0.0)
    scene = digits.load("train")
    black = scene._replace(photos=[0 * level for level in scene.photos])
    monkeypatch.setattr(digits, "load", lambda part, kind: black)
    images, labels = digits.draw(np.arange(24), "train", (32, 32))
    ink = images[..., 0].reshape(24, -1) / np.float32(255)
    margin = slice(digits.MARGIN, -digits.MARGIN)
    glyphs = scene.glyphs[:, margin, margin].reshape(len(scene.glyphs), -1)
    distance = ((ink[:, None] - glyphs[None]) ** 2).max(-1)
    assert (distance.min(1) < 1e-4).all()
    np.testing.assert_array_equal(scene.labels[distance.argmin(1)], labels)


@pytest.mark.parametrize("size", [(64, 64), (48, 32), (16, 80)])
def test_digits_of_any_size(size):
    images, _ = held(Data(), "test", 5, size)
    assert images.shape == (5, *size, 3)
    grey, labels = held(Data(), "probe_train", 5, size, channels=1)
    assert grey.shape == (5, *size, 1)
    assert labels.dtype == np.int32
    assert data.class_names(Data()) == list("0123456789")


def test_held_out_letters_are_of_other_typefaces():
    train, test = digits.load("train", "letters"), digits.load("test", "letters")
    fonts = letters.FONTS
    assert not set(fonts["train"]) & set(fonts["test"])
    assert len(train.glyphs) == len(fonts["train"]) * len(letters.LETTERS)
    seen = {glyph.tobytes() for glyph in train.glyphs}
    assert not seen & {glyph.tobytes() for glyph in test.glyphs}
    assert set(train.labels) == set(test.labels) == set(range(26))


def test_a_letter_is_the_ink_of_its_typeface():
    glyphs, labels = letters.glyphs("test", 32)
    # What a typeface without the letter would draw is alike for all.
    size = len(letters.LETTERS)
    for font in np.split(glyphs, len(glyphs) // size):
        assert len({glyph.tobytes() for glyph in font}) == size
    # It fills the square one way or the other.
    sides = [(glyphs > 0).any(axis=axis)[:, [0, -1]].all(axis=1) for axis in (1, 2)]
    assert np.logical_or(*sides).all()
    # An I is a bar, an O a ring: in every typeface its middle is empty.
    bar, ring = (glyphs[labels == letters.CLASSES.index(letter)] for letter in "IO")
    assert ring[:, 14:18, 14:18].max() < 0.5 < bar.mean(axis=0).max()


def test_letters_are_drawn_as_digits_are():
    source = Data(source="letters", num_images=50)
    images, labels = held(source, "test", 40, (32, 32))
    drawn, same = digits.draw(np.arange(40), "test", (32, 32), "letters")
    np.testing.assert_array_equal(images, drawn)
    np.testing.assert_array_equal(labels, same)
    assert data.class_names(source) == list(letters.CLASSES)
    assert data.fingerprint(source) != data.fingerprint(Data(num_images=50))


# ------------------------------------------------------------------- synthetic


def test_synthetic_images_need_no_tensorflow():
    script = (
        "import sys, numpy as np; from mimjax import data\n"
        "d = data.Data(source='synthetic', num_images=6)\n"
        "assert data.check(d, (8, 8), 5) == [] and data.labelled(d) == 1000\n"
        "b = list(data.train_batches(d, image_size=(8, 8), channels=5, seed=0,\n"
        "    batch_size=8, rows=np.arange(4, 8), start_step=3, stop_step=5,\n"
        "    workdir=None))\n"
        "assert b[0] is b[1] and b[0]['image'].shape == (4, 8, 8, 5), b\n"
        "next(data.held_out(d, image_size=(8, 8), channels=5, split='test', limit=3))\n"
        "data.check(data.Data(), (8, 8), 3); data.normalise_constants(d, 3)\n"
        "data.fingerprint(d)\n"
        "assert 'tensorflow' not in sys.modules and 'PIL' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("seed", [0, 1, 2, 2**32])
def test_synthetic_images_are_held_out_from_a_run_of_any_seed(seed):
    settings = Data(source="synthetic", num_images=6)
    seen = {
        image.tobytes() for image in read(settings, 1, stream_seed=seed)[0]["image"]
    }
    for split in ("probe_train", "test"):
        images, _ = held(settings, split, image_size=(16, 16))
        assert not seen & {image.tobytes() for image in images}
        seen |= {image.tobytes() for image in images}


def test_synthetic_rows_are_those_of_the_global_batch():
    settings = Data(source="synthetic", num_images=6)
    (whole,) = read(settings, 1)
    (half,) = read(settings, 1, rows=range(4, 8))
    np.testing.assert_array_equal(half["image"], whole["image"][4:])
    np.testing.assert_array_equal(whole["image"][:2], whole["image"][6:])


# ---------------------------------------------------------------------- folder


def write_tree(top, *paths):
    for number, path in enumerate(paths):
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_bytes(jpeg(number))


def files(settings, part):
    name = settings.source.partition(":")[2]
    found = folder.scan(name, part, settings.holdout_fraction)
    return {found.path(i): int(found.labels[i]) for i in range(found.length)}


def test_folders_name_classes(tmp_path):
    write_tree(tmp_path, "cat/1.jpg", "dog/a/2.jpg", "dog/b.png", ".git/x.jpg")
    write_tree(tmp_path, "cat/.hidden.jpg", "notes/readme.txt", "labels.csv")
    settings = Data(source=f"folder:{tmp_path}", holdout_fraction=0.0)
    assert data.class_names(settings) == ["cat", "dog"]
    assert files(settings, "train") == {
        "cat/1.jpg": 0,
        "dog/a/2.jpg": 1,
        "dog/b.png": 1,
    }
    assert files(settings, "test") == {}


def test_a_flat_folder_has_no_labels(tmp_path):
    write_tree(tmp_path, "one.jpg", "more/two.jpg", "less/three.jpg")
    settings = Data(source=f"folder:{tmp_path}", holdout_fraction=0.0)
    assert data.labelled(settings) == 0
    assert set(files(settings, "train").values()) == {-1}
    assert (held(settings, "probe_train")[1] == -1).all()


def test_train_and_val_folders_are_kept_apart(tmp_path):
    write_tree(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "val/a/3.jpg", "val/b/4.jpg")
    settings = Data(source=f"folder:{tmp_path}")
    assert files(settings, "train") == {"a/1.jpg": 0, "b/2.jpg": 1}
    assert files(settings, "test") == {"a/3.jpg": 0, "b/4.jpg": 1}


# What a run leaves in its workdir.
RUN = "runs/x/run.json runs/x/pictures/1.png runs/x/checkpoints/5/manifest.ocdbt"


@pytest.mark.parametrize(
    ("given", "train", "test"),
    [
        ("train/a/1 train/b/2 car/3.JPG", "car/3.JPG:0 train/a/1:1 train/b/2:1", ""),
        ("train/a/1 train/b/2 devkit/notes.txt devkit/LICENSE", "a/1:0 b/2:1", ""),
        (f"train/a/1 train/b/2 {RUN} runs/study.json runs/laws.png", "a/1:0 b/2:1", ""),
        ("train/a/1 train/b/2 run.json loss.png pictures/1.png", "a/1:0 b/2:1", ""),
        ("car/3.png train/1.png run.json", "car/3.png:0 train/1.png:1", ""),
        ("Training/a/1 Training/b/2 Test/a/4 Test/b/3", "a/1:0 b/2:1", "a/4:0 b/3:1"),
        ("a/1 b/2 README valprep.sh desktop.ini", "a/1:0 b/2:1", ""),
        ("a/1 b/2 @eaDir/3 lost+found/4 __MACOSX/a/5", "a/1:0 b/2:1", ""),
        ("a/1.jpg a/1.NEF b/2.dng", "a/1.jpg:-1", ""),
        ("a/1 b/2 code/see.ipynb code/run.sh code/best.pth", "a/1:0 b/2:1", ""),
    ],
)
def test_what_is_a_part_a_class_or_an_image(tmp_path, given, train, test):
    write_tree(tmp_path, *given.split())
    settings = Data(source=f"folder:{tmp_path}", holdout_fraction=0.0)
    for part, wanted in (("train", train), ("test", test)):
        found = [f"{path}:{label}" for path, label in files(settings, part).items()]
        assert " ".join(found) == wanted


def test_what_would_never_end_is_not_read(tmp_path, monkeypatch):
    settings = write_folder(tmp_path, 2)
    os.mkfifo(tmp_path / "pipe.jpg")
    assert [*files(settings, "train")] == ["000.jpg", "001.jpg"]
    monkeypatch.setattr(folder, "MAX_BYTES", 100)
    content, _ = folder.scan(str(tmp_path), "train", 0.0).read(0)
    assert len(content) == 101
    with pytest.raises(faults.Unusable, match="too large"):
        upright.check_length(content)


@pytest.mark.parametrize(
    ("count", "fraction", "held"), [(0, 0.5, 0), (1, 0.5, 0), (9, 1e-9, 1), (9, 1, 8)]
)
def test_both_parts_have_an_image_where_there_are_two(count, fraction, held):
    names = [b"%d" % n for n in range(count)]
    train, test = folder.share(names, fraction)
    assert len(test) == held
    assert sorted(train + test) == names


def test_a_hash_of_the_path_holds_out_a_share(tmp_path):
    for n in range(400):
        (tmp_path / f"{n}.jpg").touch()
    settings = Data(source=f"folder:{tmp_path}", holdout_fraction=0.25)
    train, test = files(settings, "train"), files(settings, "test")
    assert not train.keys() & test.keys()
    assert len(train) + len(test) == 400
    assert 70 < len(test) < 130


def test_links_are_followed_and_loops_are_not(tmp_path):
    write_tree(tmp_path / "a", "x.jpg")
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "linked").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    assert list(listing.walk(tmp_path / "top")) == ["linked/x.jpg"]


def test_links_to_what_cannot_be_read_are_images_that_cannot(tmp_path):
    """They are counted, and the source is not refused for them."""
    settings = write_folder(tmp_path, 2)
    (tmp_path / "gone.jpg").symlink_to("unmounted/gone.jpg")
    (tmp_path / "round.jpg").symlink_to("round.jpg")
    (tmp_path / "notes.txt").symlink_to("unmounted/notes.txt")
    wanted = ["000.jpg", "001.jpg", "gone.jpg", "round.jpg"]
    assert [*files(settings, "train")] == wanted
    assert data.fingerprint(settings)["length"] == 4
    found = folder.scan(str(tmp_path), "train", 0.0)
    for number, reason in ((2, "missing"), (3, "unreadable")):
        with pytest.raises(faults.Unusable, match=reason):
            found.read(number)


def test_held_out_images_are_centre_crops(tmp_path):
    write_tree(tmp_path, "only.png")
    PHOTO.crop((0, 0, 300, 200)).save(tmp_path / "only.png")
    settings = Data(source=f"folder:{tmp_path}", holdout_fraction=0.0)
    image = held(settings, "probe_train", image_size=(56, 56))[0][0]
    resized = PHOTO.crop((0, 0, 300, 200)).resize((96, 64), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(image, np.asarray(resized)[4:60, 20:76])


@pytest.mark.parametrize(
    ("height", "width"), [(392, 500), (500, 392), (49, 53), (374, 374), (301, 200)]
)
def test_sides_of_held_out_images_are_rounded_as_by_torchvision(height, width):
    """Resize(256, bicubic) and CenterCrop(224), whatever training images are."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    short, long = min(height, width), max(height, width)
    sides = {short: 256, long: int(256 * long / short)}
    size = sides[width], sides[height]
    whole = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    left, top = (round((side - 224) / 2) for side in size)
    wanted = np.asarray(whole.crop((left, top, left + 224, top + 224)))
    for interpolation in ("bicubic", "bilinear"):
        image = scaled.centre(noise, (224, 224), Data(interpolation=interpolation))
        np.testing.assert_array_equal(image, wanted)
    mask = noise[..., 0]
    grey = Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)
    wanted = np.asarray(grey.crop((left, top, left + 224, top + 224)))
    np.testing.assert_array_equal(scaled.centre_of_mask(mask, (224, 224)), wanted)


@pytest.mark.parametrize("size", [(8, 400), (400, 8)])
def test_a_long_strip_is_enlarged_in_its_middle_alone(monkeypatch, size):
    """And shows what it shows where all of it is enlarged, be that by whole pixels."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    made, resize = [], scaled.resize

    def resized(*given, **named):
        made.append(resize(*given, **named))
        return made[-1]

    def shown():
        centre = scaled.centre(image, (56, 56), Data())
        return centre, scaled.centre_of_mask(image[..., 0], (56, 56))

    monkeypatch.setattr(scaled, "resize", resized)
    found = shown()
    assert max(max(x.shape) for x in made) < 64 * 20
    monkeypatch.setattr(scaled, "LONGEST", 10**6)
    for ours, wanted in zip(found, shown(), strict=True):
        np.testing.assert_array_equal(ours, wanted)
    assert max(made[-1].shape) > 64 * 40


@pytest.mark.parametrize("source", ["folder", "digits", "synthetic"])
def test_held_out_images_come_in_blocks_too(tmp_path, source):
    """What cannot be read is left out of its block, be that all of it."""
    settings = write_folder(tmp_path, 12)
    spoil(tmp_path, dict.fromkeys((1, 5, 6, 7, 8, 9), "empty"))
    if source != "folder":
        settings = Data(source=source, num_images=12)
    asked = {"image_size": (16, 16), "channels": 3, "split": "probe_train"}
    blocks = [*data.held_out(settings, **asked, limit=99, size=5)]
    lengths = [4, 0, 2] if source == "folder" else [5, 5, 2]
    assert [len(labels) for _, labels in blocks] == lengths
    whole = next(data.held_out(settings, **asked, limit=99))
    for parts, found in zip(zip(*blocks, strict=True), whole, strict=True):
        np.testing.assert_array_equal(np.concatenate(parts), found)


def test_only_where_all_blocks_are_unreadable_that_is_an_error(tmp_path):
    settings = write_folder(tmp_path, 4)
    spoil(tmp_path, dict.fromkeys(range(4), "empty"))
    asked = {"image_size": (16, 16), "channels": 3, "split": "probe_train"}
    blocks = data.held_out(settings, **asked, limit=4, size=2)
    assert len(next(blocks)[1]) == 0
    with pytest.raises(data.BadDataError, match="none of 4 images of folder:"):
        next(blocks)


def test_reading_held_out_images_ends_when_asked(tmp_path):
    settings = dataclasses.replace(write_folder(tmp_path, 40), workers=1)
    asked = []

    def should_stop():
        asked.append(True)
        return len(asked) > 3

    size = {"image_size": (16, 16), "channels": 3}
    images, labels = next(
        data.held_out(
            settings, **size, split="probe_train", limit=20, should_stop=should_stop
        )
    )
    assert (len(images), len(labels), len(asked)) == (3, 3, 20)


def test_fingerprints_differ_where_the_data_do(tmp_path):
    settings = write_folder(tmp_path, 3)
    before = data.fingerprint(settings)
    assert before == data.fingerprint(settings)
    assert before["length"] == 3
    (tmp_path / "001.jpg").write_bytes(b"x")
    assert data.fingerprint(settings)["content"] != before["content"]
    digit = [data.fingerprint(Data(num_images=n))["length"] for n in (5, 6)]
    assert digit == [5, 6]


# ------------------------------------------------------------------ unreadable

BAD = {
    "empty": b"",
    "not an image": b"<!doctype html><title>404</title>",
    "truncated": jpeg(1)[:900],
    "too small": jpeg(1, size=(5, 5)),
}


def spoil(top, bad):
    """Replace the content of some files: the index stays as it is."""
    for number, reason in bad.items():
        (top / f"{number:03d}.jpg").write_bytes(BAD[reason])


def test_bad_held_out_images_are_left_out_and_listed_too(tmp_path):
    for name in ("train/0", "val/0"):
        (tmp_path / name).mkdir(parents=True)
        write_folder(tmp_path / name, 4)
    spoil(tmp_path / "val/0", {1: "truncated", 3: "empty"})
    (tmp_path / "run").mkdir()
    for _ in range(2):  # listed once
        images, labels = next(
            data.held_out(
                Data(source=f"folder:{tmp_path}"),
                image_size=(16, 16),
                channels=3,
                split="test",
                limit=9,
                workdir=tmp_path / "run",
            )
        )
        assert len(images) == len(labels) == 2
    found = {entry["path"]: entry["reason"] for entry in listed(tmp_path / "run")}
    assert {path[-7:]: reason for path, reason in found.items()} == {
        "001.jpg": "truncated",
        "003.jpg": "empty",
    }


def test_bad_files_are_counted_and_move_nothing_else(tmp_path):
    (tmp_path / "images").mkdir()
    settings = write_folder(tmp_path / "images", 40)
    clean = read(settings, 10)
    bad = dict(zip((3, 9, 11, 17, 26, 39), [*BAD, "empty", "truncated"], strict=True))
    spoil(tmp_path / "images", bad)
    soiled = read(settings, 10, tmp_path)

    index = order.example(np.arange(80), 5, 40).numpy()
    for position in range(80):
        step, row = divmod(position, BATCH)
        same = np.array_equal(clean[step]["image"][row], soiled[step]["image"][row])
        assert same == (index[position] not in bad)
        if index[position] in bad:
            tried = (order.replacement(position, 5, n, 40) for n in range(16))
            good = next(n for n in tried if n not in bad)
            wanted = samples.Wanted((16, 16), (0, 0), 3, 5, BATCH, np.arange(BATCH))
            u = order.uniforms(position, 5, augment.NUM_UNIFORMS).numpy()
            part, images = (
                samples._crop(settings, wanted, jpeg(good), u),
                wanted.empty(1),
            )
            samples._finish(settings, wanted, part, u, 0, images)
            image = images[0][0]
            np.testing.assert_array_equal(soiled[step]["image"][row], image)
    entries = listed(tmp_path)
    found = {int(entry["path"][:3]): entry["reason"] for entry in entries}
    assert found == bad
    assert len(entries) == 6  # though each was drawn twice
    for entry in entries:
        first = int(np.flatnonzero(index == int(entry["path"][:3]))[0]) // BATCH
        assert entry["step"] <= first
        assert entry["process"] == 0
    counts = {"empty": 2, "truncated": 2, "not an image": 1, "too small": 1}
    assert data.error_counts(tmp_path) == counts

    again = read(settings, 10, tmp_path, start=4)
    np.testing.assert_array_equal(again[0]["image"], soiled[4]["image"])
    assert listed(tmp_path) == entries
    half = read(dataclasses.replace(settings, workers=1, prefetch=1), 10, rows=range(4))
    np.testing.assert_array_equal(half[9]["image"], soiled[9]["image"][:4])


def test_past_the_limit_the_run_stops_with_one_line(tmp_path):
    (tmp_path / "images").mkdir()
    settings = write_folder(tmp_path / "images", 40)
    spoil(tmp_path / "images", dict.fromkeys(range(12), "empty"))
    settings = dataclasses.replace(settings, bad_minimum=12)
    read(settings, 5, tmp_path)
    assert data.error_counts(tmp_path) == {"empty": 12}
    strict = dataclasses.replace(settings, bad_minimum=5, bad_fraction=0.25)
    (tmp_path / "data_errors.jsonl").unlink()
    with pytest.raises(data.BadDataError) as caught:
        read(strict, 5, tmp_path)
    assert "11 images are unreadable (11 empty), more than the 10" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert data.error_counts(tmp_path) == {"empty": 11}


def test_several_processes_count_together(tmp_path):
    """Each goes by the file, of which it reads what is new where it meets an image."""
    first, second = (
        faults.Ledger(tmp_path, 4, process, "folder:x") for process in range(2)
    )
    first.note("a", "empty", 0)
    first.note("b", "empty", 0)
    second.note("b", "empty", 1)
    second.note("c", "missing", 1)
    # Of another part, and a line that is being written.
    faults.Ledger(tmp_path, 4, 0, "folder:x", "test").note("t", "empty", 1)
    with (tmp_path / faults.FILE_NAME).open("a") as file:
        file.write('{"path": "d", "reason": "empty", "step": 2, "pro')
        file.flush()
        first.note("c", "missing", 2)
        file.write('cess": 3, "source": "folder:x", "part": "train"}\n')
    with pytest.raises(data.BadDataError, match=r"5 images are .*4 empty, 1 missing"):
        first.note("e", "empty", 3)
    assert [e["path"] for e in listed(tmp_path)] == ["a", "b", "c", "t", "d", "e"]


def test_what_is_listed_goes_along_with_its_images(tmp_path):
    """And is forgotten where a run begins anew: they may have been mended."""
    before, now = 'folder:/a/"images"', "folder:/b"
    faults.Ledger(tmp_path, 9, 0, before).note("x", "empty", 0)
    faults.Ledger(tmp_path, 9, 0, "folder:/c", "test").note("x", "empty", 0)
    faults.begin(tmp_path, before, now)
    faults.Ledger(tmp_path, 9, 0, now).note("x", "empty", 1)
    assert [e["source"] for e in listed(tmp_path)] == [now, "folder:/c"]
    assert data.error_counts(tmp_path) == {"empty": 2}
    with (tmp_path / faults.FILE_NAME).open("ab") as file:
        file.write(b'{"path": "\xff", "rea')  # killed
    faults.begin(tmp_path, now, now)
    faults.Ledger(tmp_path, 9, 0, now).note("y", "missing", 2)
    assert data.error_counts(tmp_path) == {"empty": 2, "missing": 1}
    faults.begin(tmp_path, None, now)
    assert data.error_counts(tmp_path) == {}


def test_what_an_evaluation_cannot_read_is_listed_and_ends_no_training(tmp_path):
    """Neither before a run is resumed nor after; an image of both is counted once."""
    write_tree(
        tmp_path, *(f"{part}/a/{n}.jpg" for part in ("train", "val") for n in range(9))
    )
    for part in ("train", "val"):
        for n in range(3):
            (tmp_path / part / "a" / f"{n}.jpg").write_bytes(b"")
    settings = Data(source=f"folder:{tmp_path}", bad_minimum=3)
    asked = {"image_size": (16, 16), "channels": 3, "limit": 9, "workdir": tmp_path}
    for _ in range(2):
        for split in ("probe_train", "test"):
            next(data.held_out(settings, split=split, **asked))
        read(settings, 5, tmp_path)
    entries = listed(tmp_path)
    parts = [entry["part"] for entry in entries]
    assert [parts.count(part) for part in ("train", "probe_train", "test")] == [3] * 3
    assert {entry["source"] for entry in entries} == {settings.source}
    assert data.error_counts(tmp_path) == {"empty": 6}
    # The same names in another source are other images.
    other = dataclasses.replace(settings, source=f"folder:{tmp_path}/val")
    next(data.held_out(other, split="probe_train", **asked))
    assert data.error_counts(tmp_path)["empty"] > 6


def test_a_folder_of_nothing_readable_stops_at_once(tmp_path):
    settings = write_folder(tmp_path, 4)
    spoil(tmp_path, dict.fromkeys(range(4), "not an image"))
    with pytest.raises(data.BadDataError, match="step 0: 16 images drawn one after"):
        read(settings, 5)
    with pytest.raises(data.BadDataError, match=r"none of 4 .* \(not an image\)$"):
        held(settings, "probe_train")


def test_a_failing_store_is_asked_again(tmp_path, monkeypatch):
    settings = write_folder(tmp_path, 2)
    found = folder.scan(str(tmp_path), "train", 0.0)
    failures = [OSError(5, "Input/output error")] * 3

    def failing(path, mode):
        if failures:
            raise failures.pop()
        return open(path, mode)

    monkeypatch.setattr(folder, "open", failing, raising=False)
    monkeypatch.setattr(faults, "RETRY_SECONDS", (0.0,) * 4)
    assert found.read(1) == (jpeg(1), -1)
    failures.extend([OSError(5, "Input/output error")] * 9)
    with pytest.raises(faults.Unusable, match="unreadable"):
        found.read(1)
    monkeypatch.undo()
    (tmp_path / "000.jpg").unlink()
    with pytest.raises(faults.Unusable, match="missing"):
        found.read(0)
    assert len(read(settings, 2)) == 2


# ------------------------------------------------------------------------ tfds


@functools.cache  # a name can be registered once
def tiny_builder():
    """A data set of 40 and 10 images, made by tensorflow-datasets."""
    import tensorflow_datasets as tfds

    class Tiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
            label = tfds.features.ClassLabel(names=["a", "b", "c"])
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            train, test = (self._generate_examples(n) for n in (40, 10))
            return {"train": train, "test": test}

        def _generate_examples(self, count):
            for n in range(count):
                image = np.full((20, 30, 3), 5 * n + (count == 10), np.uint8)
                yield n, {"image": image, "label": n % 3}

    return Tiny


@pytest.fixture(scope="module", params=["array_record", "tfrecord"])
def tiny(request, tmp_path_factory):
    """That data set in either format."""
    top = tmp_path_factory.mktemp(request.param)
    builder = tiny_builder()(data_dir=str(top), file_format=request.param)
    builder.download_and_prepare()
    return Data(source="tfds:tiny", tfds_dir=str(top), shuffle_buffer=16)


def numbers(batches):
    return np.concatenate([b["image"][:, 0, 0, 0] // 5 for b in batches]).tolist()


def test_named_data_sets_are_read_in_an_exact_order(tiny):
    assert data.check(tiny, (16, 16), 3) == []
    whole = read(tiny, 12)
    seen = numbers(whole)
    assert sorted(seen[:40]) == sorted(seen[40:80]) == list(range(40))
    assert seen[:40] != seen[40:80]
    assert [n % 3 for n in seen] == np.concatenate([b["label"] for b in whole]).tolist()
    resumed = read(tiny, 12, start=7, rows=range(4, 8))
    for a, b in zip(whole[7:], resumed, strict=True):
        np.testing.assert_array_equal(a["image"][4:], b["image"])
    assert numbers(read(tiny, 5, stream_seed=6)) != seen[:40]


@pytest.mark.parametrize(
    ("files", "soft", "hard", "allowed"),
    [
        (9, 1024, 4096, None),
        (1024, 1024, 4096, 3328),
        (1300, 1024, 4096, 4096),
        (1024, 4096, 4096, None),
        (1024, 256, resource.RLIM_INFINITY, 3328),
        (4000, resource.RLIM_INFINITY, resource.RLIM_INFINITY, None),
    ],
)
def test_files_that_stay_open_are_allowed(monkeypatch, files, soft, hard, allowed):
    asked = []
    monkeypatch.setattr(named.resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(named.resource, "setrlimit", lambda _, now: asked.append(now))
    named.make_room(files)
    assert asked == ([] if allowed is None else [(allowed, hard)])


def test_more_files_than_may_be_open_are_one_line(monkeypatch, tiny):
    def refused(*_):
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(named.resource, "getrlimit", lambda _: (100, 4096))
    monkeypatch.setattr(named.resource, "setrlimit", refused)
    if "array" not in tiny.tfds_dir:  # one at a time
        assert data.fingerprint(tiny)["length"] == 40
        return
    with pytest.raises(data.BadDataError, match=r"its 1 files stay open, .*\(100; see"):
        data.fingerprint(tiny)


def test_named_data_sets_hold_out_a_split_or_a_share(tiny):
    assert data.class_names(tiny) == ["a", "b", "c"]
    images, labels = held(tiny, "test")
    assert len(images) == 10
    assert (images[:, 0, 0, 0] % 5 == 1).all()
    np.testing.assert_array_equal(images[:, 0, 0, 0] // 5 % 3, labels)
    assert data.fingerprint(tiny)["length"] == 40
    part = dataclasses.replace(tiny, source="tfds:tiny:train[:50%]")
    assert data.fingerprint(part)["length"] == 20


def test_what_is_trained_on_is_not_held_out(tiny):
    for split, lengths in {"train+test": (45, 5), "train[:50%]+test": (27, 3)}.items():
        both = dataclasses.replace(tiny, source=f"tfds:tiny:{split}")
        assert data.check(both, (16, 16), 3) == []
        seen, kept = (held(both, part)[0] for part in ("probe_train", "test"))
        assert (len(seen), len(kept)) == lengths
        assert not set(seen[:, 0, 0, 0]) & set(kept[:, 0, 0, 0])


def test_a_share_of_the_only_split_is_held_out(tiny, monkeypatch):
    monkeypatch.setattr(prepared, "HELD_OUT_SPLITS", ())
    train, test = (named.open_records(tiny, part) for part in ("train", "test"))
    assert (train.length, test.length) == (36, 4)
    seen = set(held(tiny, "probe_train")[0][:, 0, 0, 0])
    kept = set(held(tiny, "test")[0][:, 0, 0, 0])
    assert (len(seen), len(kept), len(seen | kept)) == (36, 4, 40)
    assert test.path(0).endswith("#36")


@pytest.mark.parametrize(("limit", "lengths"), [(99, [15, 15, 10]), (30, [15, 15])])
def test_named_data_sets_come_in_blocks(tiny, limit, lengths):
    asked = {"image_size": (16, 16), "channels": 3, "split": "probe_train"}
    blocks = [*data.held_out(tiny, **asked, limit=limit, size=15)]
    assert [len(labels) for _, labels in blocks] == lengths
    (whole,) = data.held_out(tiny, **asked, limit=limit)
    for parts, found in zip(zip(*blocks, strict=True), whole, strict=True):
        np.testing.assert_array_equal(np.concatenate(parts), found)


def records_by_hand(tmp_path, cut, void=()):
    """A TFRecord file of sixteen images, some of them cut short or not there."""
    directory = tmp_path / "cut" / "1.0.0"
    directory.mkdir(parents=True)
    with tf.io.TFRecordWriter(
        str(directory / "cut-train.tfrecord-00000-of-00001")
    ) as w:
        for n in range(16):
            image = jpeg(n)[:300] if n in cut else jpeg(n)
            values = tf.train.BytesList(value=[] if n in void else [image])
            feature = tf.train.Feature(bytes_list=values)
            example = tf.train.Features(feature={"image": feature})
            w.write(tf.train.Example(features=example).SerializeToString())
    kind = "tensorflow_datasets.core.features"
    image = {"pythonClassName": f"{kind}.image_feature.Image", "image": {"shape": {}}}
    image["image"] = {"shape": {"dimensions": ["-1", "-1", "3"]}, "dtype": "uint8"}
    tree = {"pythonClassName": f"{kind}.features_dict.FeaturesDict"}
    tree["featuresDict"] = {"features": {"image": image}}
    (directory / "features.json").write_text(json.dumps(tree))
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    split = {"name": "train", "shardLengths": ["16"], "numBytes": "1"}
    split["filepathTemplate"] = template
    info = {"name": "cut", "version": "1.0.0", "fileFormat": "tfrecord"}
    (directory / "dataset_info.json").write_text(
        json.dumps({**info, "splits": [split]})
    )
    return Data(
        source="tfds:cut", tfds_dir=str(tmp_path), holdout_fraction=0.0, bad_minimum=1
    )


def test_a_bad_record_is_replaced_and_listed(tmp_path):
    settings = records_by_hand(tmp_path, [3], [5])
    settings = dataclasses.replace(settings, bad_minimum=2)
    batches = read(settings, 4, tmp_path)
    assert all((batch["label"] == -1).all() for batch in batches)
    assert all(image.std() > 5 for batch in batches for image in batch["image"])
    found = {entry["path"]: entry["reason"] for entry in listed(tmp_path)}
    (file,) = tmp_path.rglob("*tfrecord-*")
    assert found == {f"{file.name}#3": "truncated", f"{file.name}#5": "unreadable"}
    assert len(held(settings, "probe_train")[1]) == 14


def test_records_of_several_files_are_read_in_an_exact_order(tmp_path):
    stretches, names = [], {}
    for n, count in enumerate([3, 0, 7, 1, 5] * 5):
        names[str(tmp_path / f"{n:02d}")] = [f"{n}:{i}".encode() for i in range(count)]
    for file, contents in names.items():
        with tf.io.TFRecordWriter(file) as writer:
            for content in contents:
                writer.write(content)
        stretches.append(named.Stretch(file, 1, max(len(contents) - 1, 0)))
    found = named.InOrder(None, stretches, shuffle_buffer=1)
    wanted = [content for contents in names.values() for content in contents[1:]]
    (head,) = found.head(99, 99)
    assert head.records == wanted

    def in_turn(files):
        """One of each of sixteen; where one has ended, the next file has its place."""
        waiting, places = list(files), [None] * named.FILES_AT_ONCE
        while waiting or any(places):
            for n in range(len(places)):
                if places[n] is None and waiting:
                    places[n] = iter(names[waiting.pop(0)][1:])
                content = next(places[n], None) if places[n] else None
                if content is None:
                    places[n] = None
                else:
                    yield content

    count = len(wanted)
    u = tf.random.stateless_uniform([25], [7, 0], alg="philox")
    order_of_files = [stretches[n].file for n in tf.argsort(u).numpy()]
    streamed = [x for _, x in found.stream(0, 7).take(2 * count).as_numpy_iterator()]
    assert streamed[:count] == [*in_turn(order_of_files)]
    assert sorted(streamed[count:]) == sorted(wanted)
    again = found.stream(9, 7).take(20).as_numpy_iterator()
    assert [wanted[number] for number, _ in again] == streamed[9:29]


def test_files_that_cannot_be_read_are_one_line(tmp_path):
    settings = records_by_hand(tmp_path, [])
    (file,) = tmp_path.rglob("*tfrecord-*")
    file.unlink()
    file.mkdir()
    for reading in (read, lambda given, _: held(given, "probe_train")):
        with pytest.raises(data.BadDataError, match="the data cannot be read: ") as e:
            reading(settings, 2)
        assert str(file) in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("kind", ["CancelledError", "UnknownError"])
def test_what_is_not_the_data_s_fault_is_left_as_it_is(kind):
    error = getattr(tf.errors, kind)(None, None, "KeyError: 5\nTraceback (most recent")
    with pytest.raises(tf.errors.OpError), quiet.reading():
        raise error


@pytest.mark.parametrize("size", [0, 4, 5])
def test_bad_records_of_all_blocks_are_told_apart(tmp_path, size):
    settings = records_by_hand(tmp_path, range(16))
    asked = {"image_size": (16, 16), "channels": 3, "split": "probe_train"}
    asked |= {"limit": 10, "size": size, "workdir": tmp_path}
    with pytest.raises(data.BadDataError, match="none of 10 images of tfds:cut"):
        [*data.held_out(settings, **asked)]
    numbers = [entry["path"].partition("#")[2] for entry in listed(tmp_path)]
    assert numbers == [str(n) for n in range(10)]


# ---------------------------------------------------------------------- checks

WRONG = {
    "crop_scale": (0.0, 1.0),
    "crop_ratio": (2.0, 1.0),
    "interpolation": "lanczos",
    "jitter": (0.4, 0.4, 0.4, 0.6),
    "jitter_rate": 1.5,
    "normalise": "cifar",
    "mean": (0.5,),
    "std": (0.0, 1.0, 1.0),
    "holdout_fraction": 1.0,
    "num_images": 0,
    "max_pixels": 0,
    "bad_fraction": -0.1,
    "prefetch": 0,
    "workers": -1,
}


@pytest.mark.parametrize("field", WRONG)
def test_wrong_values_are_named(field):
    (problem,) = data.check(Data(**{field: WRONG[field]}), (32, 32), 3)
    assert problem.startswith(f"config.data.{field}: ")
    assert repr(WRONG[field]) in problem


def test_all_problems_are_reported_at_once():
    fields = {field: value for field, value in WRONG.items() if field != "std"}
    assert len(data.check(Data(**fields), (32, 32), 3)) == len(fields)
    assert data.check(Data(), (32, 32), 3) == []


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("imagenet", "none of digits, letters, folder:PATH"),
        ("digits:8", "none of digits, letters, folder:PATH"),
        ("folder", "none of digits, letters, folder:PATH"),
        ("folder:", "not named"),
        ("folder:/no/such/place", "there is no folder /no/such/place"),
        ("folder:~nobody_here/images", "there is no folder ~nobody_here/images"),
        ("tfds:no_such_set", "no_such_set is not prepared under"),
        ("tfds:a b", "not of the form"),
    ],
)
def test_a_missing_source_says_how_to_use_ones_own(source, says, tmp_path):
    settings = Data(source=source, tfds_dir=str(tmp_path))
    (problem,) = data.check(settings, (32, 32), 3)
    assert problem.startswith("config.data.source: ")
    assert says in problem
    assert "--config.data.source=folder:/path/to/images" in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"source": "folder:gs://b/images"}, "'gs://b/images': only folders that are"),
        ({"source": "masks:s3://b"}, "'s3://b': only folders that are mounted"),
        ({"source": "tfds:x", "tfds_dir": "gs://b"}, "tfds_dir 'gs://b': only folders"),
    ],
)
def test_paths_that_are_not_mounted_are_refused(fields, says):
    (problem,) = data.check(Data(**fields), (32, 32), 3)
    assert says in problem


def test_what_cannot_be_told_or_read_of_a_prepared_data_set_is_one_line(tmp_path):
    settings = records_by_hand(tmp_path, [])
    directory = tmp_path / "cut" / "1.0.0"
    features = directory / "features.json"
    tree = json.loads(features.read_text())
    kind = "tensorflow_datasets.core.features.class_label_feature.ClassLabel"
    label = {"pythonClassName": kind, "classLabel": {}}
    tree["featuresDict"]["features"]["label"] = label
    features.write_text(json.dumps(tree))
    assert data.check(settings, (32, 32), 3) == []
    assert data.labelled(settings) == 0 and held(settings, "probe_train")[1].max() == -1

    written = directory / "dataset_info.json"
    info = {**json.loads(written.read_text()), "fileFormat": "parquet"}
    written.write_text(json.dumps(info))
    (problem,) = data.check(settings, (32, 32), 3)
    assert "cut is prepared as parquet, of which nothing is read" in problem
    for config in ("small", "big"):
        shutil.copytree(directory, tmp_path / "several" / config / "1.0.0")
    settings = dataclasses.replace(settings, source="tfds:several")
    (problem,) = data.check(settings, (32, 32), 3)
    assert problem.endswith("name one: tfds:several/big, tfds:several/small")


def test_an_empty_folder_and_a_missing_split_are_noticed(tmp_path, tiny):
    (tmp_path / "notes.txt").touch()
    (problem,) = data.check(Data(source=f"folder:{tmp_path}"), (32, 32), 3)
    assert "there are no images in" in problem
    wrong = dataclasses.replace(tiny, source="tfds:tiny:valid")
    (problem,) = data.check(wrong, (32, 32), 3)
    assert "no split 'valid'; it has train, test" in problem
    for cut in ("[:50%", "[abc]", "[:99]"):
        wrong = dataclasses.replace(tiny, source=f"tfds:tiny:train{cut}")
        with pytest.raises(data.BadDataError) as caught:
            data.fingerprint(wrong)
        said = str(caught.value)
        assert said.startswith(f"config.data.source: 'train{cut}': ")
        assert "\n" not in said


def test_images_have_one_or_three_channels():
    (problem,) = data.check(Data(), (32, 32), 4)
    assert problem.startswith(
        "config.encoder.channels: 4 must be 3 (colour) or 1 (grey)"
    )


def test_normalisation_constants():
    mean, std = data.normalise_constants(Data(), 3)
    np.testing.assert_array_equal(mean, np.float32([0.485, 0.456, 0.406]))
    np.testing.assert_array_equal(std, np.float32([0.229, 0.224, 0.225]))
    mean, std = data.normalise_constants(Data(normalise="inception"), 1)
    assert (mean.tolist(), std.tolist()) == ([0.5], [0.5])
    mean, _ = data.normalise_constants(Data(mean=(0.1, 0.2)), 2)
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, [0.1, 0.2])
    np.testing.assert_allclose(
        data.normalise_constants(Data(), 1)[0], [0.449], atol=1e-6
    )
