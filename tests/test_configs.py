"""The recipes in configs/: what each resolves to, how large its model is, what it says.

After a change that is meant, rewrite the golden texts and read the difference:

    MIMJAX_REWRITE_GOLDEN=1 python -m pytest tests/test_configs.py
"""

import ast
import os
import pathlib

import jax
import pytest

from mimjax import config, schema, train
from mimjax.optim import decays
from mimjax.run import setup
from mimjax.study import fits, plan

ROOT = pathlib.Path(__file__).parents[1]
GOLDEN = pathlib.Path(__file__).parent / "golden" / "configs"
FILES = sorted((ROOT / "configs").glob("*.py"))
# Many runs of recipes, which are checked as studies.
STUDIES = [path.stem for path in FILES if "def get_study" in path.read_text()]
NAMES = [path.stem for path in FILES if path.stem not in STUDIES]
PAPERS = [name for name in NAMES if not name.startswith("quickstart")]

# Images of ImageNet-1k's training set, which steps are counted on.
IMAGES = 1_281_167

# Trainable parameters of the encoder and of the whole, by arithmetic on the papers'
# sizes. Two position tables are frozen in MAE's official code and count there: its
# encoders have 85,798,656, 303,301,632 and 630,764,800 with (1 + patches) x width more.
# The published counts of ViT are those of the whole. SimMIM-B is BEiT-B, which has
# 86,530,984 as a classifier, with one relative table for its twelve and no head.
B_HEAD, B_TABLE = 768 * 1000 + 1000, 732 * 12
L_HEAD = 1024 * 1000 + 1000
SIMMIM_B = 86_530_984 - B_HEAD - 11 * B_TABLE

# Swin's published counts have a head and windows of 7: other windows have other tables,
# one for each head of each layer. SimMIM's last stage is 6 x 6 tokens, one window.
SWIN_B = 87_768_224 - (1024 * 1000 + 1000) + (11**2 - 13**2) * 376
SWIN_L_14 = 196_532_476 + (27**2 - 13**2) * 468  # its last stage is 7 x 7 tokens
SWIN_L = 196_532_476 - (1536 * 1000 + 1000)
SWIN_L += (23**2 - 13**2) * 468 + (11**2 - 13**2) * 96


# The published wholes hold a mask token and a head over the vocabulary of 8,192.
BEIT_B = 91_965_776 - 768 - (768 * 8192 + 8192)
# As timm counts its ViT-S/16, which has a head.
DINO_S = 22_050_664 - (384 * 1000 + 1000)
BEIT_L = 311_534_016 - 1024 - (1024 * 8192 + 8192)


