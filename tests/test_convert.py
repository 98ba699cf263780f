"""Weights of other projects: every table both ways, and the command that reads them."""

import contextlib
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import ml_dtypes
import numpy as np
import official
import pytest
import tiny

from mimjax import config, models, trees
from mimjax.convert import __main__ as command
from mimjax.convert import files, layouts, resize, shapes, tables, weights, writing
from mimjax.convert.parts import UNFIT
from mimjax.convert.plain import plainly

VIT = {
    "image_size": (16, 16),
    "patch_size": (4, 4),
    "width": 32,
    "depth": 2,
    "heads": 4,
}
LEARNED = {**VIT, "position": "learned", "start": "vit"}
BEIT = {**VIT, "position": "relative", "qkv_bias": "qv", "layer_scale": 0.1}
BEIT["start"] = "beit"
SWIN = {
    "name": "swin",
    "image_size": (32, 32),
    "patch_size": (2, 2),
    "width": 16,
    "depths": (2, 2),
    "heads": (2, 4),
    "window": 4,
}
AIM = {**VIT, "cls": False, "qkv_bias": "none", "bias": False, "patch_norm": True}
AIM["start"] = "aim"
L3M = {**AIM, "norm_eps": 1e-5}
STEM = {**LEARNED, "name": "hybrid", "image_size": (32, 64), "patch_size": (8, 8)}
STEM |= {"stages": (2, 1), "stem_width": 32}
DVAE = {"name": "dvae", "image_size": (16, 16), "width": 16, "groups": 3, "blocks": 2}
FIVE = {"name": "classify", "num_classes": 5}
TOKENS = {"num_hidden": 6, "min_block": 2}

# Of each layout: models it holds, the encoder and the objective.
MODELS = {
    "aim": [
        (AIM, {"name": "aim", "head": "none"}),
        (AIM, {"name": "attentive", "num_classes": 5, "layers": (-2, -1)}),
    ],
    "aim_l3m": [
        (L3M, {"name": "aim", "head_width": 16, "head_depth": 2}),
        (L3M, {"name": "aim", "head": "none"}),
        (
            L3M,
            {
                "name": "aim",
                "head_width": 16,
                "head_depth": 2,
                "head": "transformer",
                "head_heads": 2,
            },
        ),
    ],
    "beit": [(BEIT, {"name": "beit", **TOKENS})],
    "beit2": [(BEIT, {"name": "beit2", "early_layer": 1, "branch_depth": 1, **TOKENS})],
    "dalle": [({**DVAE, "num_codes": 24}, {"name": "dvae", "decoder_first": 8})],
    "dino": [(LEARNED, {"name": "classify"})],
    "dinov2": [
        ({**LEARNED, "layer_scale": 1e-5}, {"name": "classify"}),
        (
            {**LEARNED, "layer_scale": 1e-5, "registers": 3, "swiglu": True},
            {"name": "classify"},
        ),
    ],
    "mae": [
        (
            VIT,
            {
                "name": "mae",
                "decoder_width": 24,
                "decoder_depth": 2,
                "decoder_heads": 3,
            },
        )
    ],
    "simmim": [(BEIT, {"name": "simmim", "mask_cell": 4})],
    "simmim_swin": [(SWIN, {"name": "simmim", "mask_cell": 8})],
    "swin": [(SWIN, {**FIVE, "pool": "gap"})],
    "timm_beit": [
        (BEIT, FIVE),
        ({**BEIT, "position": "relative_layers"}, {**FIVE, "pool": "mean"}),
    ],
    "timm_swin": [(SWIN, {**FIVE, "pool": "gap"})],
    "timm_vit": [
        (LEARNED, FIVE),
        ({**LEARNED, "layer_scale": 0.1}, {**FIVE, "pool": "mean"}),
        ({**LEARNED, "cls": False}, {**FIVE, "pool": "gap"}),
        (
            {**STEM, "stages": (2, 2, 2, 2), "stem_width": 64, "patch_size": (32, 32)},
            FIVE,
        ),
    ],
    "transformers_beit": [
        (BEIT, {"name": "beit", **TOKENS}),
        (BEIT, FIVE),
        ({**BEIT, "position": "relative_layers"}, {**FIVE, "pool": "mean"}),
    ],
    "transformers_dinov2": [
        ({**LEARNED, "layer_scale": 1e-5}, {"name": "classify"}),
        (
            {**LEARNED, "layer_scale": 1e-5, "registers": 3, "swiglu": True},
            {"name": "classify"},
        ),
    ],
    "transformers_swin": [
        (SWIN, {"name": "simmim", "mask_cell": 8}),
        (SWIN, {**FIVE, "pool": "gap"}),
    ],
    "transformers_vit": [
        (LEARNED, {"name": "simmim", "mask_cell": 4}),
        (LEARNED, FIVE),
    ],
    "transformers_vit_mae": [
        (
            VIT,
            {
                "name": "mae",
                "decoder_width": 24,
                "decoder_depth": 2,
                "decoder_heads": 3,
            },
        )
    ],
    "vit_jax": [
        ({**LEARNED, "gelu_tanh": True}, {**FIVE, "representation": 8}),
        ({**LEARNED, "gelu_tanh": True, "cls": False}, {**FIVE, "pool": "gap"}),
        ({**STEM, "gelu_tanh": True}, FIVE),
    ],
    "vqkd": [
        (
            {**LEARNED, "qkv_bias": "qv", "start": "beit"},
            {
                "name": "vqkd",
                "num_codes": 24,
                "code_width": 8,
                "decoder_width": 24,
                "decoder_depth": 1,
                "decoder_heads": 3,
            },
        )
    ],
}
CASES = [(name, number) for name in MODELS for number in range(len(MODELS[name]))]
# What shapes do not tell, and is said on the command line.
UNTOLD = (
    "heads",
    "decoder_heads",
    "mask_cell",
    "num_hidden",
    "min_block",
    "early_layer",
)
UNTOLD += ("head_heads", "image_size", "layers")
# A file of that layout is of the encoder alone.
UNTOLD_OF = {"aim": ("head",)}
# Where LayerScale starts and how weights do matter to a new run alone.
STARTS = ("layer_scale", "start")


