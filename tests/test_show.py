"""What an encoder sees: the numbers, the sheets, the command, and the end of a run."""

import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

import closeness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image
from program import ROOT
from sklearn.decomposition import PCA

from mimjax import batches, evaluate, models, objectives, patches, show, train
from mimjax.convert import weights, workdirs
from mimjax.data.given import prepared
from mimjax.evaluate import components, maps, neighbours
from mimjax.report import heat, sights
from mimjax.run import drawing, endings, insight, setup

MEAN, STD = np.zeros(3, np.float32), np.ones(3, np.float32)


@pytest.fixture
def rng():
    """Numbers that are the same whichever tests ran before."""
    return np.random.default_rng(0)


# Where a head looks.


@pytest.mark.parametrize("cls", [True, False])
def test_maps_of_whole_attention(cls, rng):
    """Two tokens before six patches; what these two are given has no place."""
    attention = rng.random((2, 3, 8, 8), np.float32)
    found = maps.of_whole(jnp.asarray(attention), (2, 3), cls)
    for sample, head in np.ndindex(2, 3):
        weights_of = attention[sample, head]
        for row, column in np.ndindex(2, 3):
            key = 2 + 3 * row + column
            mean = sum(weights_of[query, key] for query in range(2, 8)) / 6
            wanted = weights_of[0, key] if cls else mean
            place = sample, head, row, column
            np.testing.assert_allclose(found.whole[place], wanted, rtol=1e-6)
            # The patch in the middle is that of row 1 and column 1.
            assert found.query[place] == weights_of[2 + 4, key]


@pytest.mark.parametrize(("number", "shift"), [(1, 0), (2, 1), (3, 0)])
def test_maps_of_attention_in_windows(number, shift):
    """Token q gives token k the weight 100 q + k where both are in one window."""
    rows, columns, side = 4, 6, 2
    windows = {}
    for row, column in np.ndindex(rows, columns):
        moved = (row - shift) % rows, (column - shift) % columns
        place = moved[0] // side, moved[1] // side
        inner = moved[0] % side * side + moved[1] % side
        windows.setdefault(place, {})[inner] = columns * row + column
    tokens = [[windows[p][i] for i in range(4)] for p in sorted(windows)]
    attention = np.array([[[[100 * q + k for k in w] for q in w]] for w in tokens])
    attention = np.concatenate([attention, attention + 7]).astype(np.float32)
    found = maps.of_windows(jnp.asarray(attention), (rows, columns), number)
    middle = columns * 2 + 3
    for window in tokens:
        for key in window:
            row, column = divmod(key, columns)
            wanted = 100 * sum(window) / 4 + key
            assert found.whole[0, 0, row, column] == wanted
            assert found.whole[1, 0, row, column] == wanted + 7
            own = 100 * middle + key if middle in window else 0
            assert found.query[0, 0, row, column] == own


def test_layers_of_swin_are_seen_on_their_own_grids():
    given = tiny.resolve("simmim_swin", encoder__image_size="(32, 32)")
    encoder = given.encoder
    assert maps.chosen_layers(encoder) == (1, 3)
    image = jax.random.normal(jax.random.key(1), (1, 32, 32, 3))

    init = functools.partial(encoder.init, method="features")
    shapes = jax.eval_shape(init, jax.random.key(0), image)["params"]
    seen = jax.jit(lambda params: maps.layer_maps(encoder, params, image, (1, 2, 3)))
    found = seen(closeness.random_like(shapes, 0.3))
    grids = [layer.whole.shape[2:] for layer in found]
    assert grids == [(8, 8), (8, 8), (4, 4)]
    for layer in found:
        # In each of the windows of 2 x 2 the weights given sum to one.
        count = layer.whole[0, 0].size // 4
        np.testing.assert_allclose(layer.whole.sum((2, 3)), count, rtol=1e-5)
        np.testing.assert_allclose(layer.query.sum((2, 3)), 1, rtol=1e-5)


# Components and neighbours.


