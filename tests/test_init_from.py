"""init_from: a run's workdir or a file of another project, at another image size."""

import functools
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
import test_convert
import tiny

from mimjax import config, main, warmstart
from mimjax.convert import files, plain, resize, tables, weights, workdirs
from mimjax.report.progress import Progress
from mimjax.run import endings, start
from mimjax.trees import named_leaves, nested

VIT = {
    "patch_size": (4, 4),
    "width": 64,
    "depth": 2,
    "heads": 4,
    "image_size": (16, 16),
}
BEIT = {**VIT, "position": "relative", "qkv_bias": "qv", "layer_scale": 0.1}
SWIN = {"name": "swin", "patch_size": (4, 4), "width": 64, "depths": (2, 1)}
SWIN |= {"heads": (4, 4), "window": 4, "image_size": (32, 32)}


def model_of(encoder: dict[str, Any], **objective: Any) -> tuple[config.Config, Any]:
    """A model and random parameters for it."""
    given = config.rebuilt(
        {"encoder": {"name": "vit", **encoder}, "objective": objective}
    )
    rng = np.random.default_rng(0)
    shapes = weights.shapes_of(given)
    leaves = {n: rng.normal(size=x.shape).astype(x.dtype) for n, x in shapes.items()}
    return given, nested(leaves)


def file_of(folder: pathlib.Path, layout: str, given: config.Config, params: Any):
    """What another project would have written of it."""
    arrays = weights.written(given.objective, params, layout)
    np.savez(folder / "weights.npz", **arrays)
    return folder / "weights.npz"


def begun(source: pathlib.Path, given: config.Config, scope: str = "encoder"):
    """A run's parameters after its start, by path, and what was said."""
    state = tiny.random_state(given, tiny.mesh_of(), 0.1)
    origin = workdirs.origin_of(source, given.encoder)
    state, report = warmstart.begin(state, origin, scope, given.encoder)
    return named_leaves(jax.device_get(state.params)), report


def test_a_run_starts_from_a_file_and_says_how_many_heads(tmp_path):
    """Which the file does not tell: 64 wide it would pass for one head."""
    given, params = model_of(VIT, name="mae", decoder_width=32, decoder_depth=1)
    path = file_of(tmp_path, "mae", given, params)
    found, report = begun(path, tiny.resolve("mae"), "all")
    assert report["resized"] == report["missing"] == report["unexpected"] == []
    for name in report["matched"]:
        place = tuple(name.split("/"))
        np.testing.assert_array_equal(found[place], named_leaves(params)[place])
    # The decoder's heads no run tells: its attention keeps its start.
    assert all("decoder/layers/attn" in name for name in report["shape"])


@pytest.mark.parametrize(
    ("layout", "how"),
    [
        ("timm_vit", resize.bicubic),
        ("vit_jax", resize.corner_aligned),
        ("dinov2", functools.partial(resize.bicubic, offset=0.1)),
        ("beit", resize.bicubic),
    ],
)
def test_learned_positions_are_fitted_as_their_code_does(tmp_path, layout, how):
    scale = 0.1 if layout == "dinov2" else 0.0
    encoder = {**VIT, "position": "learned", "layer_scale": scale}
    objective = {"name": "classify", "num_classes": 5}
    if layout == "beit":
        objective = {"name": "beit", **test_convert.TOKENS}
    given, params = model_of(encoder, **objective)
    path = file_of(tmp_path, layout, given, params)
    wider = tiny.resolve(
        "classify",
        encoder__image_size="24,32",
        encoder__position="learned",
        encoder__layer_scale=scale,
    )
    found, report = begun(path, wider)
    assert report["resized"] == ["encoder/pos_embed"]
    assert not report["missing"] and not report["shape"]
    table = named_leaves(params)["encoder", "pos_embed"]
    np.testing.assert_array_equal(
        found["encoder", "pos_embed"], resize.positions(table, (6, 8), how)
    )


def test_fixed_positions_are_where_learned_ones_start(tmp_path):
    """As MAE is fine-tuned, here at another size."""
    given, params = model_of(VIT, name="mae", decoder_width=32, decoder_depth=1)
    path = file_of(tmp_path, "mae", given, params)
    tuned = tiny.resolve(
        "classify", encoder__image_size="32,32", encoder__position="learned"
    )
    found, report = begun(path, tuned)
    assert report["resized"] == ["encoder/pos_embed"]
    table = tables.sincos((4, 4), 64, True)[None]
    wanted = resize.positions(table, (8, 8), resize.bicubic)
    np.testing.assert_array_equal(found["encoder", "pos_embed"], wanted)