def built(encoder: dict, objective: dict) -> config.Config:
    """A model of these fields."""
    return config.rebuilt(
        {"encoder": {"name": "vit", **encoder}, "objective": objective}
    )


def changes_of(
    layout: str, encoder: dict, objective: dict
) -> tuple[tuple[str, str], ...]:
    """What has to be said of such a model."""
    groups = {"encoder": encoder, "objective": objective}
    return tuple(
        (f"{group}.{name}", str(value))
        for group, fields in groups.items()
        for name, value in fields.items()
        if name in UNTOLD + UNTOLD_OF.get(layout, ())
        and not (name == "heads" and isinstance(value, tuple))
    )


def random_params(given: config.Config) -> dict:
    """All parameters, and what moves beside them."""
    rng = np.random.default_rng(0)
    leaves = {
        name: rng.normal(size=x.shape).astype(x.dtype)
        for name, x in weights.shapes_of(given).items()
    }
    return trees.nested(leaves)


def saved(folder: pathlib.Path, arrays: dict[str, np.ndarray]) -> pathlib.Path:
    """A file of these arrays."""
    np.savez(folder / "weights.npz", **arrays)
    return folder / "weights.npz"


def test_every_layout_has_models():
    assert set(layouts.names()) == set(MODELS)


@pytest.mark.parametrize(("layout", "number"), CASES)
def test_parameters_go_out_and_come_back(tmp_path, layout, number):
    """To the bit, recognised by their names, and their config by the shapes.

    A backbone of DINO alone looks like one of timm: its layout is said.
    """
    encoder, objective = MODELS[layout][number]
    given = built(encoder, objective)
    assert layouts.load(layout).misfit(given.objective) == ""
    params = random_params(given)
    arrays = weights.written(given.objective, params, layout)
    path, changes = saved(tmp_path, arrays), changes_of(layout, encoder, objective)
    told = layout if layout == "dino" else ""
    known = weights.recognised(plainly(dict(arrays)))
    assert known == ("timm_vit" if told else layout)
    found = weights.convert([path], told, changes)
    assert (found.layout, found.unexpected) == (layout, [])
    table = layouts.load(layout).entries(given.objective)
    assert sorted(found.matched) == sorted(entry.ours for entry in table)
    there = trees.named_leaves(found.params)
    for name, x in trees.named_leaves(params).items():
        if name in there:
            np.testing.assert_array_equal(there[name], x, strict=True)
        else:
            assert "/".join(name) not in found.matched
    for group, fields in (("encoder", encoder), ("objective", objective)):
        for name, value in fields.items():
            if name not in STARTS:
                assert found.config.values[group][name] == value, name
    again = weights.written(found.config.objective, found.params, layout)
    assert again.keys() == arrays.keys()
    for name, x in arrays.items():
        np.testing.assert_array_equal(again[name], x, err_msg=name, strict=True)