def test_components_are_scikit_learn_s_with_our_signs(rng):
    tokens = rng.normal(size=(200, 12)) @ rng.normal(size=(12, 12)) + 3
    mean, directions, shares = components.fit(tokens, 3)
    theirs = PCA(3, svd_solver="full").fit(tokens)
    np.testing.assert_allclose(mean, theirs.mean_, rtol=1e-10)
    np.testing.assert_allclose(shares, theirs.explained_variance_ratio_, rtol=1e-10)
    for ours, other in zip(directions, np.array(theirs.components_), strict=True):
        largest = np.abs(other).argmax()
        np.testing.assert_allclose(ours, other * np.sign(other[largest]), atol=1e-10)
    np.testing.assert_allclose(components.fit(6 - tokens, 3)[1], directions, atol=1e-9)
    values, _ = components.project(tokens)
    projected = (tokens - mean) @ directions.T
    low, high = np.percentile(projected, [2, 98], axis=0)
    wanted = np.clip((projected - low) / (high - low), 0, 1)
    np.testing.assert_allclose(values, wanted, atol=1e-10)


def test_components_there_are_none_of_are_grey():
    values, shares = components.project(np.ones((5, 2), np.float32))
    assert (values == 0.5).all() and (shares == 0).all()
    values, shares = components.project(np.arange(10.0)[:, None] * [1, 0])
    assert (values[:, 1:] == 0.5).all() and np.ptp(values[:, 0]) == 1
    np.testing.assert_allclose(shares, [1, 0, 0])


def test_neighbours_are_those_of_a_search_by_hand(rng):
    features = rng.normal(size=(20, 5)).astype(np.float32)
    features[7] = 2 * features[3]  # the same direction
    features[11] = 0
    found, cosines = neighbours.nearest(features, np.array([3, 11]), 6)
    for asked, near, values in zip([3, 11], found, cosines, strict=True):
        own = features[asked].astype(np.float64)
        others = {}
        for number, row in enumerate(features.astype(np.float64)):
            if number != asked:
                length = np.linalg.norm(row) * np.linalg.norm(own)
                others[number] = row @ own / length if length else 0.0
        wanted = sorted(others, key=lambda number: (-others[number], number))[:6]
        assert near.tolist() == wanted
        np.testing.assert_allclose(values, [others[n] for n in wanted], atol=1e-6)
    assert found[0, 0] == 7


# The loss of every patch.

WITH_LOSSES = [
    name
    for name in objectives.names()
    if hasattr(objectives.load(name), "patch_losses")
]
# Instead of what is plain: what has more to go wrong.
OTHER = {"simmim": "simmim_swin", "aim": "aim spiral"}
VARIANTS = [*(OTHER.get(name, name) for name in WITH_LOSSES), "mae tokens"]


def resolved(variant):
    """The tiny config of an objective, or of another kind of it."""
    name, _, kind = variant.partition(" ")
    if kind == "tokens":
        return tiny.resolve(name, objective__tokenizer=tiny.workdir_of("vqkd"))
    return tiny.resolve(name, **({"objective__order": kind} if kind else {}))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_mean_of_the_losses_of_patches_is_the_loss(variant, rng):
    given = resolved(variant)
    state = tiny.start(given, tiny.mesh_of())
    variables = {"params": state.params, **state.frozen}
    images = rng.integers(256, size=(4, 16, 16, 3), dtype=np.uint8)
    raw = {"image": images}
    if any(given.view_size):
        raw["view"] = rng.integers(256, size=(4, *given.view_size, 3), dtype=np.uint8)

    pixels = variant.startswith(("mae", "simmim", "aim")) and "tokens" not in variant

    @jax.jit
    def ask(variables, raw):
        batch, how = batches.prepare(raw, MEAN, STD), {"rngs": train.streams(3, 0)}
        loss, _ = given.objective.apply(variables, batch, train=False, **how)
        losses = given.objective.apply(variables, batch, method="patch_losses", **how)
        if not pixels:
            return loss, losses, None
        panels = given.objective.apply(variables, batch, method="panels", **how)
        shown = [*panels.values()][:2]
        return loss, losses, [patches.patchify(x, given.encoder.cell) for x in shown]

    loss, losses, shown = jax.device_get(ask(variables, raw))
    assert np.isnan(losses).any() and np.isfinite(losses).any()
    np.testing.assert_allclose(np.nanmean(losses), loss, rtol=1e-5)
    # There is none where the sheet shows the image, by the same masks.
    if pixels:
        same = (shown[0] == shown[1]).all(axis=-1)
        np.testing.assert_array_equal(np.isnan(losses), same)


