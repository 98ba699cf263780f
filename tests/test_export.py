"""What python -m mimjax.export writes and says; the libraries of PyTorch are absent."""

import hashlib
import json
import os
import re
import subprocess
import sys

import exports
import jax
import numpy as np
import pytest
import test_convert
import tiny

from mimjax import models, patches, show, trees
from mimjax.bench import __main__ as bench
from mimjax.convert import __main__ as converting
from mimjax.convert import layouts, shapes, weights, workdirs, writing
from mimjax.convert.files import BadFileError, read
from mimjax.convert.plain import plainly
from mimjax.export import __main__ as command
from mimjax.export import folder, program, verify
from mimjax.objectives import beit

LAYOUT, NUMBER = "timm_vit", 1  # its head is of the mean of patches
MODEL = test_convert.MODELS[LAYOUT][NUMBER]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a classifier."""
    return exports.workdir(tmp_path_factory.mktemp("export"), *MODEL)


def told(capsys, *flags):
    """The exit status and the lines on standard error."""
    status = command.main(list(flags))
    return status, capsys.readouterr().err.splitlines()


def test_the_card_tells_what_there_is(run, capsys):
    (run / "run.json").write_text(
        json.dumps({"data": {"source": "digits"}, "versions": {"jax": "0.1"}})
    )
    rows = [{"step": 0, "loss": 3.0}, {"step": 9, "loss": 1.0}]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    out = exports.export(run, LAYOUT)
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"{LAYOUT}: {out}, to be loaded as its README.md says",
        "left out, for it has no place there: encoder/norm",
    ]
    card = (out / "README.md").read_text()
    assert exports.line(out) == f'timm.create_model("local-dir:{out}", pretrained=True)'
    assert "Images: (16, 16) pixels" in card
    assert f"From `{run}` after 0 updates." in card
    assert "Left out: encoder/norm." in card
    assert "Data: source digits." in card and "Versions: jax 0.1." in card
    assert "Last measured: loss 3." in card
    values = json.loads(re.findall(r"```json\n(.*?)```", card, re.DOTALL)[0])
    assert values == json.loads((run / "config.json").read_text())
    rows = re.findall(r"^\| (\S+) \| ([\d,]+) \| `(\w+)` \|$", card, re.MULTILINE)
    assert [name for name, _, _ in rows] == ["config.json", "model.safetensors"]
    for name, size, digest in rows:
        content = (out / name).read_bytes()
        assert int(size.replace(",", "")) == len(content)
        assert hashlib.sha256(content).hexdigest() == digest


@pytest.mark.parametrize(
    ("layout", "wanted"),
    [
        ("moo", "--layout: 'moo' is none of official, timm, transformers, stablehlo, "),
        (
            "aim",
            "(aim: objective.name: classify is not aim or attentive)",
        ),
        ("transformers_vit", "encoder.layer_scale: 0.1 is not 0.0)"),
        ("swin", "encoder.name: vit is not swin)"),
    ],
)
def test_a_model_that_does_not_fit_is_told_in_one_line(
    run, tmp_path, capsys, layout, wanted
):
    out = tmp_path / "out"
    flags = (f"--workdir={run}", f"--layout={layout}", f"--out={out}")
    status, (line,) = told(capsys, *flags)
    assert status == 78 and line.startswith("--layout: ") and wanted in line
    assert not out.exists()


@pytest.mark.parametrize(
    "layout", ["swin", "timm_swin", "transformers_swin", "transformers_vit", "vit_jax"]
)
def test_a_head_of_another_mean_does_not_fit(layout):
    encoder, _ = test_convert.MODELS[layout][-1]
    given = test_convert.built(encoder, {**test_convert.FIVE, "pool": "mean"})
    assert "pool: mean is not" in layouts.load(layout).misfit(given.objective)


@pytest.mark.parametrize(
    ("layout", "number", "changes", "wanted"),
    [
        ("timm_swin", 0, {"patch_size": (2, 4)}, "patch_size: 2 x 4 is no square"),
        ("timm_swin", 0, {"image_size": (8, 32)}, "window: more than the last stage"),
        # On one side as much as there is: timm shifts along the other.
        ("timm_swin", 0, {"image_size": (16, 32)}, "window: more than the last stage"),
        ("timm_swin", 0, {"mlp_ratio": 3.97}, "mlp_ratio: the MLPs of all stages"),
        ("transformers_swin", 0, {"mlp_ratio": 3.97}, "mlp_ratio: the MLPs of all"),
        ("timm_vit", 3, {"patch_size": (32, 64)}, "patch_size: 32 x 64 is no square"),
        ("transformers_vit", 0, {"image_size": (16, 24)}, "16 x 24 is no square"),
        ("transformers_vit", 1, {"patch_size": (4, 8)}, "4 x 8 is no square"),
        ("transformers_beit", 1, {"patch_size": (4, 8)}, "4 x 8 is no square"),
        ("transformers_swin", 0, {"image_size": (16, 32)}, "16 x 32 is no square"),
        ("transformers_swin", 1, {"window": 16}, "window: more than the last stage"),
        ("transformers_swin", 1, {"norm_eps": 1e-6}, "norm_eps: 1e-06 is not 1e-05"),
        ("transformers_dinov2", 0, {"mlp_ratio": 2.5}, "mlp_ratio: 2.5 is no whole"),
    ],
)
def test_sizes_that_theirs_do_not_have_do_not_fit(layout, number, changes, wanted):
    encoder, objective = test_convert.MODELS[layout][number]
    given = test_convert.built({**encoder, **changes}, objective)
    assert wanted in layouts.load(layout).misfit(given.objective)


@pytest.mark.parametrize(("number", "part"), [(0, "proj"), (3, "backbone.stem.conv")])
def test_timm_is_told_the_layer_that_sees_the_channels(number, part):
    """Of other than one or three none: older timm would not load it."""
    encoder, objective = test_convert.MODELS["timm_vit"][number]
    for channels in (1, 3, 4):
        given = test_convert.built({**encoder, "channels": channels}, objective)
        table, three = layouts.load("timm_vit"), (0.5,) * 3
        said = table.package(given.objective, three, three)["config.json"]
        name = said["pretrained_cfg"].get("first_conv")
        assert name == (f"patch_embed.{part}" if channels < 4 else None)
        if name:
            theirs = {n for e in table.entries(given.objective) for n in e.theirs}
            assert f"{name}.weight" in theirs


@pytest.mark.parametrize("layout", ["mae", "transformers_vit_mae"])
@pytest.mark.parametrize(
    "change", [{"mask_in_encoder": True}, {"tokenizer": beit.PUBLIC}]
)
def test_variants_of_mae_do_not_fit(layout, change):
    given = test_convert.built(*test_convert.MODELS["mae"][0])
    (name,) = change
    told = layouts.load(layout).misfit(given.objective.clone(**change))
    assert told.startswith(f"objective.{name}: theirs ")


def test_other_mistakes_are_told_in_one_line(run, tmp_path, capsys):
    (tmp_path / "x").write_text("")
    status, (line,) = told(
        capsys, f"--workdir={run}", "--layout=timm", f"--out={tmp_path}"
    )
    assert status == 78 and f"{tmp_path} is not empty" in line
    status, (line,) = told(
        capsys, f"--workdir={run}", "--layout=timm", f"--out={tmp_path / 'x'}"
    )
    assert status == 78 and "x is not empty" in line
    for flags, wanted in (
        ([f"--workdir={tmp_path / 'none'}", "--layout=timm"], "does not exist"),
        ([f"--workdir={run}"], "--layout"),
        ([f"--workdir={run}", "--layout=timm", "--verbose"], "--verbose"),
        # There is no torchvision in these tests.
        ([f"--workdir={run}", "--layout=timm", "--verify"], "--verify: "),
    ):
        status, (line,) = told(capsys, f"--out={tmp_path / 'out'}", *flags)
        assert status == 78 and wanted in line
    assert not (tmp_path / "out").exists()


FAMILIES = (("official", ["--verify"]), ("timm", []), ("transformers", []))


def test_a_family_is_the_layout_that_holds_most(tmp_path):
    """Of MAE the official one has the decoder too, of the libraries one has not."""
    run = exports.workdir(tmp_path, *test_convert.MODELS["mae"][0])
    found = {name: exports.export(run, name, *flags) for name, flags in FAMILIES}
    cards = {name: (out / "README.md").read_text() for name, out in found.items()}
    titles = {name: card.splitlines()[0] for name, card in cards.items()}
    assert titles == {
        "official": "# mae on vit, mae",
        "timm": "# mae on vit, timm_vit",
        "transformers": "# mae on vit, transformers_vit_mae",
    }
    assert "Left out" not in cards["official"] + cards["transformers"]
    assert "Left out: decoder, decoder_embed, decoder_norm, " in cards["timm"]
    assert "parameters, read again: largest difference 0, rel" in cards["official"]
    # As of a classifier by the class token.
    assert "norm.weight" in read(found["timm"])


def test_a_model_as_it_is_fine_tuned_has_timms_names(run, tmp_path):
    """As official MAE and BEiT write it; only a backbone is DINO's."""
    model = models.load(run)
    assert folder.chosen(model, "official") == "timm_vit"
    given, params = exports.model(*test_convert.MODELS["dino"][0])
    arrays = weights.written(given.objective, trees.nested(params), "dino")
    found = models.load(exports.released(tmp_path, arrays, given.encoder.heads))
    assert folder.chosen(found, "official") == "dino"