@pytest.mark.parametrize(("layout", "offset"), [("dino", 0.1), ("timm_vit", 0.0)])
def test_a_bare_backbone_is_resized_as_the_layout_said_does_it(
    tmp_path, layout, offset
):
    given = built(LEARNED, {"name": "classify"})
    params = random_params(given)
    path = saved(tmp_path, weights.written(given.objective, params, "dino"))
    changes = (("encoder.heads", "4"), ("encoder.image_size", "(24, 20)"))
    found = weights.convert([path], layout, changes).params["encoder"]["pos_embed"]
    table, grid = params["encoder"]["pos_embed"], (6, 5)
    wanted = resize.positions(
        table, grid, functools.partial(resize.bicubic, offset=offset)
    )
    np.testing.assert_array_equal(found, wanted)


def swin(heads: tuple[int, ...]) -> Callable[[official.Source], Any]:
    """How the tests read a classifier on Swin."""
    return lambda source: {
        "encoder": official.swin_encoder(source, heads),
        "head": official.linear(source, "head"),
    }


def simmim_swin(source: official.Source) -> Any:
    """How the tests read SimMIM on Swin."""
    return {
        "encoder": official.swin_encoder(source.below("encoder."), (2, 4)),
        "mask_token": source["encoder.mask_token"],
        "decoder": official.pixel_shuffle(source, "decoder.0", 4),
    }


def vqkd(source: official.Source) -> Any:
    """How the tests read VQ-KD, and its codes."""
    moving = {
        "codes": source["quantize.embedding.weight"],
        "started": source["quantize.embedding.initted"][0],
    }
    return {**official.vqkd(source, 3, 2), "moving": moving}


TOLD = (("objective.num_hidden", "6"), ("objective.min_block", "2"))
# Golden files: their layout, how the tests read them, and what shapes do not tell.
THREE = (("encoder.heads", "3"),)
GOLDEN: dict[str, tuple[str, Callable[[official.Source], Any], Any]] = {
    "mae_normpix": (
        "mae",
        lambda source: official.mae(source, 4, 3),
        (("encoder.heads", "4"), ("objective.decoder_heads", "3")),
    ),
    "mae_rawpix": (
        "mae",
        lambda source: official.mae(source, 2, 3),
        (("encoder.heads", "2"), ("objective.decoder_heads", "3")),
    ),
    "beit_pretrain_abspos": ("beit", lambda source: official.beit(source, 3), THREE),
    "beit_pretrain_relbias": (
        "beit",
        lambda source: official.beit(source, 4),
        TOLD,
    ),
    "beit2_pretrain_cls": (
        "beit2",
        lambda source: official.beit2(source, 3),
        TOLD,
    ),
    "beit2_vqkd": (
        "vqkd",
        vqkd,
        (("encoder.heads", "3"), ("objective.decoder_heads", "2")),
    ),
    "simmim_vit": (
        "simmim",
        lambda source: official.simmim(source, 4, 8),
        (("objective.mask_cell", "8"),),
    ),
    "simmim_swin": ("simmim_swin", simmim_swin, (("objective.mask_cell", "4"),)),
    "swin_cls": ("swin", swin((2, 2, 4)), ()),
    "swin_cls_clamped_window": ("swin", swin((1, 2, 4)), ()),
    "aim_v1_pretrain_eps1e-5": (
        "aim_l3m",
        lambda source: official.aim(source, 4),
        (("encoder.heads", "4"),),
    ),
    "aim_v1_probe": (
        "aim",
        lambda source: {"encoder": official.aim_encoder(source, 4, official.ML_AIM)},
        (("encoder.heads", "4"), ("encoder.image_size", "(16, 16)")),
    ),
    "dalle_dvae": ("dalle", official.dalle, ()),
    "vit_jax_token": ("vit_jax", official.vit_jax, ()),
    "vit_jax_token_rep": ("vit_jax", official.vit_jax, ()),
    "vit_jax_gap": ("vit_jax", official.vit_jax, ()),
    "vit_jax_hybrid_r11": ("vit_jax", official.vit_jax, ()),
    "vit_jax_hybrid_stem_only": ("vit_jax", official.vit_jax, ()),
}
# A golden file's vocabulary is smaller than any tokenizer's that may stand in, and its
# features of a teacher are narrower.
HEAD = {"lm_head.weight": 8192, "lm_head.bias": 8192}
HEADS = {"beit_pretrain_relbias": HEAD, "beit2_pretrain_cls": HEAD}
HEADS["beit_pretrain_abspos"] = HEAD
HEADS["beit2_vqkd"] = {"decode_task_layer.2.weight": 24, "decode_task_layer.2.bias": 24}
# Computed anew: fixed tables, and what VQ-KD counts of its codes.
ANEW = ("pos_embed", "cluster_size", "embed_avg")


