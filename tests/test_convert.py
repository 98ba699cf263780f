"""Weights of other projects: every table both ways, and the command that reads them."""

import json
import pathlib

import jax
import numpy as np
import official
import pytest
import tiny

from mimjax import config, warmstart
from mimjax.convert import __main__ as command
from mimjax.convert import files, layouts, weights

# Of each layout: a golden file, how the tests read it, and what the shapes do not tell.
CASES = {
    "mae": (
        "mae_normpix",
        lambda source: official.mae(source, 4, 3),
        (("encoder.heads", "4"), ("objective.decoder_heads", "3")),
    ),
    "beit": (
        "beit_pretrain_relbias",
        lambda source: official.beit(source, 4),
        (("objective.num_hidden", "6"), ("objective.min_block", "2")),
    ),
    "simmim": (
        "simmim_vit",
        lambda source: official.simmim(source, 4, 8),
        (("objective.mask_cell", "8"),),
    ),
}
# A golden file's vocabulary is smaller than any tokenizer's that may stand in.
HEADS = {"beit": {"lm_head.weight": (8192, 32), "lm_head.bias": (8192,)}}


def golden(layout: str) -> dict[str, np.ndarray]:
    """The weights of a golden file under their official names."""
    arrays = dict(official.load(CASES[layout][0]).weights.arrays)
    wider = HEADS.get(layout, {})
    return arrays | {n: np.resize(arrays[n], shape) for n, shape in wider.items()}


def saved(folder: pathlib.Path, arrays: dict[str, np.ndarray]) -> pathlib.Path:
    """A file of these arrays."""
    np.savez(folder / "weights.npz", **arrays)
    return folder / "weights.npz"


def test_every_layout_has_a_case():
    assert set(layouts.names()) == set(CASES)


@pytest.mark.parametrize("layout", CASES)
def test_weights_go_in_and_out_without_a_change(tmp_path, layout):
    """Recognised, equal to what the tests' own table makes, and back to the bit."""
    arrays = golden(layout)
    _, read, changes = CASES[layout]
    found = weights.convert(saved(tmp_path, arrays), changes=changes)
    assert (found.layout, found.missing, found.unexpected) == (layout, [], [])
    wanted = read(official.Source(arrays))
    assert jax.tree.structure(found.params) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, found.params, wanted)
    back = weights.written(found.config.objective, found.params, layout)
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (back[name].shape, back[name].dtype) == (array.shape, array.dtype), name
        # The fixed tables are computed anew.
        atol = 1e-6 if name.endswith("pos_embed") else 0.0
        np.testing.assert_allclose(back[name], array, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("layout", CASES)
def test_random_parameters_come_back_from_their_names(tmp_path, layout):
    changes = CASES[layout][2]
    found = weights.convert(saved(tmp_path, golden(layout)), changes=changes)
    objective = found.config.objective
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype(np.float32), found.params
    )
    path = saved(tmp_path, weights.written(objective, params, layout))
    again = weights.convert(path, layout, changes)
    jax.tree.map(np.testing.assert_array_equal, again.params, params)


def test_an_encoder_alone_and_names_too_many_are_told(tmp_path, capsys):
    """As in a file without the decoder; the run that starts from it has its encoder."""
    arrays = {n: x for n, x in golden("mae").items() if not n.startswith("decoder")}
    del arrays["mask_token"]
    path = saved(tmp_path, {**arrays, "aux.weight": np.zeros(3, np.float32)})
    out = tmp_path / "out"
    flags = [str(path), f"--out={out}", "--config.encoder.heads=4"]
    assert command.main(flags) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"mae: 17 parameters, in {out}"
    assert said[1].startswith("missing: 19 (decoder_embed/kernel, decoder_embed/bias, ")
    assert said[2] == "unexpected: 1 (aux.weight)"
    values = json.loads((out / "config.json").read_text())
    assert values["encoder"]["image_size"] == [32, 32]
    sizes = {f"encoder__{n}": values["encoder"][n] for n in ("width", "patch_size")}
    given = tiny.resolve("mae", encoder__image_size=32, init_from=out, **sizes)
    state, names = warmstart.warm_start(
        tiny.start(given, tiny.mesh_of()), out, "encoder"
    )
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
        ({"pos_embed": np.ones((1, 17, 32), np.float32)}, "no known layout (beit, mae"),
        ({"patch_embed.proj.weight": np.zeros((32, 3), np.float32)}, "is no mae model"),
    ],
)
def test_another_models_arrays_are_refused_in_one_line(tmp_path, capsys, change, told):
    path = saved(tmp_path, golden("mae") | change)
    flags = [f"--out={tmp_path / 'out'}", "--config.encoder.heads=4"]
    assert command.main([str(path), *flags, "--config.objective.decoder_heads=3"]) == 78
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(str(path)) and told in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--layout=moo"], "--layout: 'moo' is none of beit, mae, simmim"),
        (["--config.encoder.head=4"], "is no mae model: config.encoder.head: no such"),
        (["--config.encoder.heads=5"], "is no mae model: "),
        (["--what"], "unknown flag --what"),
    ],
)
def test_wrong_flags_are_told_in_one_line(tmp_path, capsys, flags, told):
    path = saved(tmp_path, golden("mae"))
    assert command.main([str(path), f"--out={tmp_path / 'out'}", *flags]) == 78
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_a_workdir_that_is_there_is_left_alone(tmp_path, capsys):
    path = saved(tmp_path, golden("mae"))
    assert command.main([str(path), f"--out={tmp_path}"]) == 78
    assert "is not empty" in capsys.readouterr().err
    with pytest.raises(files.BadFileError, match="does not exist"):
        weights.convert(tmp_path / "nothing.pth")
