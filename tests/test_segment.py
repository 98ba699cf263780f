"""What every pixel shows: masks on their way, scores, loss and the mean IoU."""

import functools
import io
import json
import struct
import zlib

import closeness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image, ImageOps
from sklearn.metrics import confusion_matrix

from mimjax import config, data, train
from mimjax.backbones import swin
from mimjax.data import Data, augment, digits, faults, order, upright
from mimjax.data.faults import Unusable
from mimjax.data.quiet import tf
from mimjax.objectives import IGNORED, segment
from mimjax.run import source
from mimjax.run.judge import Judge

BATCH, CLASSES = 8, 6
# Far from one another, so that the class of a pixel is seen in its colour.
COLOURS = np.asarray(
    [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 255, 255]],
    np.uint8,
)


def blocks(seed, height, width):
    """A mask of blocks of 16 pixels, each of a random class."""
    shape = -(-height // 16), -(-width // 16)
    few = np.random.default_rng(seed).integers(0, CLASSES, shape, np.uint8)
    return few.repeat(16, 0).repeat(16, 1)[:height, :width]


def write(images, masks, count, first=0):
    """Images whose colours are the classes that their masks name."""
    for n in range(first, first + count):
        mask = blocks(n, 90 + 3 * n, 120 - 2 * n)
        for top, array, kind in (
            (images, COLOURS[mask], "png"),
            (masks, mask, "png"),
        ):
            place = top / "ab"[n % 2] / f"{n:02d}.{kind}"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(place)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve images with masks, held out by their names."""
    top = tmp_path_factory.mktemp("masked")
    write(top / "images", top / "masks", 12)
    return top


@functools.cache
def read(top, stop, start=0, rows=BATCH, size=(48, 32), workdir=None, **changes):
    settings = {"holdout_fraction": 0.0, "mask_values": CLASSES, **changes}
    values = settings.pop("mask_values")
    stream = data.train_batches(
        Data(source=f"masks:{top}", **settings),
        image_size=size,
        mask_values=values,
        channels=3,
        seed=5,
        batch_size=BATCH,
        rows=np.arange(rows),
        start_step=start,
        stop_step=stop,
        workdir=workdir,
    )
    return list(stream)


def held(top, values=CLASSES, workdir=None, limit=100, **changes):
    return next(
        data.held_out(
            Data(source=f"masks:{top}", **changes),
            image_size=(48, 32),
            channels=3,
            split="test",
            limit=limit,
            mask_values=values,
            workdir=workdir,
        )
    )


def agreement(images, masks):
    """The share of pixels whose colour is that of the class in the mask."""
    far = np.square(images[..., None, :].astype(int) - COLOURS).sum(-1)
    return (far.argmin(-1) == masks).mean()


# ------------------------------------------------------------------- alignment


@pytest.mark.parametrize("scale", [(0.2, 1.0), (1.0, 1.0)])
def test_image_and_mask_are_cropped_and_mirrored_alike(folder, scale):
    batches = read(folder, 3, crop_scale=scale)
    for batch in batches:
        assert batch["mask"].shape == (BATCH, 48, 32)
        assert batch["mask"].dtype == np.uint8
        assert agreement(batch["image"], batch["mask"]) > 0.85
        assert agreement(batch["image"], batch["mask"][:, :, ::-1]) < 0.6


def test_the_mask_of_a_crop_is_what_lies_under_the_middle_of_each_pixel(folder):
    (batch,) = read(folder, 1)
    names = sorted(path for path in (folder / "masks").rglob("*.png"))
    mirrored = 0
    for row in range(BATCH):
        with Image.open(names[int(order.example(row, 5, 12))]) as image:
            mask = np.asarray(image)
        u = order.uniforms(row, 5, augment.NUM_UNIFORMS).numpy()
        ratio = (3 / 4 * 32 / 48, 4 / 3 * 32 / 48)
        top, left, h, w = augment.random_box(u, *mask.shape, (0.2, 1.0), ratio)
        y = top + ((np.arange(48) + 0.5) * h / 48).astype(int)
        x = left + ((np.arange(32) + 0.5) * w / 32).astype(int)
        wanted = mask[y][:, x]
        other = not np.array_equal(batch["mask"][row], wanted)
        np.testing.assert_array_equal(
            batch["mask"][row], wanted[:, ::-1] if other else wanted
        )
        mirrored += other
    assert 0 < mirrored < BATCH


def test_masks_move_nothing_else_and_are_neither_jittered_nor_lost(folder):
    plain, alone = read(folder, 3), read(folder, 3, mask_values=0)
    jitter = {"jitter": (0.4, 0.4, 0.4, 0.1), "workers": 1}
    jittered, later = read(folder, 3, **jitter), read(folder, 3, 1, 4, **jitter)
    for a, b, c in zip(plain, alone, jittered, strict=True):
        assert sorted(b) == ["image", "label"]
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["mask"], c["mask"])
        assert (a["image"] != c["image"]).any()
    # From the middle on, and for a host of two.
    for whole, half in zip(jittered[1:], later, strict=True):
        for name in ("image", "mask"):
            np.testing.assert_array_equal(half[name], whole[name][:4])


def test_held_out_images_and_masks_show_the_same_centre(folder):
    images, labels, masks = held(folder, holdout_fraction=0.5)
    assert (labels == -1).all()
    assert masks.shape == (len(images), 48, 32)
    assert agreement(images, masks) > 0.85
    assert len(held(folder, 0, holdout_fraction=0.5)) == 2


LAYOUTS = {
    "PATH/PART/images": ("train/images", "train/masks", "val/images", "val/masks"),
    "PATH/images/PART": ("images/train", "masks/train", "images/test", "masks/test"),
    "ADE20K": (
        "images/training",
        "annotations/training",
        "images/validation",
        "annotations/validation",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_part_of_its_own_is_held_out(tmp_path, layout):
    images, masks, others, their_masks = (tmp_path / p for p in LAYOUTS[layout])
    write(images, masks, 5)
    write(others, their_masks, 3, first=5)
    source = Data(source=f"masks:{tmp_path}")
    assert data.check(source, (32, 32), 3) == []
    assert data.class_names(source) == []
    before = data.fingerprint(source)
    assert before["length"] == 5
    found, _, masks_found = held(tmp_path)
    assert len(found) == 3
    assert agreement(found, masks_found) > 0.85
    Image.new("L", (1, 1)).save(masks / "a" / "00.png")
    assert data.fingerprint(source) != before, "another mask, other data"


# ------------------------------------------------------------------ mask files


def png(bits, kind, row):
    """The bytes of a PNG of one row, written out; `kind` 0 is grey, 3 a palette."""

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    head = struct.pack(">IIBBBBB", len(row), 1, bits, kind, 0, 0, 0)
    text = "".join(f"{value:0{bits}b}" for value in row)
    text += "0" * (-len(text) % 8)
    packed = int(text, 2).to_bytes(len(text) // 8, "big")
    parts = [chunk(b"IHDR", head)]
    if kind == 3:
        # Colours that say nothing of the classes.
        parts.append(chunk(b"PLTE", b"\x07\x07\x07" * 2**bits))
    parts += [chunk(b"IDAT", zlib.compress(b"\0" + packed)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(("bits", "kind"), [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0)])
@pytest.mark.parametrize("palette", [False, True])
def test_a_mask_holds_the_numbers_in_the_file(bits, kind, palette):
    most = min(2**bits, 256)
    row = [*range(min(most, 150)), *([IGNORED] if most == 256 else [])]
    kind = 3 if palette and bits <= 8 else kind
    found = upright.read_mask(png(bits, kind, row), (1, len(row)), 150, 10**6)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[0], row)


def encoded(array, kind="PNG", **options):
    out = io.BytesIO()
    Image.fromarray(array).save(out, kind, **options)
    return out.getvalue()


GOOD = blocks(0, 40, 60)
BAD = {
    "mask empty": lambda: b"",
    "mask not a PNG": lambda: encoded(GOOD, "JPEG"),
    "mask damaged": lambda: encoded(GOOD)[:-40],
    "mask in colours": lambda: encoded(COLOURS[GOOD]),
    "mask of another size": lambda: encoded(GOOD.T),
    "mask of unknown class 6": lambda: encoded(GOOD + np.uint8(1)),
    "mask of unknown class 1500": lambda: encoded(GOOD.astype(np.uint16) * 300),
    "mask too large": lambda: encoded(np.zeros((200, 200), np.uint8)),
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_masks_have_their_reason(reason):
    with pytest.raises(Unusable) as caught:
        upright.read_mask(BAD[reason](), (40, 60), CLASSES, 10_000)
    assert caught.value.reason == reason
    found = upright.read_mask(encoded(GOOD), (40, 60), CLASSES, 10_000)
    np.testing.assert_array_equal(found, GOOD)


@pytest.mark.parametrize("orientation", [3, 6, 7])
def test_image_and_mask_are_both_made_upright(tmp_path, orientation):
    """Each by its own Exif block: a mask is drawn on the image as it is seen."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    mask = blocks(3, 96, 64)
    seen = np.asarray(ImageOps.exif_transpose(turned(mask, exif)))
    for name, has_exif in (("plain", False), ("turned", True)):
        top = tmp_path / name
        for kind in ("images", "masks"):
            (top / kind).mkdir(parents=True)
        for n in range(2):
            stored = Image.fromarray(COLOURS[mask])
            stored.save(top / "images" / f"{n}.png", exif=exif)
            found, options = (mask, {"exif": exif}) if has_exif else (seen, {})
            Image.fromarray(found).save(top / "masks" / f"{n}.png", **options)
        images, _, masks = held(top, holdout_fraction=0.5)
        assert agreement(images, masks) > 0.85


def turned(array, exif):
    """An image as a camera stores it."""
    image = Image.fromarray(array)
    image.getexif()[0x0112] = exif[0x0112]
    return image


def test_images_without_a_fit_mask_are_counted_and_replaced(tmp_path):
    write(tmp_path / "images", tmp_path / "masks", 20)
    masks, workdir = tmp_path / "masks", tmp_path / "run"
    workdir.mkdir()
    (masks / "a" / "02.png").unlink()
    Image.fromarray(GOOD).save(masks / "b" / "05.png")
    (masks / "a" / "08.png").write_bytes(b"GIF89a")
    bad = {
        "a/02.png": "mask missing",
        "b/05.png": "mask of another size",
        "a/08.png": "mask not a PNG",
    }
    for batch in read(tmp_path, 5, workdir=workdir):
        assert agreement(batch["image"], batch["mask"]) > 0.85
    entries = (workdir / faults.FILE_NAME).read_text().splitlines()
    found = {e["path"]: e["reason"] for e in map(json.loads, entries)}
    assert found == bad
    (workdir / faults.FILE_NAME).unlink()
    images, _, shown = held(tmp_path, workdir=workdir, holdout_fraction=0.95)
    entries = (workdir / faults.FILE_NAME).read_text().splitlines()
    found = {e["path"]: e["reason"] for e in map(json.loads, entries)}
    assert found.items() <= bad.items() and len(found) >= 2
    assert len(images) == 19 - len(found)
    assert agreement(images, shown) > 0.85
    # Whoever does not ask for masks sees every image.
    images, _ = held(tmp_path, 0, holdout_fraction=0.95)
    assert len(images) == 19


def test_too_few_classes_are_told_with_a_file_and_its_class(tmp_path):
    write(tmp_path / "images", tmp_path / "masks", 20)
    told = r"/\d\d.png has a mask of unknown class [45]: raise config.objective.num_cl"
    with pytest.raises(faults.BadDataError, match=f"^step 0: [ab]{told}"):
        read(tmp_path, 5, mask_values=4, bad_minimum=1)
    with pytest.raises(faults.BadDataError, match=f"^none of . images .*: [ab]{told}"):
        held(tmp_path, 4, holdout_fraction=0.1)


def test_digits_have_the_masks_they_are_drawn_by(monkeypatch):
    """In full strength over black, ink is light."""
    plain = digits.draw(np.arange(70), "test", (24, 32))
    images, labels, masks = digits.draw_with_masks(np.arange(70), "test", (24, 32))
    np.testing.assert_array_equal(images, plain[0])
    assert (np.isin(masks, [10]) | (masks == labels[:, None, None])).all()
    monkeypatch.setattr(digits, "STRENGTH", (1.0, 1.0))
    scene = digits.load("test")
    black = scene._replace(photos=[0 * level for level in scene.photos])
    monkeypatch.setattr(digits, "load", lambda part, kind: black)
    ink = digits.draw(np.arange(70), "test", (24, 32))[0][..., 0]
    # 127 and 128 are rounded from both sides of one half.
    sure = (ink < 127) | (ink > 128)
    assert sure.mean() > 0.99
    np.testing.assert_array_equal((masks != 10)[sure], (ink > 127)[sure])


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_sources_without_files_have_masks_too(name):
    settings = Data(source=name, num_images=20, crop_scale=(1.0, 1.0), flip=False)
    sizes = {"image_size": (16, 16), "mask_values": 11, "channels": 3}
    numbers = {"seed": 0, "batch_size": 4, "start_step": 0, "stop_step": 1}
    rows = np.arange(4)
    streams = [
        data.train_batches(settings, **sizes, **numbers, rows=part, workdir=None)
        for part in (rows, rows[2:])
    ]
    whole, half = (next(stream) for stream in streams)
    np.testing.assert_array_equal(whole["mask"][2:], half["mask"])
    assert len(np.unique(whole["mask"])) > 3
    found = next(data.held_out(settings, **sizes, split="test", limit=5))
    assert [x.shape for x in found] == [(5, 16, 16, 3), (5,), (5, 16, 16)]
    without = {**sizes, "mask_values": 0}
    images, _ = next(data.held_out(settings, **without, split="test", limit=5))
    np.testing.assert_array_equal(images, found[0])


def test_what_cannot_work_is_one_line(tmp_path):
    (problem,) = data.check(Data(source=f"masks:{tmp_path}"), (32, 32), 3)
    assert problem.startswith("config.data.source: there are no folders ")
    assert str(tmp_path / "masks") in problem
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    (problem,) = data.check(Data(source=f"masks:{tmp_path}"), (32, 32), 3)
    assert f"there are no images in {tmp_path / 'images'}" in problem
    (tmp_path / "images" / "a.png").touch()
    with pytest.raises(config.ConfigError) as caught:
        tiny.resolve("segment", data__source=f"folder:{tmp_path}")
    (problem,) = caught.value.problems
    assert problem.startswith("config.data.source: 'folder:")
    assert problem.endswith("'segment' needs (use masks:PATH)")
    given = tiny.resolve("segment", data__source="digits")
    with pytest.raises(config.ConfigError) as caught:
        source.check_labels(given)
    (problem,) = caught.value.problems
    assert problem.startswith("config.objective.num_classes: 5, but the masks of ")
    source.check_labels(tiny.resolve("segment", objective__num_classes=11))


# ------------------------------------------------------------------- objective


def swin_encoder():
    return swin.Encoder((16, 32), (4, 4), 3, 8, (2, 1), (2, 2), window=2)


def probe_of(encoder, **fields):
    """An objective, its variables, and a batch of which a part is ignored."""
    objective = segment.Objective(encoder, num_classes=CLASSES, **fields)
    random = np.random.default_rng(0)
    height, width = encoder.image_size
    image = random.normal(size=(3, height, width, 3)).astype(np.float32)
    mask = random.integers(0, objective.mask_values, image.shape[:3], np.uint8)
    mask[0, :5] = IGNORED
    mask[2] = IGNORED
    batch = {"image": jnp.asarray(image), "mask": jnp.asarray(mask)}
    shapes = jax.eval_shape(
        lambda: objective.init(jax.random.key(0), batch, train=False)
    )
    return objective, closeness.random_like(shapes, 0.3), batch


PROBES = {
    "vit": ((), True),
    "vit, two layers": ((1, -1), False),
    "swin": ((), False),
    "swin, first stage": ((1, 2), True),
}


@pytest.mark.parametrize("name", PROBES)
def test_scores_loss_and_metrics_are_those_of_the_formulas(encoder, name):
    """The norm and the loss in float64, interpolation and counts by others."""
    vit = encoder(image_size=(16, 32))
    kind = vit if name.startswith("vit") else swin_encoder()
    layers, training = PROBES[name]
    objective, variables, batch = probe_of(kind, layers=layers)

    @jax.jit
    def run(variables, batch):
        how = {"train": training, "mutable": ["moving"]}
        called, moved = objective.apply(variables, batch, **how)
        scores, _ = objective.apply(
            variables, batch["image"], method="pixel_scores", **how
        )
        tokens = objective.apply(variables, batch["image"], method="probed")
        return tokens, scores, called, moved

    tokens, scores, (loss, metrics), moved = run(variables, batch)
    x = np.asarray(tokens, np.float64)
    grid = (2, 4) if name == "swin" else (4, 8)
    assert x.shape[1] == grid[0] * grid[1]
    before = jax.tree.map(np.asarray, variables["moving"])
    mean, variance = before["mean"], before["variance"]
    if training:
        rows = x.reshape(-1, x.shape[-1])
        mean, variance, unbiased = rows.mean(0), rows.var(0), rows.var(0, ddof=1)
        for key, new in (("mean", mean), ("variance", unbiased)):
            wanted = 0.9 * before[key] + 0.1 * new
            np.testing.assert_allclose(moved["moving"][key], wanted, rtol=1e-4)
    head = variables["params"]["head"]
    few = (x - mean) / np.sqrt(variance + 1e-5) @ np.asarray(head["kernel"], np.float64)
    few = (few + head["bias"]).reshape(3, *grid, CLASSES)
    large = tf.raw_ops.ResizeBilinear(
        images=few.astype(np.float32), size=(16, 32), half_pixel_centers=True
    ).numpy()
    np.testing.assert_allclose(scores, large, rtol=1e-3, atol=1e-3)

    # From here on by the scores that were found: a tie is no difference.
    logits, mask = np.asarray(scores, np.float64), np.asarray(batch["mask"])
    said = mask != IGNORED
    chances = log_chances(logits)
    truth, found = mask[said], np.asarray(scores).argmax(-1)[said]
    losses = -chances[said][np.arange(len(truth)), truth]
    np.testing.assert_allclose(loss, losses.sum() / mask.size, rtol=1e-5)
    table = confusion_matrix(truth, found, labels=range(CLASSES))
    both, true, predicted = np.diag(table), table.sum(1), table.sum(0)
    if training:
        np.testing.assert_allclose(metrics["miou"], mean_iou(table), rtol=1e-6)
        wanted = both.sum() / len(truth)
        np.testing.assert_allclose(metrics["pixel_accuracy"], wanted, rtol=1e-6)
    else:
        for key, wanted in zip(segment.COUNTS, (both, true, predicted), strict=True):
            np.testing.assert_array_equal(metrics[key], wanted)
    # One class fewer: 0 is nothing, and n stands for n - 1.
    other = segment.Objective(kind, num_classes=CLASSES - 1, ignore_zero=True)
    assert other.mask_values == objective.mask_values == CLASSES
    target = other.bind(variables).target(batch["mask"])
    wanted = np.where(said, mask.astype(int) - 1, -1)
    np.testing.assert_array_equal(target, wanted)


def log_chances(scores):
    """The logarithm of the softmax."""
    scores = scores - scores.max(-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def mean_iou(table):
    """By a confusion matrix: of classes that are neither there nor found nothing."""
    union = table.sum(0) + table.sum(1) - np.diag(table)
    return np.mean([t / u for t, u in zip(np.diag(table), union, strict=True) if u])


def test_ignored_pixels_give_no_loss_and_no_gradient(encoder):
    """By the head's bias, which interpolation leaves as it is, and by the image."""
    objective, variables, batch = probe_of(encoder(image_size=(16, 32), depth=1))

    @jax.jit
    def find(image, bias, mask):
        head = {**variables["params"]["head"], "bias": bias}
        params = {**variables["params"], "head": head}
        return objective.apply(
            {**variables, "params": params}, {"image": image, "mask": mask}, train=False
        )[0]

    bias = variables["params"]["head"]["bias"]
    pull = jax.jit(jax.value_and_grad(find, argnums=(0, 1)))
    _, (on_image, on_bias) = pull(batch["image"], bias, batch["mask"])
    assert (np.asarray(on_image)[:2] != 0).any()
    assert (np.asarray(on_image)[2] == 0).all(), "of the third all is ignored"
    score = functools.partial(objective.apply, method="pixel_scores")
    scores = jax.jit(score)(variables, batch["image"])
    chances = np.asarray(jax.nn.softmax(scores), np.float64)
    mask = np.asarray(batch["mask"])
    errors = (chances - np.eye(256)[mask][..., :CLASSES])[mask != IGNORED]
    np.testing.assert_allclose(on_bias, errors.sum(0) / mask.size, rtol=1e-4, atol=1e-6)
    loss, gradients = pull(batch["image"], bias, jnp.full_like(batch["mask"], IGNORED))
    assert loss == 0
    assert all((np.asarray(x) == 0).all() for x in gradients)


@pytest.mark.parametrize("images", [20, 5])
def test_the_mean_iou_is_that_of_all_held_out_images(tmp_path, images):
    """Whole batches, and a last one that is not full."""
    sizes = {"evaluate__test_images": images, "evaluate__batch_size": 8}
    given = tiny.resolve("segment", **sizes)
    mesh = tiny.mesh_of(2)
    plan = train.Plan(10, 0, np.zeros(3, np.float32), np.ones(3, np.float32))
    judge = Judge(given, plan, mesh, tmp_path, lambda: False)
    state = tiny.random_state(given, mesh, 0.3)
    judge.test["mask"][1::3, :7] = IGNORED
    found = judge.held_out(state)
    assert sorted(found) == ["loss", "miou", "pixel_accuracy"]
    variables = {"params": state.params, **state.frozen}
    image = jnp.asarray(judge.test["image"] / np.float32(255))
    mask = judge.test["mask"]
    assert mask.shape == (images, 16, 16)
    scores = jax.jit(
        lambda image: given.objective.apply(variables, image, method="pixel_scores")
    )(image)
    scores, said = np.asarray(scores, np.float64), mask != IGNORED
    table = confusion_matrix(mask[said], scores.argmax(-1)[said], labels=range(5))
    np.testing.assert_allclose(found["miou"], mean_iou(table), rtol=1e-12)
    accuracy = np.diag(table).sum() / said.sum()
    np.testing.assert_allclose(found["pixel_accuracy"], accuracy, rtol=1e-12)
    chances = log_chances(scores)
    losses = -chances[said][np.arange(said.sum()), mask[said]]
    np.testing.assert_allclose(found["loss"], losses.sum() / mask.size, rtol=1e-5)
    assert (judge.test["mask"] == mask).all(), "what fills up is no held-out image"


def test_classes_that_are_nowhere_do_not_count_and_nothing_is_no_error():
    both, true, found = (np.asarray(x) for x in ([2, 0, 0], [4, 0, 1], [3, 0, 2]))
    scores = segment.scores(both, true, found)
    assert scores["miou"] == pytest.approx((2 / 5 + 0) / 2)
    assert scores["pixel_accuracy"] == pytest.approx(2 / 5)
    assert segment.scores(*3 * (np.zeros(3),)) == {"miou": 0, "pixel_accuracy": 0}


@pytest.mark.parametrize("channels", [1, 3])
def test_the_columns_are_image_mask_and_prediction(encoder, channels):
    small = encoder(channels=channels, depth=1)
    objective = segment.Objective(small, num_classes=CLASSES)
    pixels = np.random.default_rng(1).uniform(size=(2, 16, 16, channels))
    mask = np.full((2, 16, 16), IGNORED, np.uint8)
    mask[:, 4:] = blocks(1, 12, 16)
    pixels = jnp.asarray(pixels, jnp.float32)
    batch = {"mask": jnp.asarray(mask), "pixels": pixels, "image": pixels}
    names = []

    @jax.jit
    def draw(batch):
        variables = objective.init(jax.random.key(0), batch, train=False)
        columns = objective.apply(variables, batch, method="panels")
        names.extend(columns)
        return columns, objective.apply(variables, pixels, method="pixel_scores")

    columns, scores = draw(batch)
    assert names == ["image", "mask", "predicted"]
    assert {x.shape for x in columns.values()} == {(2, 16, 16, 3)}
    np.testing.assert_allclose(columns["image"] - pixels, 0, atol=1e-6)
    # Of PASCAL VOC's development kit; what is ignored is white.
    voc = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    colours = np.full((256, 3), 255)
    colours[:CLASSES] = [*voc, [128, 0, 128]]
    np.testing.assert_allclose(columns["mask"], colours[mask] / 255, atol=1e-6)
    found = colours[np.asarray(scores).argmax(-1)] / 255
    np.testing.assert_allclose(columns["predicted"], found, atol=1e-6)
    columns = jax.device_get(columns)
    there = {*np.unique(mask[:, 4:]), *np.unique(np.asarray(scores).argmax(-1))}
    for zero in (False, True):
        found = segment.Objective(small, CLASSES, ignore_zero=zero).legend(columns)
        assert found == {n + zero: (*colours[n],) for n in there}
    some = segment.palette(21)[[8, 15, 20]]
    wanted = np.asarray([[64, 0, 0], [192, 128, 128], [0, 64, 128]])
    np.testing.assert_allclose(some, wanted / 255, atol=1e-6)