def test_a_model_without_its_head_promises_none(tmp_path):
    """Of a file that has the encoder alone: no head of random numbers is built."""
    given, params = exports.model(*test_convert.MODELS["mae"][0])
    arrays = weights.written(given.objective, trees.nested(params), "mae")
    rest = "decoder", "mask_token"
    arrays = {n: x for n, x in arrays.items() if not n.startswith(rest)}
    model = models.load(exports.released(tmp_path, arrays, given.encoder.heads))
    assert folder.chosen(model, "official") == "mae"
    assert folder.chosen(model, "transformers") == "transformers_vit"
    with pytest.raises(folder.NoLayoutError, match=r"has no decoder, decoder_embed, "):
        folder.chosen(model, "transformers_vit_mae")
    for layout in ("timm_vit", "transformers_vit"):
        said = folder.pack(model, layout, tmp_path)["config.json"]
        assert said.get("num_classes", 0) == len(said.get("id2label", ())) == 0
        assert said.get("architectures", ["ViTModel"]) == ["ViTModel"]
    said = folder.pack(model, "transformers_vit", tmp_path)["preprocessor_config.json"]
    assert said["image_mean"] == [0.485, 0.456, 0.406], "not the digits of its float32"


def test_a_vocabulary_is_that_of_the_head(tmp_path):
    """The run of the tokenizer, of 24 codes, is not there any more."""
    encoder, objective = test_convert.MODELS["beit"][0]
    given, found = exports.model(encoder, objective)
    for name in ("kernel", "bias"):
        found["head", name] = found["head", name][..., :24]
    model = models.Model(given, {"params": trees.nested(found)}, [], 0)
    said = folder.pack(model, "transformers_beit", tmp_path)["config.json"]
    assert said["vocab_size"] == len(read(tmp_path)["lm_head.bias"]) == 24
    assert not folder.misfit(model, "transformers_beit")