def dvae(
    width: int, groups: int, blocks: int, codes: int, first: int
) -> tuple[int, int]:
    """A convolutional encoder, and with its decoder: layer by layer."""

    def conv(side: int, inside: int, out: int) -> int:
        return side**2 * inside * out + out

    def block(inside: int, out: int, sides: tuple[int, ...]) -> int:
        ways = [inside, *[out // 4] * 3, out]
        branch = sum(map(conv, sides, ways[:-1], ways[1:]))
        return branch + (conv(1, inside, out) if inside != out else 0)

    def body(inside: int, widths: list[int], sides: tuple[int, ...]) -> int:
        entries = zip([inside, *widths], widths, strict=False)
        return sum(
            block(a, b, sides) + (blocks - 1) * block(b, b, sides) for a, b in entries
        )

    widths = [width * 2**group for group in range(groups)]
    encoder = conv(7, 3, width) + body(width, widths, (3, 3, 3, 1))
    encoder += conv(1, widths[-1], codes)
    decoder = conv(1, codes, first) + body(first, widths[::-1], (1, 3, 3, 3))
    return encoder, encoder + decoder + conv(1, width, 6)


def vit_like(width: int, depth: int, tokens: int, values: int) -> int:
    """A transformer with learned positions and no bias on its keys."""
    ends = values * width + width + width + (tokens + 1) * width + 2 * width
    return ends + depth * (12 * width**2 + 12 * width)


def vqkd(
    encoder: tuple[int, int, int, int],
    decoder: tuple[int, int, int, int],
    teacher: int,
) -> tuple[int, int]:
    """An encoder; with two dense layers, the decoder of its codes and two more."""
    (wide, *_), (width, *_, code) = encoder, decoder
    whole = vit_like(*encoder) + vit_like(*decoder)
    whole += wide**2 + wide + wide * code + code
    whole += width**2 + width + width * teacher + teacher
    return vit_like(*encoder), whole


def beit2_branch(width: int, depth: int) -> int:
    """Layers of BEiT: without a bias on the keys, with two scales."""
    return depth * (12 * width**2 + 14 * width)


def simmim(encoder: int, first: int, last: int, values: int) -> tuple[int, int]:
    """An encoder, and with SimMIM's mask token and decoder."""
    return encoder, encoder + first + last * values + values


def finetuned(encoder: int, width: int, classes: int = 1000) -> tuple[int, int]:
    """An encoder, and with a norm of the mean and a head."""
    return encoder, encoder + 2 * width + width * classes + classes


def aim(trunk: int, width: int) -> tuple[int, int]:
    """AIM's trunk, and with its head: in, 12 blocks of 2 norms and 2 matrices, out."""
    block = 4 * 2048 + 2 * 2048 * 8192
    ends = (width * 2048 + 2048) + 2 * 2048 + (2048 * 588 + 588)
    return trunk, trunk + 12 * block + ends


PARAMETERS = {
    "mae_b16": (85_798_656 - 197 * 768, 111_655_680),
    "mae_l16": (303_301_632 - 197 * 1024, 329_239_296),
    "mae_h14": (630_764_800 - 257 * 1280, 656_613_964),
    # Published: a head of 6,256,128. There is one for each of seven rates.
    "attentive_aim_600m": (680_535_552, 680_535_552 + 7 * 6_256_128),
    # MAE's encoder at 512 pixels, its table resized to 32 x 32 patches.
    "segment_b16": (85_798_656 + 828 * 768, 85_798_656 + 828 * 768 + 769 * 150),
    "linear_mae_b16": (85_798_656 - 197 * 768, 85_798_656 - 197 * 768 + B_HEAD),
    "linear_beit_b16": (BEIT_B, BEIT_B + B_HEAD),
    "knn_b16": (85_798_656 - 197 * 768, 85_798_656 - 197 * 768 + B_HEAD),
    "linear_dino_s16": (DINO_S, DINO_S + 4 * 384 * 1000 + 1000),
    "aim_600m": aim(680_535_552, 1536),
    "aim_1b": aim(1_209_370_624, 2048),
    "aim_3b": aim(2_720_025_600, 3072),
    "aim_7b": aim(6_445_404_160, 4096),
    # The norm before the mean stays, unused; official counts are without it.
    "finetune_mae_b16": finetuned(85_798_656, 768),
    "finetune_mae_l16": finetuned(303_301_632, 1024),
    "finetune_mae_h14": finetuned(630_764_800, 1280),
    "partial_mae_b16": finetuned(85_798_656 - 197 * 768, 768),
    "finetune_beit_b16": finetuned(86_530_984 - B_HEAD, 768),
    "finetune_beit2_b16": finetuned(86_530_984 - B_HEAD, 768),
    "finetune_beit_l16": finetuned(304_430_568 - L_HEAD, 1024),
    "finetune_beit2_l16": finetuned(304_430_568 - L_HEAD, 1024),
    "finetune_simmim_b16": finetuned(86_530_984 - B_HEAD, 768),
    "finetune_simmim_swin_b": (87_768_224 - (1024 * 1000 + 1000), 87_768_224),
    "finetune_simmim_swin_l": (SWIN_L_14 - (1536 * 1000 + 1000), SWIN_L_14),
    "quickstart_finetune": finetuned(799_744 + 65 * 128, 128, 10),
    "simmim_b16": simmim(SIMMIM_B, 768, 768, 768),
    "simmim_swin_b": simmim(SWIN_B, 128, 1024, 3072),
    "simmim_swin_l": simmim(SWIN_L, 192, 1536, 3072),
    "vit_b16": (86_567_656 - B_HEAD, 86_567_656),
    "vit_l16": (304_326_632 - L_HEAD, 304_326_632),
    "beit_b16": (BEIT_B, 91_965_776),
    "beit_l16": (BEIT_L, 311_534_016),
    "dvae": dvae(256, 4, 2, 8192, 128),
    "quickstart": (799_744, 861_296),
    # A head of a query, keys, values and ten scores.
    "quickstart_attentive": (799_744, 799_744 + 128 + 2 * 128**2 + 10 * 128),
    "quickstart_segment": (799_744, 799_744 + 129 * 11),
    "quickstart_linear": (799_744, 799_744 + 4 * (256 * 10 + 10)),
    "quickstart_aim": (401_024, 478_576),
    "quickstart_simmim": simmim(799_744, 128, 128, 48),
    "quickstart_mpp": simmim(799_744, 128, 128, 48),
    "quickstart_vit": (551_328, 551_328 + 128 * 10 + 10),
    "quickstart_beit": (799_744, 799_744 + 128 + 128 * 8192 + 8192),
    "mpp_b16": (86_567_656 - B_HEAD, 86_567_656 - B_HEAD + 768 + 768 * 512 + 512),
    "quickstart_tokenizer": dvae(32, 3, 1, 128, 32),
    "vqkd_b16": vqkd((768, 12, 196, 768), (768, 3, 196, 32), 768),
    "beit2_b16": (BEIT_B, 91_965_776 + beit2_branch(768, 2)),
    "beit2_l16": (BEIT_L, 311_534_016 + beit2_branch(1024, 2)),
    "quickstart_vqkd": vqkd((128, 2, 64, 48), (128, 1, 64, 16), 128),
    "quickstart_beit2": (
        799_744,
        799_744 + 12 * 128**2 + 13 * 128 + 128 + 128 * 8192 + 8192,
    ),
}


def path_of(name: str) -> str:
    """The file of a recipe."""
    return str(ROOT / "configs" / f"{name}.py")


@pytest.fixture(scope="module")
def resolved():
    """Every recipe, checked for eight devices, its data not looked for."""
    return {
        name: config.resolve(path_of(name), [], 8, with_data=False) for name in NAMES
    }


@pytest.fixture(scope="module")
def states(resolved):
    """Shapes of the state of every recipe; nothing is allocated."""
    return {name: train.shapes_of(found) for name, found in resolved.items()}


@pytest.fixture(scope="module")
def params(states):
    """Shapes of the parameters."""
    return {name: state.params for name, state in states.items()}


@pytest.mark.parametrize("name", NAMES)
def test_resolves_to_the_golden_text(resolved, name):
    found = resolved[name]
    flat = schema.flatten(found.values)
    lines = [f"{'.'.join(place)} = {flat[place]!r}" for place in sorted(flat)]
    derived = {
        "peak_lr": f"{found.optim.peak_lr(found.run.batch_size):.9g}",
        "steps": found.steps(IMAGES),
        "tokens": found.encoder.num_tokens,
        "warmup_steps": found.warmup(IMAGES),
    }
    lines += [f"derived.{field} = {value}" for field, value in derived.items()]
    text = "\n".join(lines) + "\n"
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("MIMJAX_REWRITE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert golden.exists(), "see the head of this file"
    assert text == golden.read_text(), "see the head of this file"


def test_every_golden_text_has_its_config():
    assert sorted(path.stem for path in GOLDEN.glob("*.txt")) == NAMES


def test_every_config_has_its_parameter_count():
    assert sorted(PARAMETERS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_as_many_as_published(params, name):
    tree = params[name]
    assert (train.count(tree["encoder"]), train.count(tree)) == PARAMETERS[name]


@pytest.mark.parametrize("name", [*NAMES, *STUDIES])
def test_is_short_and_says_how_to_run_it(name):
    program, longest, flag = "main", 60, "--config.data.source="
    if name in STUDIES:
        program, longest, flag = "study", 80, ""
    text = pathlib.Path(path_of(name)).read_text()
    assert len(text.splitlines()) <= longest
    said = ast.get_docstring(ast.parse(text)) or ""
    command = f"python -m mimjax.{program} --config=configs/{name}.py"
    assert any(
        line.strip().startswith(command) and "--workdir=" in line
        for line in said.splitlines()
    )
    for word in ("Hardware:", "Time:", "Expected:"):
        assert word in said
    if "tfds:" in text:
        assert f"{flag}folder:/path/to/images" in said


@pytest.mark.parametrize("name", STUDIES)
def test_every_run_of_a_study_can_be_started(name, monkeypatch):
    """But for the data and the runs that it builds on."""
    monkeypatch.chdir(ROOT)
    study = plan.load(path_of(name), pathlib.Path("runs"))
    assert not study.found
    runs = study.runs.values()
    for run in runs:
        given = run.texts(study.workdir)
        found = config.resolve(run.file, given, 8, with_data=False)
        assert not study.scaling or found.run.eval_every
    for names in ({run.row for run in runs}, {run.part for run in runs}):
        # Sizes and numbers of images.
        assert not study.scaling or len(names) >= fits.FEWEST


@pytest.mark.parametrize("name", PAPERS)
def test_sets_nothing_to_what_it_is_anyway(name):
    """One default, in the dataclass: a recipe holds what differs."""
    given = schema.load(path_of(name))
    named = given.get(("encoder", "name"), "vit"), given["objective", "name"]
    table = config.schemas(*named)
    for place, value in given.items():
        group, field = ("", *place)[-2:]
        if place != ("objective", "name"):
            assert value != table[group][field][1], place


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mae_b16", {"cls_token", "mask_token"}),
        ("simmim_b16", {"mask_token", "relative_table"}),
        ("simmim_swin_b", {"relative_table"}),
        ("beit_b16", {"mask_token", "relative_table"}),
        ("beit2_b16", {"mask_token", "relative_table"}),
        ("finetune_mae_b16", set()),
        ("finetune_beit_b16", {"relative_table"}),
        ("finetune_beit2_b16", {"relative_table"}),
        ("finetune_simmim_b16", {"relative_table"}),
        ("finetune_simmim_swin_b", set()),
        ("vqkd_b16", set()),
        ("dvae", set()),
        ("aim_600m", set()),
        ("attentive_aim_600m", set()),
        ("vit_b16", set()),
    ],
)
def test_decays_kernels_and_what_the_paper_decays(resolved, params, name, expected):
    leaves = jax.tree_util.tree_leaves_with_path(params[name])
    found = {path[-1].key for path, _ in leaves if decays(resolved[name].optim, path)}
    assert found == {"kernel"} | expected


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        # AIM has biases in its norms, in the patch embedding and at the head's ends.
        ("aim_600m", {"qkv", "out", "up", "down"}),
        ("simmim_b16", {"qkv"}),
        ("mae_b16", set()),
    ],
)
def test_has_the_biases_of_the_paper(params, name, missing):
    leaves = jax.tree_util.tree_leaves_with_path(params[name]["encoder"])
    layers = {path[-2].key for path, _ in leaves if path[-1].key == "kernel"}
    biased = {path[-2].key for path, _ in leaves if path[-1].key == "bias"}
    assert layers - biased == missing


# The official batch of a probe is no more.
SMALL_BATCHES = {"segment_b16": 16}


@pytest.mark.parametrize("devices", [1, 4, 64, 256])
def test_the_batches_divide_among_usual_numbers_of_devices(devices):
    for name in PAPERS:
        if devices <= SMALL_BATCHES.get(name, devices):
            config.resolve(path_of(name), [], devices, with_data=False)


@pytest.mark.parametrize("name", PAPERS)
def test_large_models_are_spread_over_the_devices(resolved, states, name, monkeypatch):
    """A device holds the whole state of a base model, but of no larger one."""
    monkeypatch.setattr(train, "shapes_of", lambda _: states[name])
    _, mesh = setup.place(resolved[name])
    spread = "data" if name.endswith(("b16", "s16", "_b", "dvae")) else "fsdp"
    assert mesh.shape[spread] == 8