def test_fixed_positions_of_an_encoder_without_a_class_token(tmp_path):
    """That of ours has none, and no row of zeros is taken for a patch."""
    plain = tiny.resolve("mae", encoder__cls=False)
    state = tiny.random_state(plain, tiny.mesh_of(), 0.1)
    tiny.save_workdir(tmp_path, plain, state)
    tuned = tiny.resolve(
        "classify", encoder__image_size="32,32", encoder__position="learned"
    )
    found, report = begun(tmp_path, tuned)
    assert report["resized"] == ["encoder/pos_embed"]
    assert report["missing"] == ["encoder/cls_token"]
    table = tables.sincos((4, 4), 64, True)[None]
    wanted = resize.positions(table, (8, 8), resize.bicubic)
    np.testing.assert_array_equal(found["encoder", "pos_embed"], wanted)


@pytest.mark.parametrize("position", ["sincos", "learned"])
def test_a_probe_at_another_size_is_told_of_fixed_positions(capsys, position):
    """They are computed anew or, where a table is asked for, resized and kept."""
    change = {"encoder__image_size": "32,32", "encoder__position": position}
    given = tiny.resolve("segment", init_from=tiny.workdir_of("mae"), **change)
    start.warm(given, tiny.random_state(given, tiny.mesh_of(), 0.1), Progress(1))
    said = capsys.readouterr().err
    told = (
        "  positions are computed for 8 x 8 patches, as AIM's; "
        "--config.encoder.position=learned resizes those of 4 x 4, as MAE's\n"
    )
    assert (told in said, "resized: encoder/pos_embed" in said) == (
        (True, False) if position == "sincos" else (False, True)
    )


def test_one_table_of_distances_becomes_that_of_each_layer(tmp_path):
    """As BEiT is fine-tuned: copied into every layer, stretched geometrically."""
    given, params = model_of(BEIT, name="beit", num_hidden=7, min_block=2)
    path = file_of(tmp_path, "beit", given, params)
    tuned = tiny.resolve(
        "classify",
        encoder__image_size="24,24",
        encoder__position="relative_layers",
        encoder__qkv_bias="qv",
        encoder__layer_scale=0.1,
        objective__pool="mean",
    )
    found, report = begun(path, tuned)
    name = ("encoder", "blocks", "layers", "relative_table")
    assert report["resized"] == ["/".join(name)]
    assert report["unexpected"] == ["encoder/relative_table"]
    table = named_leaves(params)["encoder", "relative_table"]
    wanted = resize.relative(table, (4, 4), (6, 6), resize.geometric, extra=3)
    for layer in found[name]:
        np.testing.assert_array_equal(layer, wanted)


@pytest.mark.parametrize(
    ("layout", "objective", "how"),
    [
        ("swin", {"name": "classify", "pool": "gap"}, resize.bicubic),
        ("simmim_swin", {"name": "simmim", "mask_cell": 8}, resize.geometric),
    ],
)
def test_windows_of_another_size(tmp_path, layout, objective, how):
    given, params = model_of(SWIN, **objective)
    path = file_of(tmp_path, layout, given, params)
    changes = {f"encoder__{n}": str(x) for n, x in SWIN.items() if n != "name"}
    changes |= {"encoder__image_size": "48,48", "encoder__window": "6"}
    wider = tiny.resolve("simmim_swin", **changes)
    found, report = begun(path, wider)
    names = [("encoder", f"stages_{n}", "layers", "relative_table") for n in (0, 1)]
    assert report["resized"] == ["/".join(name) for name in names]
    for name in names:
        for old, new in zip(named_leaves(params)[name], found[name], strict=True):
            wanted = resize.relative(old, (4, 4), (6, 6), how, extra=0)
            np.testing.assert_array_equal(new, wanted)


def test_another_run_at_another_size(tmp_path):
    """Its grid need be no square, for its config tells it."""
    small = tiny.resolve("beit", encoder__image_size="16,24")
    state = tiny.random_state(small, tiny.mesh_of(), 0.1)
    tiny.save_workdir(tmp_path, small, state)
    found, report = begun(tmp_path, tiny.resolve("beit", encoder__image_size="32,16"))
    assert report["resized"] == ["encoder/relative_table"]
    table = np.asarray(state.params["encoder"]["relative_table"])
    wanted = resize.relative(table, (4, 6), (8, 4), resize.geometric, extra=3)
    np.testing.assert_array_equal(found["encoder", "relative_table"], wanted)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 cut off", b"not weights at all"])