def test_tokens_are_no_pixels_though_their_run_is_gone(tmp_path):
    encoder, objective = test_convert.MODELS["mae"][0]
    given = test_convert.built(encoder, {**objective, "tokenizer": str(tmp_path)})
    assert given.objective.tokenizer is None
    params = test_convert.random_params(given)
    model = models.Model(given, {"params": params}, [], 0)
    assert folder.misfit(model, "mae").startswith("objective.tokenizer: ")


def test_dalle_is_loaded_as_two_modules(tmp_path):
    given = test_convert.built(*test_convert.MODELS["dalle"][0])
    model = models.Model(given, {"params": test_convert.random_params(given)}, [], 0)
    out = tmp_path / "dalle"
    folder.write(model, "dalle", out, "")
    assert exports.line(out) == (
        'torch.nn.ModuleDict({"encoder": encoder, "decoder": decoder})'
        f'.load_state_dict(safetensors.torch.load_file("{out}/model.safetensors"))'
    )


BARE = [
    name
    for name in layouts.names()
    if not hasattr(layouts.load(name), "package") and name != "vit_jax"
]


@pytest.mark.parametrize("layout", BARE)
def test_an_official_folder_says_what_its_weights_do_not(tmp_path, capsys, layout):
    """Heads, the sides of an image of no square, colours."""
    encoder, objective = test_convert.MODELS[layout][0]
    if "name" not in encoder:
        height, width = encoder["image_size"]
        encoder = {**encoder, "heads": 2, "image_size": (height, 2 * width)}
        encoder |= {"attention": "cudnn", "float8": True}
        assert shapes.heads_of(encoder["width"]) != 2
    run = exports.workdir(tmp_path, encoder, objective)
    out = exports.export(run, layout)
    ours, theirs = models.load(run), models.load(out)
    given = ours.config
    size = (2, *given.encoder.image_size, given.encoder.channels)
    images = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    np.testing.assert_allclose(
        models.features(theirs, images), models.features(ours, images), rtol=1e-5
    )
    if hasattr(ours.encoder, "heads"):
        other = ours.encoder.clone(heads=4)
        assert workdirs.origin_of(out, other).encoder.heads == ours.encoder.heads
    capsys.readouterr()
    assert converting.main([str(out), f"--out={tmp_path / 'again'}"]) == 0
    assert "taken" not in capsys.readouterr().out