def golden(name: str) -> dict[str, np.ndarray]:
    """The weights of a golden file under their official names, without a probe."""
    arrays = dict(official.load(name).weights.arrays)
    for part, rows in HEADS.get(name, {}).items():
        arrays[part] = np.resize(arrays[part], (rows, *arrays[part].shape[1:]))
    if name == "aim_v1_probe":
        return {n: x for n, x in arrays.items() if not n.startswith("head.")}
    return arrays


def test_a_backbone_and_its_probe_are_two_files(tmp_path, capsys):
    """apple/ml-aim's; the backbone alone is AIM without a head."""
    arrays = official.load("aim_v1_probe").weights.arrays
    head = {n: x for n, x in arrays.items() if n.startswith("head.")}
    trunk = {n: x for n, x in arrays.items() if n not in head}
    paths = []
    for name, part in (("backbone", trunk), ("head", head)):
        (tmp_path / name).mkdir()
        paths.append(str(saved(tmp_path / name, part)))
    flags = ["--config.encoder.heads=4", "--config.encoder.image_size=16"]
    alone, out = tmp_path / "alone", tmp_path / "out"
    assert command.main([paths[0], f"--out={alone}", *flags]) == 0
    assert config.of_workdir(str(alone)).values["objective"]["name"] == "aim"
    flags.append("--config.objective.layers=2,3")
    assert command.main([*paths, f"--out={out}", *flags]) == 0
    assert "unexpected" not in capsys.readouterr().out
    model = models.load(out)
    values = model.config.values["objective"]
    assert values == {"name": "attentive", "num_classes": 10, "layers": (2, 3)}
    assert model.fresh == []
    wanted = official.attentive(official.Source(arrays), 4)
    for name, tree in wanted.items():
        jax.tree.map(np.testing.assert_array_equal, model.variables[name], tree)


@pytest.mark.parametrize("layout", ["aim", "aim_l3m"])
def test_heads_that_a_folder_tells_count(tmp_path, layout):
    """Those of AIM's sizes, of which none is as wide, are a guess."""
    given = built(*MODELS[layout][0])
    arrays = weights.written(given.objective, random_params(given), layout)
    writing.write(tmp_path / "model.safetensors", arrays, arrays.__getitem__)
    (tmp_path / "config.json").write_text('{"num_attention_heads": 2}')
    assert weights.convert([tmp_path]).config.encoder.heads == 2


@pytest.mark.parametrize("layout", ["timm_vit", "transformers_vit"])
def test_the_encoder_of_a_probe_goes_out_without_its_head(layout):
    """Libraries have no such head; their configuration promises no class."""
    given = built(LEARNED, {"name": "attentive", "num_classes": 5, "layers": (1, 2)})
    table, objective = layouts.load(layout), given.objective
    assert table.misfit(objective) == ""
    arrays = weights.written(objective, random_params(given), layout)
    assert not any("head" in name or "classifier" in name for name in arrays)
    said = table.package(objective, (0.5,) * 3, (0.5,) * 3)["config.json"]
    assert said.get("num_classes", 0) == len(said.get("id2label", ())) == 0


