"""The house rules that a machine can check."""

import ast
import pathlib
import re
import subprocess

import conftest
import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "mimjax").rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in PACKAGE}
NAMES = [str(path.relative_to(ROOT / "mimjax")) for path in PACKAGE]


def tree_of(name):
    """The parsed file of that name below mimjax/."""
    return TREES[ROOT / "mimjax" / name]


def imported(name, lazily=True):
    """Modules a file imports, "mimjax.a" for each `from mimjax import a`.

    Without `lazily` those that functions import when they are called are left out.
    """
    tree = tree_of(name)
    nodes = ast.walk(tree) if lazily else tree.body
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def uses(name, library, lazily=True):
    """Whether a file imports a library or a part of it."""
    return any(f"{m}.".startswith(f"{library}.") for m in imported(name, lazily))


# Lower layers first. A file may import from its own layer and those before.
LAYERS = [
    "__init__.py schema.py patches.py masking.py mixing.py posembed.py meshes.py "
    "sharding.py cores.py flops.py frozen.py orders.py reductions.py trees.py "
    "metrics.py hosts/ report/page.py report/progress.py report/curves.py "
    "run/__init__.py run/heap.py run/memory.py run/stop.py convert/__init__.py "
    "convert/pickles.py convert/archives.py convert/states.py convert/files.py "
    "convert/names.py convert/resize.py convert/tables.py convert/schemes.py "
    "convert/writing.py convert/plain.py convert/own.py",
    "backbones/ tokenizers/ convert/shapes.py convert/layouts/",
    "objectives/ data/ optim.py updates.py trainable.py grid.py evaluate/",
    "settings.py standins.py checks.py config.py",
    "batches.py gradients.py train.py report/",
    "checkpoint.py run/workdir.py run/feed.py",
    "origins.py warmstart.py run/judge.py run/heldout.py run/insight.py run/drawing.py",
    "run/setup.py convert/parts.py convert/weights.py convert/workdirs.py",
    "run/",
    "main.py convert/__main__.py models.py show.py",
    "export/ study/ bench/",
]


def layer_of(name):
    """The number of the layer of a file; a folder stands for what is in it."""
    for number, layer in enumerate(LAYERS):
        if any(name == part or name.startswith(part) for part in layer.split()):
            return number
    raise AssertionError(f"mimjax/{name} is in no layer of {__file__}")


# The front door: it imports what it is asked for.
@pytest.mark.parametrize("name", [n for n in NAMES if n != "__init__.py"])
def test_imports_run_one_way(name):
    for module in imported(name):
        parts = module.split(".")
        if parts[0] != "mimjax":
            continue
        places = ["/".join(parts[1:end]) for end in range(len(parts), 1, -1)]
        files = [f for p in places for f in (f"{p}.py", f"{p}/__init__.py")]
        file = next((f for f in files if f in NAMES), "__init__.py")
        assert layer_of(file) <= layer_of(name), f"mimjax/{name} imports {module}"


def test_libraries_stay_where_they_belong():
    flax = {n.partition("/")[0] for n in NAMES if uses(n, "flax")}
    assert flax <= {"backbones", "tokenizers", "objectives", "evaluate"}
    assert {n.partition("/")[0] for n in NAMES if uses(n, "tensorflow")} == {"data"}
    assert {n for n in NAMES if uses(n, "tensorflow", lazily=False)} == set()
    for name in (
        "main.py",
        "schema.py",
        "run/__init__.py",
        "run/stop.py",
        "hosts/__init__.py",
        "hosts/meeting.py",
    ):
        assert not uses(name, "jax", lazily=False), name
    text = {n: (ROOT / "mimjax" / n).read_text() for n in NAMES}
    for word, file in {
        "PartitionSpec": "sharding.py",
        "lax.platform_dependent": "sharding.py",
        "module.param(": "backbones/starts.py",
    }.items():
        assert [n for n in NAMES if word in text[n]] == [file]
    assert [n for n in NAMES if "self.param(" in text[n]] == []


@pytest.mark.parametrize("name", NAMES)
def test_files_and_functions_are_short(name):
    assert len((ROOT / "mimjax" / name).read_text().splitlines()) <= 250
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            length -= len((ast.get_docstring(node) or "").splitlines())
            assert length <= 60, f"{node.name} has {length} lines"


@pytest.mark.parametrize("name", NAMES)
def test_every_module_and_public_name_says_what_it_is(name):
    tree = tree_of(name)
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            assert node.name.startswith("_") or ast.get_docstring(node), node.name


@pytest.mark.parametrize("name", NAMES)
def test_what_the_house_does_without(name):
    text = (ROOT / "mimjax" / name).read_text()
    banned = {
        "config.get(": "the default is in the dataclass field",
        "pmap": "jit with shardings",
        "axis_name": "global view: the model is written for one big batch",
        "psum": "the same",
        "type: ignore": "hints that the checker follows",
    }
    # In two parts, for this file is read too.
    banned |= {"TO" + "DO": "an issue", "FIX" + "ME": "an issue"}
    for word, instead in banned.items():
        assert word not in text, f"{word}: {instead}"
    stem = pathlib.Path(name).stem
    assert stem not in ("utils", "common", "base", "manager", "helpers", "misc")
    if name.startswith(("backbones/", "objectives/")) or name == "train.py":
        assert "process_index" not in text
    if name.startswith("backbones/") and stem != "__init__":
        assert "mask_ratio" not in text
        assert "loss" not in text


def tracked():
    """The text files under version control; what lies beside them is its owner's."""
    listed = subprocess.run(
        ["git", "ls-files"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    if not paths:  # a copy without history
        folders = ("mimjax", "configs", "launch", "tests")
        paths = [p for folder in folders for p in (ROOT / folder).rglob("*")]
    for path in paths:
        if path.is_file() and path.suffix in ("", ".py", ".md", ".toml", ".txt", ".sh"):
            yield path


def test_nobody_s_folders_are_named():
    personal = re.compile(r"/(home|Users)/\w+/|(?<![\w.])/(root|work|tmp)/")
    for path in tracked():
        found = personal.search(path.read_text(encoding="utf-8", errors="replace"))
        if path != pathlib.Path(__file__):
            assert not found, f"{path.relative_to(ROOT)}: {found}"


# What an interpreter without builds of PyTorch for a CPU does not get (pyproject.toml).
TORCH = {"torch", "transformers", "timm"}


def reached(path):
    """Libraries that importing a file of the tests imports, through others of them."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        for inner in ast.walk(node) if isinstance(node, ast.With) else [node]:
            if isinstance(inner, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in inner.names}
            elif isinstance(inner, ast.ImportFrom):
                found.add((inner.module or "").partition(".")[0])
    own = {name for name in found if (path.parent / f"{name}.py").exists()}
    return found.union(*(reached(path.parent / f"{name}.py") for name in own))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests").glob("test_*.py")), ids=lambda path: path.name
)
def test_tests_that_need_pytorch_are_known_to(path):
    """The others run without it."""
    assert TORCH & reached(path) <= {*conftest.NEEDS.get(path.name, ())}