PLAIN = {**test_convert.LEARNED, "qkv_bias": "qv", "heads": 2}
# By their names they are of another layout, or of none.
UNKNOWN = {
    "dino": test_convert.MODELS["dino"][0],
    "dinov2": test_convert.MODELS["dino"][0],
    "simmim": (PLAIN, test_convert.MODELS["simmim"][0][1]),
    "swin": (
        {**test_convert.SWIN, "depths": (2,), "heads": (2,)},
        test_convert.MODELS["swin"][0][1],
    ),
}


@pytest.mark.parametrize("layout", UNKNOWN)
def test_an_official_folder_says_its_layout(tmp_path, layout):
    out = exports.export(exports.workdir(tmp_path, *UNKNOWN[layout]), layout)
    assert weights.recognised(plainly(read(out))) != layout
    found = weights.convert([out])
    assert (found.layout, found.missing, found.unexpected) == (layout, [], [])
    ours = trees.named_leaves(models.load(tmp_path / "run").variables["params"])
    theirs = trees.named_leaves(found.params)
    assert theirs.keys() == {
        n for n in ours if not layout.startswith("dino") or n[0] == "encoder"
    }
    for name, x in theirs.items():
        np.testing.assert_array_equal(x, ours[name])


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ([], "is no configuration in JSON"),
        ({"encoder": 3}, "is no configuration in JSON"),
        ({"encoder": {"heads": {"heads": 1}}}, "is no configuration in JSON"),
        (
            {"encoder": {"heads": 4, "depth": 2_000_000_000}},
            "is no mae model: depth: 2000000000",
        ),
        ({"encoder": {"heads": 4, "image_size": ["a", "b"]}}, "is no mae model: "),
        (
            {"encoder": {"heads": 4, "image_size": [17, 17]}},
            "is no mae model: patch_size: 4 does",
        ),
        (
            {"encoder": {"heads": 4, "colour": 1}},
            "is no mae model: config.encoder.colour: no",
        ),
        (
            {
                "encoder": {"heads": 4},
                "objective": {"name": "mae", "decoder_heads": 3, "mask_ratio": 2},
            },
            "is no mae model: mask_ratio",
        ),
    ],
)
def test_a_changed_configuration_is_one_line(tmp_path, own, told):
    run = exports.workdir(tmp_path, *test_convert.MODELS["mae"][0])
    out = exports.export(run, "mae")
    if own:
        own = {"objective": {"name": "mae", "decoder_heads": 3}, **own}
    (out / "config.json").write_text(json.dumps({"mimjax": own}))
    with pytest.raises(BadFileError, match=re.escape(told)):
        models.load(out)
    if told.endswith("4 does"):
        changes = (("encoder.image_size", "32"),)
        assert weights.convert([out], changes=changes).config.encoder.grid == (8, 8)