def test_a_bad_file_is_told_in_one_line(tmp_path, capsys, content):
    (tmp_path / "bad.pth").write_bytes(content)
    flags = [f"--config={tiny.CONFIG}:mae", f"--workdir={tmp_path / 'run'}"]
    flags.append(f"--config.init_from={tmp_path / 'bad.pth'}")
    assert main.main(flags) == endings.BAD_CONFIG
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"config.init_from: {tmp_path / 'bad.pth'}")


RATIO = "encoder.mlp_ratio is 4.0 there, 2.0 here"


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"encoder__mlp_ratio": 2.0}, RATIO),
        (
            {"encoder__mlp_ratio": 2.0, "optim__frozen": ("encoder/blocks[:1]",)},
            RATIO,
        ),
        ({"encoder__registers": 2}, "encoder.registers is 0 there, 2 here"),
        (
            {"encoder__depth": 3, "encoder__dropout": 0.1, "encoder__qkv_bias": "qv"},
            "encoder.depth is 2 there, 3 here; encoder.qkv_bias is all there, qv here",
        ),
        (
            {"encoder__layer_scale": 0.1},
            "no encoder/blocks/layers/scale1 of (2, 64), "
            "encoder/blocks/layers/scale2 of (2, 64) there",
        ),
    ],
)
def test_what_is_frozen_does_not_stay_random(change, wanted, capsys):
    """A probe of an encoder that is there in part: the reason is all that is said."""
    source = tiny.workdir_of("mae")
    given = tiny.resolve("linear", **change, init_from=source)
    state = tiny.random_state(given, tiny.mesh_of(), 0.1)
    with pytest.raises(config.ConfigError) as told:
        start.warm(given, state, Progress(1))
    (line,) = told.value.problems
    assert line.startswith(f"config.init_from: {source}: {wanted}, which would stay")
    assert not capsys.readouterr().err


def test_why_little_of_another_encoder_fits_is_told(capsys):
    """It may be meant, where all is trained: the run starts."""
    source = tiny.workdir_of("mae")
    given = tiny.resolve("classify", encoder__depth=3, init_from=source)
    state = tiny.random_state(given, tiny.mesh_of(), 0.1)
    start.warm(given, state, Progress(1))
    first, *others = capsys.readouterr().err.splitlines()
    why = "encoder.depth is 2 there, 3 here"
    assert first == f"started from {source}: 5 of 17 arrays matched; {why}"
    assert len(others) == 12


def test_what_arrays_do_not_show_is_told(capsys):
    source = tiny.workdir_of("mae")
    change = {"encoder__norm_eps": 1e-5, "encoder__gelu_tanh": True}
    given = tiny.resolve("mae", init_from=source, encoder__drop_path=0.1, **change)
    start.warm(given, tiny.random_state(given, tiny.mesh_of(), 0.1), Progress(1))
    first, other = capsys.readouterr().err.splitlines()
    assert first.endswith("arrays matched")
    assert other == (
        "  the same arrays, another function: encoder.norm_eps is 1e-06 there, 1e-05 "
        "here; encoder.gelu_tanh is False there, True here"
    )


@pytest.mark.parametrize("position", ["none", "learned"])
def test_positions_that_are_computed_are_arrays_of_no_one(capsys, position):
    """Learned ones begin as those computed there, and are told as resized."""
    source = tiny.workdir_of("mae")
    given = tiny.resolve("classify", init_from=source, encoder__position=position)
    start.warm(given, tiny.random_state(given, tiny.mesh_of(), 0.1), Progress(1))
    said = capsys.readouterr().err
    told = "another function: encoder.position is sincos there, none here"
    assert (told in said, "resized: encoder/pos_embed" in said) == (
        (True, False) if position == "none" else (False, True)
    )


@pytest.mark.parametrize(
    ("model", "change", "why"),
    [
        ("mae", {"encoder__width": 32}, "encoder.width is 64 there, 32 here"),
        ("simmim_swin", {"encoder__width": 48}, "encoder.name is vit there, swin here"),
    ],
)
def test_why_nothing_of_another_encoder_fits_is_told(model, change, why):
    source = tiny.workdir_of("mae")
    given = tiny.resolve(model, init_from=source, **change)
    state = tiny.random_state(given, tiny.mesh_of(), 0.1)
    with pytest.raises(config.ConfigError) as told:
        start.warm(given, state, Progress(1, silent=True))
    (line,) = told.value.problems
    assert line.endswith(f"fits this model ({why})")