@pytest.mark.parametrize("name", GOLDEN)
def test_weights_go_in_and_out_without_a_change(tmp_path, name):
    """Recognised, equal to what the tests' own table makes, and back to the bit."""
    arrays, (layout, read, changes) = golden(name), GOLDEN[name]
    found = weights.convert([saved(tmp_path, arrays)], changes=changes)
    assert (found.layout, found.missing, found.unexpected) == (layout, [], [])
    wanted = read(official.Source(arrays))
    assert jax.tree.structure(found.params) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, found.params, wanted)
    back = weights.written(found.config.objective, found.params, layout)
    if layout == "aim_l3m":
        # Of the model of its config, where what makes the tokens is the first of two.
        one, two = "preprocessor.", "preprocessor.blocks.0."
        arrays = {n.replace(one, two): x for n, x in arrays.items()}
    assert back.keys() == arrays.keys()
    for part, array in arrays.items():
        assert (back[part].shape, back[part].dtype) == (array.shape, array.dtype), part
        if part.endswith("pos_embed"):
            np.testing.assert_allclose(back[part], array, rtol=0, atol=1e-6)
        elif not part.endswith(ANEW):
            np.testing.assert_array_equal(back[part], array, err_msg=part)


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_a_fixed_table_of_few_bits_is_fixed(tmp_path, kind):
    """Of the whole size, where many entries are rounded; learned it is another."""
    table = tables.sincos((14, 14), 768, True)
    assert shapes.is_sincos(table.astype(kind), (14, 14), True)
    moved = table * (1 + 4 * float(ml_dtypes.finfo(kind).eps))
    assert not shapes.is_sincos(moved.astype(kind), (14, 14), True)
    arrays = {n: x.astype(kind) for n, x in golden("mae_normpix").items()}
    changes = GOLDEN["mae_normpix"][2]
    found = weights.convert([saved(tmp_path, arrays)], changes=changes)
    assert found.config.encoder.position == "sincos"
    assert found.read(("encoder", "patch", "kernel")).dtype == np.float32


@pytest.mark.parametrize("size", ["", "8,32", "12,12"])
def test_fixed_positions_tell_their_sides(tmp_path, size):
    """Of 2 x 8 patches, which are as many as 4 x 4."""
    encoder, objective = MODELS["mae"][0]
    given = built({**encoder, "image_size": (8, 32)}, objective)
    arrays = weights.written(given.objective, random_params(given), "mae")
    changes = changes_of("mae", encoder, objective)
    changes = tuple(one for one in changes if one[0] != weights.SIZE)
    changes += ((weights.SIZE, size),) if size else ()
    found = weights.convert([saved(tmp_path, arrays)], changes=changes)
    wanted = (12, 12) if size == "12,12" else (8, 32)
    assert found.config.encoder.position == "sincos"
    assert found.config.encoder.image_size == wanted
    assert found.resized == found.unexpected == []