@pytest.mark.parametrize("layout", ["vit_jax", "swin"])
def test_official_files_are_read_again(tmp_path, capsys, layout):
    run = exports.workdir(tmp_path, *test_convert.MODELS[layout][0])
    out = exports.export(run, layout, "--verify")
    assert "read again: largest difference 0, relative 0" in capsys.readouterr().out
    name = "model.npz" if layout == "vit_jax" else "model.safetensors"
    encoder, objective = test_convert.MODELS[layout][0]
    changes = test_convert.changes_of(layout, encoder, objective)
    found = weights.convert([out / name], changes=changes)
    assert (found.layout, found.missing, found.unexpected) == (layout, [], [])
    ours = trees.named_leaves(models.load(run).variables["params"])
    theirs = trees.named_leaves(found.params)
    assert ours.keys() == theirs.keys()
    for place, x in ours.items():
        np.testing.assert_array_equal(theirs[place], x)


def test_another_result_is_an_error(run, capsys, monkeypatch):
    """Exit status 70; the card says so too."""
    rightly = writing.write

    def wrong(path, shapes, get):
        """One weight of the encoder, 1 % off."""
        off = {"encoder/norm/scale": 1.01}
        rightly(path, shapes, lambda name: get(name) * off.get(name, 1))

    monkeypatch.setattr(program.writing, "write", wrong)
    out = run.with_name("other")
    flags = [f"--workdir={run}", "--layout=stablehlo", f"--out={out}", "--verify"]
    assert command.main(flags) == 70
    assert "NOT the same" in capsys.readouterr().out
    assert "NOT the same" in (out / "README.md").read_text()


@pytest.mark.parametrize("error", [RuntimeError("Missing\nkey"), OSError("gone")])
def test_what_a_library_says_is_one_line(run, tmp_path, capsys, monkeypatch, error):
    def fails(*_):
        raise error

    monkeypatch.setattr(verify, "compare", fails)
    flags = [f"--workdir={run}", "--layout=dinov2", f"--out={tmp_path / 'out'}"]
    status, (line,) = told(capsys, *flags, "--verify")
    assert status == 70 and "does not load: " in line
    assert line.endswith(" ".join(str(error).split()))