# Sheets.


@pytest.mark.parametrize(
    ("side", "columns", "wanted"),
    [(32, 1, 160), (32, 8, 160), (32, 9, 128), (224, 1, 224), (224, 8, 169)],
)
def test_small_images_grow_by_whole_factors_and_many_large_ones_shrink(
    side, columns, wanted
):
    images = np.zeros((1, side, side, 3), np.uint8)
    assert heat.cell_size(images, columns) == (wanted, wanted)


def test_every_patch_has_its_colour_and_nothing_another():
    values = np.array([[0.0, 0.5, 1.0], [np.nan, 0.25, 0.75]])
    shown = heat.colours(values, (8, 12))
    blocks = shown.reshape(2, 4, 3, 4, 3).swapaxes(1, 2).reshape(6, 16, 3)
    assert (blocks == blocks[:, :1]).all()
    assert tuple(blocks[3, 0]) == heat.NOTHING
    order = [0, 4, 1, 5, 2]
    brightness = blocks[order, 0].astype(int) @ [299, 587, 114]
    assert (np.diff(brightness) > 20_000).all()
    dark, bright = (np.full((1, 8, 12, 3), x, np.uint8) for x in (9, 200))
    over = [heat.over(image, shown[None]) for image in (dark, bright)]
    np.testing.assert_array_equal(over[0], over[1])


def test_a_frame_is_around_its_patch():
    image = np.full((1, 40, 60, 3), 100, np.uint8)
    (framed,) = heat.marked(image, (4, 6), (2, 3))
    changed = (framed != 100).any(axis=-1)
    assert not changed[20:30, 30:40].any()
    changed[20:30, 30:40] = True
    assert changed[18:32, 28:42].all() and changed.sum() == 14 * 14


def test_heads_beyond_sixteen_are_left_out_and_all_rows_named(
    tmp_path, monkeypatch, rng
):
    drawn = {}
    monkeypatch.setattr(
        sights.pictures,
        "lay",
        lambda cells, path, **how: drawn.update(how, cells=cells),
    )
    weights_of = rng.random((2, 31, 4, 4), np.float32)
    images = rng.integers(256, size=(2, 16, 16, 3), dtype=np.uint8)
    given = images, weights_of, weights_of, (2, 2), tmp_path / "a.png"
    sights.attention(*given, title="t", asks="class token")
    assert drawn["labels"][2:] == [f"head {n}" for n in range(1, 32, 2)]
    assert drawn["cells"].shape[:2] == (18, 4)
    assert drawn["captions"][2][1] == f"{weights_of[0, 0].max():.3g}"
    whole = np.full_like(weights_of, 1 / 17)
    given = images, whole, whole, *given[3:]
    sights.attention(*given, title="t", asks="class token", elsewhere=1)
    assert drawn["note"].endswith(" spread evenly they were 0.0588.")