def test_learned_positions_are_taken_for_a_square_s(tmp_path, capsys):
    """What is asked for is another size then; the command says so."""
    given = built({**LEARNED, "image_size": (8, 32)}, FIVE)
    arrays = weights.written(given.objective, random_params(given), "timm_vit")
    flags = [f"--out={tmp_path / 'out'}", FOUR, "--config.encoder.image_size=8,32"]
    assert command.main([str(saved(tmp_path, arrays)), *flags]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "taken: positions in the file are of 4 x 4 patches" in said


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_layers_of_two_types_are_read_whole(tmp_path, kind):
    """The first has few bits, in which the second would overflow or be rounded."""
    arrays = golden("mae_normpix")
    name = "blocks.{}.mlp.fc1.weight"
    arrays[name.format(0)] = arrays[name.format(0)].astype(kind)
    arrays[name.format(1)] = arrays[name.format(1)] * np.float32(1e6)
    changes = GOLDEN["mae_normpix"][2]
    found = weights.convert([saved(tmp_path, arrays)], changes=changes)
    kernel = found.read(("encoder", "blocks", "layers", "mlp", "up", "kernel"))
    assert kernel.dtype == np.float32
    for i in range(2):
        np.testing.assert_array_equal(kernel[i], arrays[name.format(i)].T)


def test_an_encoder_alone_and_names_too_many_are_told(tmp_path, capsys):
    """As in a file without the decoder; the run that starts from it has its encoder."""
    arrays = {
        n: x for n, x in golden("mae_normpix").items() if not n.startswith("decoder")
    }
    del arrays["mask_token"]
    path = saved(tmp_path, {**arrays, "aux.weight": np.zeros(3, np.float32)})
    out = tmp_path / "out"
    flags = [str(path), f"--out={out}", "--config.encoder.heads=4"]
    assert command.main(flags) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"mae: 17 parameters, in {out}"
    assert said[1].startswith("missing: 19 (decoder_embed/kernel, decoder_embed/bias, ")
    assert said[2] == "unexpected: 1 ('aux.weight')"
    values = json.loads((out / "config.json").read_text())
    assert values["encoder"]["image_size"] == [32, 32]
    sizes = {f"encoder__{n}": values["encoder"][n] for n in ("width", "patch_size")}
    given = tiny.resolve("mae", encoder__image_size=32, init_from=out, **sizes)
    state, names = tiny.warm_start(tiny.start(given, tiny.mesh_of()), out, "encoder")
    assert not names["missing"] + names["shape"] + names["unexpected"]
    kernel = arrays["patch_embed.proj.weight"].transpose(2, 3, 1, 0).reshape(-1, 32)
    np.testing.assert_array_equal(state.params["encoder"]["patch"]["kernel"], kernel)
    assert config.model_of(str(out)).objective.encoder.grid == (4, 4)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"norm.weight": np.zeros(31, np.float32)}, "norm.weight of (31,) does not"),
        (
            {"blocks.0.attn.qkv.weight": np.zeros((9, 32), np.float32)},
            "attn.qkv.weight",
        ),
        (
            {"pos_embed": np.ones((1, 17, 32), np.float32)},
            "no known layout (aim, aim_l3m, ",
        ),
        ({"patch_embed.proj.weight": np.zeros((32, 3), np.float32)}, "is no mae model"),
    ],
)
def test_another_models_arrays_are_refused_in_one_line(tmp_path, capsys, change, told):
    path = saved(tmp_path, golden("mae_normpix") | change)
    flags = [f"--out={tmp_path / 'out'}", "--config.encoder.heads=4"]
    assert command.main([str(path), *flags, "--config.objective.decoder_heads=3"]) == 78
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(str(path)) and told in line
    assert not (tmp_path / "out").exists()


FOUR = "--config.encoder.heads=4"
FITTING = "--config.objective.decoder_heads=3"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            [],
            "no size known is 32 wide, and weights tell no heads: say --config.encoder",
        ),
        (["--layout=moo"], "--layout: 'moo' is none of aim, aim_l3m, "),
        (
            ["--config.objective.name=moo"],
            "is no mae model: config.objective.name: 'moo' is none of aim, ",
        ),
        (["--config.encoder.name=moo"], "config.encoder.name: 'moo' is none of vit, "),
        (["--config.encoder.size=L"], "config.encoder.size: the file tells it"),
        (["--config.encoder.head=4"], "is no mae model: config.encoder.head: no such"),
        (["--config.encoder.heads=5"], "is no mae model: heads: 5 does not divide"),
        ([FOUR, FITTING, "--config.evaluate.layers=99,"], "config.evaluate.layers: "),
        (
            [FOUR, FITTING, "--config.evaluate.pool=none"],
            "config.evaluate.pool: 'none' is none",
        ),
        (["--what"], "unknown flag --what"),
    ],
)
def test_wrong_flags_are_told_in_one_line(tmp_path, capsys, flags, told):
    path = saved(tmp_path, golden("mae_normpix"))
    assert command.main([str(path), f"--out={tmp_path / 'out'}", *flags]) == 78
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_an_objective_that_a_layout_is_not_of_is_told(tmp_path, capsys):
    """Of an encoder alone, whose file holds nothing of another objective either."""
    arrays = {n: x for n, x in golden("mae_normpix").items() if "decoder" not in n}
    flags = [f"--out={tmp_path / 'out'}", "--config.encoder.heads=4"]
    flags.append("--config.objective.name=classify")
    assert command.main([str(saved(tmp_path, arrays)), *flags]) == 78
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        "config.objective.name: this layout has no names for classify on vit"
    )


