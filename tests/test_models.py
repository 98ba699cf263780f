"""mimjax.load and mimjax.features, as they are called in a notebook."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import exports
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image

import mimjax
from mimjax import checkpoint, config, data, models, train
from mimjax.checkpoint import StorageError
from mimjax.convert import files, weights
from mimjax.data import given
from mimjax.export import folder as exported
from mimjax.objectives import MOVING
from mimjax.run import setup, workdir
from mimjax.run.judge import Judge

ROOT = pathlib.Path(__file__).parents[1]
RNG = np.random.default_rng(0)
COLOURS = RNG.integers(256, size=(40, 50, 3), dtype=np.uint8)
GREY = COLOURS[..., 0]


def saved(resolved, workdir, *states):
    """A workdir with the states as checkpoints 1, 2, ..."""
    checkpoints = checkpoint.Checkpoints(workdir, len(states), 0)
    for step, state in enumerate(states, 1):
        checkpoints.save(state, step)
    checkpoints.close()
    (workdir / "config.json").write_text(json.dumps(resolved.values))
    return workdir


@pytest.fixture
def model():
    """MAE on 16 x 16 pixels."""
    return mimjax.load(tiny.workdir_of("mae"))


@pytest.fixture
def pictures(tmp_path):
    """A folder of held-out images of every kind, none of them square."""
    place = tmp_path / "images"
    for part in ("train", "val"):
        (place / part).mkdir(parents=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    big = Image.fromarray(COLOURS).resize((90, 70))
    big.save(place / "train" / "a.png")
    big.save(place / "val" / "a.jpg")
    big.save(place / "val" / "b.jpg", exif=turned, subsampling=0)
    big.convert("L").save(place / "val" / "c.jpg")
    big.save(place / "val" / "d.png")
    Image.fromarray(GREY).save(place / "val" / "e.png")
    alpha = np.dstack([COLOURS, GREY.T.reshape(40, 50)])
    Image.fromarray(alpha).save(place / "val" / "f.png")
    sixteen = GREY.astype(np.uint16) * 256
    Image.fromarray(sixteen).save(place / "val" / "g.png")
    big.quantize(20).save(place / "val" / "h.gif")
    big.resize((24, 16)).save(place / "val" / "i.png")
    return place


def test_the_newest_checkpoint_of_a_run(tmp_path):
    resolved = tiny.resolve("mae")
    mesh = tiny.mesh_of(data=2, fsdp=2)
    states = [tiny.random_state(resolved, mesh, scale) for scale in (0.1, 0.2)]
    found = mimjax.load(str(saved(resolved, tmp_path, *states)))
    assert (found.step, found.fresh) == (2, [])
    # Trained on several devices, it is on one.
    assert {len(x.devices()) for x in jax.tree.leaves(found.variables)} == {1}
    assert tiny.bits(found.variables["params"]) == tiny.bits(states[1].params)
    encoder, params = found
    assert tiny.bits(params) == tiny.bits(states[1].params["encoder"])

    def run(image):
        tokens = encoder.apply({"params": params}, image, method="embed")
        return encoder.apply({"params": params}, tokens)

    assert jax.eval_shape(run, jnp.zeros((2, 16, 16, 3))).shape == (2, 17, 64)


def test_averaged_parameters_where_the_run_has_them(tmp_path):
    resolved = tiny.resolve("mae", optim__ema=0.9)
    state = tiny.random_state(resolved, tiny.mesh_of(), 0.1)
    state.ema["encoder"]["cls_token"] = state.params["encoder"]["cls_token"] + 1
    found = mimjax.load(saved(resolved, tmp_path, state))
    assert tiny.bits(found.variables) == tiny.bits({"params": state.ema})


def test_what_moves_beside_the_parameters_and_without_the_run_it_builds_on(tmp_path):
    """A tokenizer has its codes though the teacher's workdir is not there any more."""
    shutil.copytree(tiny.workdir_of("vqkd"), tmp_path, dirs_exist_ok=True)
    values = json.loads((tmp_path / "config.json").read_text())
    values["objective"]["teacher"] = str(tmp_path / "gone")
    (tmp_path / "config.json").write_text(json.dumps(values))
    found = mimjax.load(tmp_path)
    codes = found.variables[MOVING]["codes"]
    assert (found.fresh, codes.shape, float(np.std(codes)) > 0) == ([], (16, 8), True)