def test_a_card_that_cannot_be_written_is_a_fault_of_storage(
    run, tmp_path, capsys, monkeypatch
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(verify, "compare", lambda *_: [])
    monkeypatch.setattr(folder, "add_to_card", full)
    flags = [f"--workdir={run}", "--layout=dinov2", f"--out={tmp_path / 'out'}"]
    status, (line,) = told(capsys, *flags, "--verify")
    assert status == 74 and line.endswith("No space left on device")


@pytest.mark.parametrize(
    ("program", "flags"),
    [
        (command, ["--layout=timm", "--workdir=x", "--out=~/taken"]),
        (command, ["--layout=timm", "--workdir=~/none", "--out=~/out"]),
        (converting, ["x.pth", "--out=~/taken"]),
        (converting, ["~/none.pth", "--out=~/out"]),
        (show, ["--workdir=RUN", "--out=~/taken/file"]),
        (show, ["--workdir=x", "--images=~/empty"]),
        (bench, ["step", f"--config={tiny.CONFIG}", "--out=~/taken/file"]),
    ],
)
def test_a_tilde_is_a_user_s_folder(run, tmp_path, capsys, monkeypatch, program, flags):
    """Shells leave it as it is behind the = of a flag."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("empty", "taken"):
        (tmp_path / name).mkdir()
    (tmp_path / "taken" / "file").write_text("")
    flags = [flag.replace("RUN", str(run)) for flag in flags]
    assert program.main(flags) in (74, 78)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}/" in line and "~" not in line


def test_a_folder_is_whole_or_not_there(run, tmp_path, capsys, monkeypatch):
    """The disk is full before the card is written."""
    out, flags = tmp_path / "out", [f"--workdir={run}", "--layout=timm"]

    def full(*_):
        assert (out / "config.json").exists()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "card", full)
    status, (line,) = told(capsys, *flags, f"--out={out}")
    assert status == 74 and "No space left" in line
    assert not out.exists()


def test_a_place_that_cannot_be_looked_at_is_told(run, tmp_path, capsys):
    out = tmp_path / ("x" * 300)
    status, (line,) = told(capsys, f"--workdir={run}", "--layout=timm", f"--out={out}")
    assert status == 78 and line.startswith("--out: cannot look at ")


# What someone runs who has JAX and not this package.
ELSEWHERE = """
import sys
import jax.export
import numpy
import safetensors.numpy

sys.modules["mimjax"] = None
program = {line}
weights = safetensors.numpy.load_file("{out}/model.safetensors")
for count in (1, 3):
    images = numpy.load("{images}")[:count]
    found = program.call(weights, images)
    numpy.savez("{out}/" + str(count), **found)
"""


def test_the_program_has_the_features_that_its_run_is_judged_by(run):
    """Of the layers of the config, before the last norm."""
    values = json.loads((run / "config.json").read_text())
    values["evaluate"] = {"layers": [1], "pool": "mean"}
    (run / "config.json").write_text(json.dumps(values))
    model = models.load(run)
    shape = (2, *model.encoder.image_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = program.ours(model, images)["features"]
    wanted = models.features(model, images)
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
    last = models.features(model, images, layers=())
    assert np.abs(found - last).max() > 0.01 * np.abs(wanted).max()


def test_the_program_multiplies_float32_on_every_device(run, tmp_path):
    with jax.default_matmul_precision(None):
        program.write(models.load(run), tmp_path)
    content = bytearray((tmp_path / program.NAME).read_bytes())
    lines = jax.export.deserialize(content).mlir_module().splitlines()
    products = [line for line in lines if "stablehlo.dot_general" in line]
    assert products
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_the_program_runs_without_this_package(run, tmp_path):
    """In a process that cannot import it, on batches of two sizes."""
    out = exports.export(run, "stablehlo")
    model = models.load(run)
    shape = (3, *model.encoder.image_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    line = exports.line(out)
    assert line.startswith("jax.export.deserialize(")
    code = ELSEWHERE.format(line=line, out=out, images=tmp_path / "images.npy")
    clean = {k: x for k, x in os.environ.items() if k != "PYTHONPATH"}
    words = [sys.executable, "-W", "error", "-c", code]
    subprocess.run(words, check=True, cwd=tmp_path, env=clean)
    image = patches.normalise(jax.numpy.asarray(images), *model.constants)
    objective = model.config.objective
    logits = objective.apply(model.variables, image, method="logits")
    wanted = {"features": models.features(model, images), "logits": logits}
    for count in (1, 3):
        with np.load(out / f"{count}.npz") as found:
            assert found["tokens"].shape == (count, 17, 32)
            for name, x in wanted.items():
                gap = np.abs(found[name] - x[:count]).max()
                assert gap <= 1e-5 * np.abs(x).max(), name