def test_a_vocabulary_that_no_file_tells_is_left_out(tmp_path):
    """It is as large as the tokenizer's, which may be another than stands in."""
    arrays = dict(official.load("beit_pretrain_relbias").weights.arrays)
    assert len(arrays["lm_head.bias"]) != 8192
    found = weights.convert([saved(tmp_path, arrays)], changes=TOLD)
    assert found.missing == ["head/kernel", "head/bias"]
    assert found.unexpected == ["lm_head.bias", "lm_head.weight"]


def test_names_of_a_file_are_told_on_one_line(tmp_path, capsys):
    arrays = golden("mae_normpix") | {"\x1b[2J\n": np.zeros(3, np.float32)}
    flags = [f"--out={tmp_path / 'out'}", "--config.encoder.heads=4"]
    flags.append("--config.objective.decoder_heads=3")
    assert command.main([str(saved(tmp_path, arrays)), *flags]) == 0
    assert r"unexpected: 1 ('\x1b[2J\n')" in capsys.readouterr().out
    with pytest.raises(files.BadFileError, match=r"no known layout.*: '\\x1b'$"):
        weights.convert([saved(tmp_path, {"\x1b": np.zeros(3, np.float32)})])


def test_two_names_of_one_parameter_are_told(tmp_path):
    arrays = golden("mae_normpix")
    path = saved(tmp_path, {**arrays, "vit.norm.bias": arrays["norm.bias"] + 1})
    told = "holds 'norm.bias' and 'vit.norm.bias', which are one thing here: leave"
    with pytest.raises(files.BadFileError, match=told):
        weights.convert([path], "mae")


def test_colours_of_beit_are_its_own(tmp_path):
    """Also under transformers' names, where no folder says others."""
    for number in range(3):
        given = built(*MODELS["transformers_beit"][number])
        arrays = weights.written(
            given.objective, random_params(given), "transformers_beit"
        )
        found = weights.convert([saved(tmp_path, arrays)])
        assert found.config.data.normalise == "inception"


def test_a_grid_of_as_many_patches_is_another(tmp_path):
    """Of a folder that tells a size that is no square: 4 x 6 becomes 6 x 4."""
    given = built({**LEARNED, "image_size": (16, 24)}, FIVE)
    params = random_params(given)
    saved_in(tmp_path, "timm_vit", given, params)
    for size, grid in (("16,24", (4, 6)), ("24,16", (6, 4)), ("32,24", (8, 6))):
        found = weights.convert([tmp_path], changes=(("encoder.image_size", size),))
        table = params["encoder"]["pos_embed"]
        how = functools.partial(resize.bicubic, antialias=True)
        wanted = resize.positions(table, grid, how, source=(4, 6))
        there = found.params["encoder"]["pos_embed"]
        np.testing.assert_array_equal(there, wanted)
        assert found.resized == ["encoder/pos_embed"] * (grid != (4, 6))


def test_why_a_table_is_not_resized_is_told(tmp_path):
    """Of 2 x 2 patches, which have too few distances."""
    encoder, objective = MODELS["timm_beit"][0]
    given = built({**encoder, "image_size": (8, 8)}, objective)
    path = saved(
        tmp_path, weights.written(given.objective, random_params(given), "timm_beit")
    )
    found = weights.convert([path], changes=((weights.SIZE, "16"),))
    told = r"does not make encoder/relative_table of .*: .* 3 distances .* the spline"
    with pytest.raises(files.BadFileError, match=told):
        found.read(("encoder", "relative_table"))


def saved_in(
    folder: pathlib.Path, layout: str, given: config.Config, params: dict
) -> None:
    """A folder of a library."""
    arrays = weights.written(given.objective, params, layout)
    writing.write(folder / "model.safetensors", arrays, arrays.__getitem__)
    table = layouts.load(layout)
    said = table.package(given.objective, (0.5,) * 3, (0.5,) * 3)["config.json"]
    (folder / "config.json").write_text(json.dumps(said))


def test_colours_that_are_said_count_before_a_folder_s(tmp_path):
    encoder, objective = MODELS["timm_vit"][0]
    given = built(encoder, objective)
    saved_in(tmp_path, "timm_vit", given, random_params(given))
    named = (("data.normalise", "pixels"),)
    told = (*named, ("data.mean", "(0, 0, 1)"), ("data.std", "(1, 1, 1)"))
    for changes, mean in (((), (0.5,) * 3), (named, ()), (told, (0, 0, 1))):
        found = weights.convert([tmp_path], changes=changes).config.data
        assert found.mean == mean and len(found.std) == len(mean)