def test_a_file_of_a_width_that_our_heads_do_not_divide_says_so(tmp_path):
    """Not that its own heads have to be said, which would lead to this as well."""
    given, params = model_of({**VIT, "width": 56}, name="mae", decoder_width=32)
    path = file_of(tmp_path, "mae", given, params)
    ours = tiny.resolve("mae", encoder__width=48, encoder__heads=3)
    with pytest.raises(warmstart.NothingFitsError, match="width is 56 there, 48 here"):
        begun(path, ours)


@pytest.mark.parametrize("layout", ["swin", "dalle"])
def test_a_file_of_another_kind_says_so(tmp_path, layout):
    """Not that its heads are none of a vision transformer's."""
    encoder, objective = test_convert.MODELS[layout][0]
    given, params = model_of(encoder, **objective)
    path = file_of(tmp_path, layout, given, params)
    run = tiny.resolve("mae", init_from=path)
    state = tiny.random_state(run, tiny.mesh_of(), 0.1)
    with pytest.raises(config.ConfigError) as told:
        start.warm(run, state, Progress(1, silent=True))
    (line,) = told.value.problems
    name = given.values["encoder"]["name"]
    assert line.endswith(f"fits this model (encoder.name is {name} there, vit here)")


def test_a_damaged_file_is_read_once(tmp_path, monkeypatch):
    """What is wrong with it no other number of heads mends."""
    given, params = model_of({**VIT, "position": "learned"}, name="classify")
    arrays = weights.written(given.objective, params, "timm_vit")
    arrays["norm.bias"] = arrays["norm.bias"] * np.float32(np.nan)
    np.savez(tmp_path / "weights.npz", **arrays)
    reads = []

    def read(path):
        reads.append(path)
        return files.read(path)

    monkeypatch.setattr(plain, "read", read)
    with pytest.raises(files.BadFileError, match=r"'norm\.bias' holds NaN"):
        workdirs.origin_of(tmp_path / "weights.npz", given.encoder)
    assert len(reads) == 1


def test_a_place_that_cannot_be_looked_at_is_told(tmp_path):
    with pytest.raises(config.ConfigError) as told:
        tiny.resolve("mae", init_from=tmp_path / ("x" * 300))
    (line,) = told.value.problems
    assert line.startswith("config.init_from: cannot look at ")


@pytest.mark.parametrize("position", ["learned", "relative"])
def test_a_grid_of_as_many_patches_is_another(tmp_path, position):
    """4 x 6 patches and 6 x 4 have tables of one shape."""
    name = "beit" if position == "relative" else "classify"
    sizes = {"encoder__position": position, "encoder__image_size": "16,24"}
    wide = tiny.resolve(name, **sizes)
    state = tiny.random_state(wide, tiny.mesh_of(), 0.1)
    tiny.save_workdir(tmp_path, wide, state)
    tall = tiny.resolve(name, **{**sizes, "encoder__image_size": "24,16"})
    found, report = begun(tmp_path, tall)
    place = "pos_embed" if position == "learned" else "relative_table"
    assert report["resized"] == [f"encoder/{place}"]
    table, grids = np.asarray(state.params["encoder"][place]), ((4, 6), (6, 4))
    if position == "learned":
        wanted = resize.positions(table, grids[1], resize.bicubic, source=grids[0])
    else:
        wanted = resize.relative(table, *grids, resize.geometric, extra=3)
    np.testing.assert_array_equal(found["encoder", place], wanted)


def test_a_norm_behind_the_mean_is_not_missed(tmp_path):
    """Of a classifier that a probe takes for its encoder."""
    given, params = model_of(
        {**VIT, "position": "learned"}, name="classify", pool="mean"
    )
    path = file_of(tmp_path, "timm_vit", given, params)
    probe = tiny.resolve("linear", encoder__position="learned", init_from=path)
    state = tiny.random_state(probe, tiny.mesh_of(), 0.1)
    found = start.warm(probe, state, Progress(1, silent=True))
    ours, theirs = (tree["encoder"]["patch"] for tree in (found.params, params))
    np.testing.assert_array_equal(ours["kernel"], theirs["kernel"])