def test_a_file_of_another_project_starts_what_it_does_not_hold(tmp_path, model):
    """The encoder as a run of its config does, and says so; heads are left out."""
    params = model.variables["params"]
    arrays = weights.written(model.config.objective, params, "mae")
    arrays = {n: x for n, x in arrays.items() if "decoder_pred" not in n}
    del arrays["mask_token"], arrays["patch_embed.proj.bias"]
    found = mimjax.load(exports.released(tmp_path, arrays, model.encoder.heads))
    rest = ["decoder_pred/bias", "decoder_pred/kernel"]
    rest += ["encoder/patch/bias", "mask_token"]
    assert (found.step, sorted(found.fresh)) == (0, rest)
    assert {"decoder_pred", "mask_token"}.isdisjoint(found.variables["params"])
    start = jax.jit(lambda: train.init_state(found.config).params)()
    wanted = jax.tree.map(np.array, params["encoder"])
    wanted["patch"]["bias"] = start["encoder"]["patch"]["bias"]
    assert tiny.bits(found.params) == tiny.bits(wanted)


@pytest.mark.parametrize("layout", ["transformers_vit_mae", "timm_vit"])
def test_a_folder_says_its_heads_and_colours(tmp_path, layout):
    """What `python -m mimjax.export` wrote is the same model when it is loaded."""
    asked = {"evaluate__pool": "max", "evaluate__layers": "1,"}
    resolved = tiny.resolve("mae", data__normalise="inception", **asked)
    params = tiny.random_state(resolved, tiny.mesh_of(), 0.1).params
    whole = models.Model(resolved, {"params": params}, [], 1)
    exported.pack(whole, layout, tmp_path)
    found = mimjax.load(tmp_path)
    assert found.encoder.heads == 4
    judged = found.config.evaluate
    assert (judged.pool, judged.layers) == ("max", (1,)), "so are its features"
    np.testing.assert_array_equal(found.constants, whole.constants)
    assert tiny.bits(found.params) == tiny.bits(params["encoder"])


def test_an_exported_folder_is_no_workdir_and_no_run(tmp_path):
    """To train there would leave a model of two halves."""
    resolved = tiny.resolve("mae")
    params = tiny.random_state(resolved, tiny.mesh_of(), 0.1).params
    exported.pack(
        models.Model(resolved, {"params": params}, [], 1), "timm_vit", tmp_path
    )
    told = pytest.raises(
        config.ConfigError, match="holds weights, converted or exported"
    )
    with told, workdir.claim(resolved, tmp_path):
        pass
    with pytest.raises(ValueError, match=r"json is no run's: make a workdir of weig"):
        config.of_workdir(str(tmp_path))


def newer(workdir):
    values = json.loads((workdir / "config.json").read_text())
    values["encoder"]["colour_of_tomorrow"] = 1
    (workdir / "config.json").write_text(json.dumps(values))


def other_objective(workdir):
    values = json.loads((workdir / "config.json").read_text())
    values["objective"]["name"] = "of_tomorrow"
    (workdir / "config.json").write_text(json.dumps(values))


def other_width(workdir):
    values = json.loads((workdir / "config.json").read_text())
    values["encoder"]["width"] = 32
    (workdir / "config.json").write_text(json.dumps(values))