@pytest.mark.parametrize("layout", ["timm_vit", "timm_swin"])
def test_the_activation_that_a_folder_of_timm_tells(tmp_path, layout):
    encoder, objective = MODELS[layout][0]
    given = built(encoder, objective)
    saved_in(tmp_path, layout, given, random_params(given))
    said = json.loads((tmp_path / "config.json").read_text())
    for name, told in (("gelu_tanh", "approximation"), ("quick_gelu", "'quick_gelu'")):
        said["model_args"]["act_layer"] = name
        (tmp_path / "config.json").write_text(json.dumps(said))
        if layout == "timm_vit" and name == "gelu_tanh":
            assert weights.convert([tmp_path]).config.encoder.gelu_tanh
            continue
        with pytest.raises(files.BadFileError, match=f"its activation is .*{told}"):
            weights.convert([tmp_path])


def test_a_swin_whose_norms_differ_is_told(tmp_path):
    """In transformers those of patches and merges have 1e-5, whatever is told."""
    given = built(*MODELS["transformers_swin"][1])
    saved_in(tmp_path, "transformers_swin", given, random_params(given))
    assert weights.convert([tmp_path]).config.encoder.norm_eps == 1e-5
    said = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**said, "layer_norm_eps": 1e-6}))
    with pytest.raises(files.BadFileError, match="its layer_norm_eps is 1e-06"):
        weights.convert([tmp_path])


def test_a_workdir_is_whole_or_not_there(tmp_path, capsys, monkeypatch):
    """The disk is full before the parameters are written, which make it one."""
    path, out = saved(tmp_path, golden("mae_normpix")), tmp_path / "out"
    flags = [str(path), f"--out={out}", "--config.encoder.heads=4"]
    flags.append("--config.objective.decoder_heads=3")

    def full(path, *_):
        path.with_name("half").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "write", full)
    assert command.main(flags) == 74
    assert "No space left" in capsys.readouterr().err
    assert not out.exists()
    out.mkdir()
    assert command.main(flags) == 74
    assert not any(out.iterdir())
    monkeypatch.undo()
    assert command.main(flags) == 0
    assert (out / "config.json").exists()


def test_a_place_that_cannot_be_looked_at_is_told(tmp_path, capsys):
    path = str(saved(tmp_path, golden("mae_normpix")))
    assert command.main([path, f"--out={tmp_path / ('x' * 300)}"]) == 78
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("--out: cannot look at ") and line.endswith("name too long")


def test_a_workdir_that_is_there_is_left_alone(tmp_path, capsys):
    path = saved(tmp_path, golden("mae_normpix"))
    assert command.main([str(path), f"--out={tmp_path}"]) == 78
    assert "is not empty" in capsys.readouterr().err
    with pytest.raises(files.BadFileError, match="does not exist"):
        weights.convert([tmp_path / "nothing.pth"])


@pytest.mark.parametrize(("layout", "number"), CASES)
def test_an_array_of_any_shape_is_told(tmp_path, layout, number):
    """One after another is a number, a row, or nothing at all: no other error."""
    encoder, objective = MODELS[layout][number]
    given = built(encoder, objective)
    shapes = weights.shapes_of(given)
    params = trees.nested({n: np.zeros(x.shape, x.dtype) for n, x in shapes.items()})
    arrays = plainly(weights.written(given.objective, params, layout))
    whole = dict(arrays)
    wider = given.encoder.clone(image_size=tuple(2 * n for n in encoder["image_size"]))
    found = weights.matching(tmp_path, arrays, layout, given, source=wider)
    for name, x in whole.items():
        for shape in {(), (3,), (0, 2)} - {x.shape}:
            arrays[name] = np.zeros(shape, np.float32)
            if arrays[name].size == x.size:
                continue
            weights.recognised(arrays)
            with contextlib.suppress(*UNFIT):
                weights.values_of(arrays, layout, {}, ())
            for place in found.parts:
                if name in found.parts[place].entry.names():
                    with pytest.raises(files.BadFileError, match="does not make"):
                        found.read(place)
        arrays[name] = x