# The command.


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Files of several kinds and sizes, one of them no image."""
    place = tmp_path_factory.mktemp("images")
    (place / "below").mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        pixels = rng.integers(256, size=(20 + number, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / "below" / f"{number}.png")
    Image.new("L", (40, 24), 90).save(place / "grey.jpg")
    (place / "torn.png").write_bytes(b"\x89PNG")
    return place


ENCODER = ["attention_layer_01", "attention_layer_02", "components", "neighbours"]


def names(workdir, step):
    """The pictures of a step."""
    folder = workdir / "pictures" / f"encoder_{step:08d}"
    return sorted(path.stem for path in folder.glob("*.png"))


def test_the_command_draws_and_says_what_without_tensorflow(tmp_path, pictures):
    for name in ("tensorflow", "sklearn"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not installed')\n")
    out, workdir = tmp_path / "out", tiny.workdir_of("mae")
    flags = [f"--workdir={workdir}", f"--out={out}", "--images", str(pictures)]
    done = subprocess.run(
        [sys.executable, "-m", "mimjax.show", *flags, str(tmp_path / "none.png")],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        f"{pictures / 'torn.png'}: truncated",
        f"{tmp_path / 'none.png'}: No such file or directory",
    ]
    assert names(out, 1) == [*ENCODER[:3], "losses", "neighbours", "ratios"]
    assert done.stdout.startswith("6 images, step 1: attention_layer_01.png, ")
    page = (out / "report.html").read_text()
    assert "What the encoder sees" in page and page.count("data:image/png") == 6
    assert f"Of the images in {pictures}, {pictures / 'below'}, {tmp_path}." in page
    assert not any(".tmp" in path.name for path in out.rglob("*"))


def test_of_another_project_s_encoder_the_encoder_is_drawn(tmp_path, pictures, capsys):
    model = models.of_workdir(pathlib.Path(tiny.workdir_of("mae")))
    arrays = weights.written(model.config.objective, model.variables["params"], "mae")
    rest = "decoder", "mask_token"
    arrays = {n: x for n, x in arrays.items() if not n.startswith(rest)}
    np.savez(tmp_path / "mae.npz", **arrays)
    changes = (("encoder.heads", "4"),)
    workdirs.save(
        weights.convert([tmp_path / "mae.npz"], "mae", changes), tmp_path / "w"
    )
    where = f"--workdir={tmp_path / 'w'}"
    assert show.main([where]) == endings.BAD_CONFIG
    assert (
        capsys.readouterr().err == "--images: there is no run with images; name some\n"
    )
    assert show.main([where, "--images", str(pictures / "below")]) == 0
    said = capsys.readouterr()
    assert said.err.endswith("missing: pictures of the encoder alone\n")
    assert said.out.startswith("5 images, converted: attention_layer_01.png, ")
    assert names(tmp_path / "w", 0) == ENCODER
    page = (tmp_path / "w" / "report.html").read_text()
    assert page.count("data:image/png") == 4


def test_what_cannot_be_drawn_is_told_in_a_line(tmp_path, capsys):
    workdir = f"--workdir={tiny.workdir_of('mae')}"
    (tmp_path / "file").write_text("")
    wrong = {
        "holds no checkpoint of a run": [f"--workdir={tmp_path}"],
        "is a file; name a folder": [workdir, f"--out={tmp_path / 'file'}"],
        "no image that can be used": [
            workdir,
            f"--out={tmp_path}",
            "--images",
            str(tmp_path),
        ],
        "required: --workdir": ["--images", "a.png"],
        "unrecognized arguments: --step=3": [workdir, "--step=3"],
    }
    for told, flags in wrong.items():
        assert show.main(flags) == endings.BAD_CONFIG
        assert told in capsys.readouterr().err.splitlines()[-1]


def test_files_for_an_encoder_of_other_channels_are_refused(tmp_path, capsys):
    given = tiny.resolve("mae", encoder__channels=4)
    (tmp_path / "run" / "checkpoints" / "1").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text(json.dumps(given.values))
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    flags = [f"--workdir={tmp_path / 'run'}", "--images", str(tmp_path / "a.png")]
    assert show.main(flags) == endings.BAD_CONFIG
    told = "--images: pictures have 1 or 3 channels, config.encoder.channels is 4\n"
    assert capsys.readouterr().err == told
    pixels = np.zeros((16, 16, 4), np.uint8)
    assert prepared(pixels, given.data, (16, 16), 4) is pixels
    with pytest.raises(ValueError, match=r"is 4; arrays of uint8 \[16, 16, 4\]"):
        prepared(pixels[:8], given.data, (16, 16), 4)


def test_images_of_one_s_own_leave_the_pictures_of_the_run(tmp_path, monkeypatch):
    """They go to a folder in its workdir; and it is drawn as the run multiplies."""
    given = []
    monkeypatch.setattr(setup, "settle", lambda: given.append("settled"))

    def draw(model, batch, out, when):
        given.append(out)
        raise OSError("drawn elsewhere")

    monkeypatch.setattr(show, "draw", draw)
    model = types.SimpleNamespace(step=1)
    monkeypatch.setattr(show, "loaded", lambda workdir, files: (model, None))
    workdir = pathlib.Path(tiny.workdir_of("mae"))
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    for flags in (["--images", str(tmp_path)], []):
        assert show.main([f"--workdir={workdir}", *flags]) == endings.STORAGE
    assert given == ["settled", workdir / "shown", "settled", workdir]


def test_what_cannot_be_looked_at_is_one_line(tmp_path, capsys):
    workdir = f"--workdir={tiny.workdir_of('mae')}"
    assert show.main([workdir, f"--out={tmp_path / ('x' * 300)}"]) == 78
    assert capsys.readouterr().err.startswith("--out: cannot look at ")
    loop = tmp_path / "a.png"
    loop.symlink_to(loop)
    assert show.whose([loop]) == f"the images in {tmp_path}"


def test_images_are_looked_at_before_the_model(tmp_path, capsys):
    """What is wrong with them is told, not what is wrong with a checkpoint."""
    for name in ("images", "none", "run/checkpoints/1"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(pathlib.Path(tiny.workdir_of("mae")) / "config.json", tmp_path / "run")
    (tmp_path / "images" / "torn.png").write_bytes(b"\x89PNG")
    flags = [f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out'}", "--images"]
    assert show.main([*flags, str(tmp_path / "none")]) == endings.BAD_CONFIG
    told = f"--images: there is no image in {tmp_path / 'none'}\n"
    assert capsys.readouterr().err == told
    assert show.main([*flags, str(tmp_path / "images")]) == endings.BAD_CONFIG
    _, told = capsys.readouterr().err.splitlines()
    assert told == "--images: there is no image that can be used"
    imports = [sys.executable, "-X", "importtime", "-m", "mimjax.show"]
    done = subprocess.run(
        [*imports, *flags, str(tmp_path / "none")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == endings.BAD_CONFIG
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "mimjax.data.listing" in loaded and "jax" not in loaded


def test_a_run_s_own_images_and_the_models_it_builds_on(tmp_path, capsys):
    shutil.copytree(tiny.workdir_of("beit"), tmp_path / "run")
    place = tmp_path / "run" / "config.json"
    values = json.loads(place.read_text())
    values["evaluate"]["test_images"] = 9
    place.write_text(json.dumps(values))
    model = models.of_workdir(tmp_path / "run")
    batch = show.images_of(model.config, tmp_path / "run", [])
    size = model.config.view_size
    assert {n: x.shape[:3] for n, x in batch.items()} == {
        "image": (9, 16, 16),
        "label": (9,),
        "view": (9, *size),
    }
    found = show.others(model, tiny.mesh_of())
    assert found is not None
    tokenizer = models.of_workdir(pathlib.Path(tiny.workdir_of("dvae")))
    theirs = tokenizer.variables["params"]["encoder"]
    ours = found["frozen"]["tokenizer"]["params"]["encoder"]
    assert tiny.bits(ours) == tiny.bits(theirs)
    values["objective"]["tokenizer"] = str(tmp_path / "gone")
    place.write_text(json.dumps(values))
    assert show.others(models.of_workdir(tmp_path / "run"), tiny.mesh_of()) is None
    assert "the tokenizer is missing" in capsys.readouterr().err


# The end of a run.


def test_stopped_between_pictures_they_are_drawn_later(tmp_path, monkeypatch, rng):
    monkeypatch.setattr(drawing, "RATIOS", (0.5, 0.99))
    given = tiny.resolve("simmim", evaluate__batch_size=6)
    mesh, answers = tiny.mesh_of(2, 2, 2), iter([False, True])
    images = rng.integers(256, size=(9, 16, 16, 3), dtype=np.uint8)
    batch = {"image": images, "label": np.arange(9, dtype=np.int32)}
    plan = train.Plan(7, 0, MEAN, STD)

    def make(should_stop):
        how = given, plan, mesh, tmp_path, should_stop
        return drawing.Drawing(*how, lambda: batch)

    state = tiny.start(given, mesh)
    before = tiny.bits(state)
    with jax.set_mesh(mesh):
        with pytest.raises(evaluate.Interrupted):
            make(lambda: next(answers)).draw(state, 7)
        later = make(lambda: False)
        assert not later.drawn(7) and names(tmp_path, 7) == []
        monkeypatch.setattr(later, "sheet", lambda *_: pytest.fail("it was there"))
        later.draw(state, 7)
    assert later.drawn(7)
    assert names(tmp_path, 7) == [*ENCODER[:3], "losses", "neighbours", "ratios"]
    assert not (tmp_path / "report.html").exists(), "the end of the run makes it"
    later.report()
    page = (tmp_path / "report.html").read_text()
    assert "What the encoder sees" in page and "Of held-out images." in page
    assert not [p for p in (tmp_path / "pictures").iterdir() if p.name[0] == "."]
    assert tiny.bits(state) == before
    assert insight.spread(9, 4).tolist() == [0, 2, 5, 8]
    assert later.missing(6) == (True, False), "what is seen is drawn at the end alone"


def test_what_is_not_finite_is_told_and_left_out(tmp_path, monkeypatch, capsys, rng):
    """A run does not end in an error after its last step because of it."""
    monkeypatch.setattr(drawing, "RATIOS", (0.9,))
    given, mesh = tiny.resolve("mae", evaluate__batch_size=8), tiny.mesh_of()
    images = rng.integers(256, size=(8, 16, 16, 3), dtype=np.uint8)
    batch = {"image": images, "label": np.full(8, -1, np.int32)}
    state = tiny.start(given, mesh)
    params = jax.tree.map(lambda x: x * np.nan, state.params)
    how = given, train.Plan(7, 0, MEAN, STD), mesh, tmp_path, evaluate.never
    drawn = {}
    monkeypatch.setattr(sights, "ratios", lambda found, *_, **__: drawn.update(found))
    drawing.Drawing(*how, lambda: batch).show(params, state.frozen, 7, "now")
    why = "no picture, for not all is finite"
    what = "attention of layer 1", "attention of layer 2", "components", "neighbours"
    assert capsys.readouterr().err.splitlines() == [
        f"{name}: {why}" for name in (*what, "losses", "ratios")
    ]
    assert names(tmp_path, 7) == [] and drawn == {}
    drawing.Drawing(*how, lambda: batch).show(state.params, state.frozen, 7, "now")
    # Of 16 patches 90 % are not whole ones.
    assert [*drawn] == [15 / 16]


def test_neighbours_are_drawn_of_a_few_of_many_images(tmp_path, monkeypatch, rng):
    """Those that are shown alone become colours, with their own classes."""
    given, mesh = tiny.resolve("mae", evaluate__batch_size=32), tiny.mesh_of()
    images = rng.integers(256, size=(60, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(60, dtype=np.int32) % 10
    drawn = []
    monkeypatch.setattr(sights, "neighbours", lambda *x, **_: drawn.extend(x))
    asks = insight.Insight(given, MEAN, STD, mesh, evaluate.never)
    params = tiny.start(given, mesh).params["encoder"]
    asks.alike(params, images, labels, tmp_path, "now")
    shown, asked, near, cosines, classes, _ = drawn
    assert len(shown) <= 6 * 8 and near.shape == cosines.shape == (6, 7)
    place = [int(np.flatnonzero((images == x).all((1, 2, 3)))[0]) for x in shown]
    assert [place[n] for n in asked] == insight.spread(60, 6).tolist()
    assert classes == [str(labels[n]) for n in place]
    how = {"pool": given.evaluate.pool, "chosen": (), "method": "features"}
    pixels = patches.unit(jnp.asarray(images))
    found = given.encoder.apply({"params": params}, pixels, **how)
    wanted, _ = neighbours.nearest(np.asarray(found), insight.spread(60, 6), 7)
    assert [[place[n] for n in row] for row in near] == wanted.tolist()