def flipped(workdir):
    """A bit of the largest file."""
    every = [p for p in (workdir / "checkpoints").rglob("*") if p.is_file()]
    path = max(every, key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def without_state(workdir):
    shutil.rmtree(workdir / "checkpoints" / "1" / "state")


def cut_description(workdir):
    path = workdir / "checkpoints" / "1" / "state" / "_METADATA"
    path.write_text(path.read_text()[:100])


DAMAGES = {
    newer: (ValueError, "encoder.colour_of_tomorrow: no such field"),
    other_objective: (ValueError, "config.objective.name: 'of_tomorrow' is none of"),
    other_width: (StorageError, "not those of its config.json"),
    flipped: (StorageError, "checkpoints/1"),
    without_state: (StorageError, "cannot be read"),
    cut_description: (StorageError, "cannot be read"),
    lambda workdir: (workdir / "config.json").unlink(): (ValueError, "no config.json"),
    lambda workdir: shutil.rmtree(workdir / "checkpoints"): (
        StorageError,
        "holds no checkpoint of a run, and none of model.safetensors, ",
    ),
    shutil.rmtree: (files.BadFileError, "does not exist"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_loaded_is_told_in_one_line(tmp_path, damage):
    workdir = tmp_path / "run"
    shutil.copytree(tiny.workdir_of("mae"), workdir)
    damage(workdir)
    kind, said = DAMAGES[damage]
    with pytest.raises(kind) as caught:
        mimjax.load(workdir)
    assert "\n" not in str(caught.value) and said in str(caught.value)
    assert str(workdir) in str(caught.value)


def test_a_path_that_is_neither_a_run_nor_weights(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(files.BadFileError, match="is none of PyTorch's files"):
        mimjax.load(tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("size", "channels", "dtype"), [((16, 16), 3, "bfloat16"), ((16, 24), 1, "float32")]
)
def test_features_are_those_of_the_run(tmp_path, pictures, size, channels, dtype):
    """Of the same held-out files, in grey and in colours, to the pixel."""
    shape = {"encoder__image_size": size, "encoder__channels": channels}
    source = {"data__source": f"folder:{pictures}", "encoder__dtype": dtype}
    resolved = tiny.resolve("mae", **shape, **source, evaluate__layers=(1, -1))
    state = tiny.random_state(resolved, tiny.mesh_of(), 0.1)
    found = mimjax.load(saved(resolved, tmp_path, state))
    plan = setup.make_plan(resolved, 1)
    judge = Judge(resolved, plan, tiny.mesh_of(), tmp_path, lambda: False)
    seen = judge.test["image"]
    names = [str(path) for path in sorted((pictures / "val").iterdir())]
    assert len(names) == len(seen) == 9
    for name, pixels in zip(names, seen, strict=True):
        ours = given.prepared(name, resolved.data, size, channels)
        np.testing.assert_array_equal(ours, pixels, err_msg=name)
    wanted = judge.embed(state.params, judge.put(seen))
    for images in (names, seen, (pathlib.Path(name) for name in names)):
        ours = mimjax.features(found, images)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5)


def test_an_image_is_the_same_however_it_is_given(tmp_path, pictures, model):
    def rows(*images):
        return [given.prepared(x, model.config.data, (16, 16), 3) for x in images]

    for name in ("b.jpg", "d.png", "f.png", "g.png"):
        path = pictures / "val" / name
        with Image.open(path) as image:
            for other in rows(image, str(path)):
                np.testing.assert_array_equal(other, *rows(path))
    alpha = np.dstack([COLOURS, np.zeros_like(GREY)])
    for transparent in (alpha, alpha[..., 2:], Image.fromarray(alpha)):
        assert (rows(transparent)[0] == 255).all()
    sixteen = GREY.astype(np.uint16) * 257
    one, *others = rows(GREY, GREY[..., None], sixteen, np.dstack([GREY] * 3))
    for other in others:
        np.testing.assert_array_equal(other, one)
    # What is ready is left alone; what is not is scaled, and the centre taken.
    np.testing.assert_array_equal(rows(COLOURS[:16, :16])[0], COLOURS[:16, :16])
    flat = np.full((30, 90, 3), 7, np.uint8)
    flat[:, :20] = flat[:, 70:] = 255
    assert (rows(flat)[0] == 7).all()


def test_images_of_many_sizes_and_batches_are_compiled_once(model, monkeypatch):
    monkeypatch.setattr(models, "BATCH", 4)
    mixed = [COLOURS, GREY, Image.fromarray(COLOURS[:9]), COLOURS[:16, :16]] * 3
    before = models.embed._cache_size()
    found = mimjax.features(model, mixed[:11], "max")
    assert found.shape == (11, 64)
    np.testing.assert_array_equal(found[:7], found[4:])
    np.testing.assert_array_equal(mimjax.features(model, mixed[:4], "max"), found[:4])
    assert models.embed._cache_size() - before == 1
    another = mimjax.load(tiny.workdir_of("mae"))
    np.testing.assert_array_equal(mimjax.features(another, mixed, "max")[:4], found[:4])
    assert models.embed._cache_size() - before == 1


@pytest.mark.parametrize("told", [None, "tensorfloat32"])
def test_features_are_of_float32_products_unless_jax_is_told_otherwise(
    model, monkeypatch, told
):
    """As a run evaluates, on devices that round the factors by themselves too."""
    seen = []

    def embed(*given):
        seen.append(jax.config.jax_default_matmul_precision)
        return jnp.zeros((1, 64))

    monkeypatch.setattr(models, "embed", embed)
    with jax.default_matmul_precision(told):
        mimjax.features(model, [COLOURS])
        assert jax.config.jax_default_matmul_precision == told
    assert seen == [told or "float32"]


FLOAT = COLOURS / np.float32(255)


@pytest.mark.parametrize(
    ("images", "options", "said"),
    [
        ([], {}, "no images"),
        (COLOURS[:0, None], {}, "no images"),
        ("a.png", {}, "this is one image: give a list of them"),
        (COLOURS, {}, r"one array of images is [n, H, W, C], not (40, 50, 3)"),
        ([COLOURS, FLOAT], {}, "image 1: values are float32, must be uint8 or uint16"),
        ([COLOURS.transpose(2, 0, 1)], {}, "image 0: the shape (3, 40, 50) is not"),
        ([COLOURS, "gone.png"], {}, "image 1 (gone.png): No such file or directory"),
        ([Image.fromarray(FLOAT[..., 0])], {}, "image 0: unsupported"),
        ([COLOURS, Image.new("RGB", (0, 9))], {}, "image 1: empty"),
        ([__file__], {}, f"image 0 ({__file__}): not an image"),
        ([COLOURS], {"pool": "min"}, "pool: 'min' is none of"),
        ([COLOURS], {"layers": [3]}, "layers: (3,) must be from 1 to 2"),
    ],
)
def test_images_that_cannot_be_used_are_told(model, images, options, said):
    with pytest.raises(ValueError) as caught:
        mimjax.features(model, images, **options)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_a_class_token_that_is_not_there_is_told():
    found = mimjax.load(tiny.workdir_of("aim"))
    with pytest.raises(ValueError, match="pool: 'cls' needs"):
        mimjax.features(found, [COLOURS], "cls")


def test_the_package_is_imported_at_once_and_tensorflow_never(tmp_path):
    """It is hidden, as where it is not installed."""
    Image.fromarray(COLOURS).save(tmp_path / "a.jpg")
    code = f"""
import sys
import mimjax
heavy = {{"jax", "flax", "numpy", "orbax", "PIL"}} & set(sys.modules)
assert not heavy, heavy
assert mimjax.__all__ == ["features", "load"]
assert {{"features", "load", "__version__"}} <= set(dir(mimjax))
sys.modules["tensorflow"] = None
model = mimjax.load({tiny.workdir_of("mae")!r})
print(mimjax.features(model, [{str(tmp_path / "a.jpg")!r}]).shape)
try:
    mimjax.another
except AttributeError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    lines = ["(1, 64)", "module 'mimjax' has no attribute 'another'"]
    assert (done.stdout.splitlines(), done.stderr) == (lines, "")


def test_the_config_is_that_of_the_run(model):
    there = config.of_workdir(tiny.workdir_of("mae"))
    assert model.config.values == there.values
    mean, std = data.normalise_constants(there.data, 3)
    np.testing.assert_array_equal(model.constants, (mean, std))
