"""The guide in docs/: its options, overrides and commands are those of the code."""

import ast
import json
import pathlib
import re
import shlex

import matplotlib.pyplot as plt
import pytest
import test_convert
import tiny
from PIL import Image

from mimjax import config, evaluate, main, objectives, schema, show, standins
from mimjax.convert import __main__ as convert
from mimjax.convert import layouts
from mimjax.evaluate import knn
from mimjax.export import __main__ as export
from mimjax.export import folder
from mimjax.run import endings

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
NAMES = objectives.names()
README = "../README.md"

OPTIONS = ["field", "default", "meaning"]
CHANGE = re.compile(r"--config\.([\w.]+)=([^\s`']+)")
BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def read(page):
    """The text of a page."""
    return (DOCS / page).read_text(encoding="utf-8")


def cells(line):
    """What stands in a row of a table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def rows(page, *begins):
    """The cells of the rows of the table of a page whose head begins so."""
    lines = read(page).splitlines()
    head = next(
        n for n, line in enumerate(lines) if cells(line)[: len(begins)] == [*begins]
    )
    rest = lines[head + 2 :]
    end = next(n for n, line in enumerate([*rest, ""]) if not line.startswith("|"))
    return [cells(line) for line in rest[:end]]


def options(page):
    """Field and default, a Python value, in the rows of the options table of a page."""
    found = [[cell.strip("`") for cell in row[:2]] for row in rows(page, *OPTIONS)]
    return [(field, ast.literal_eval(default)) for field, default in found]


def commands(page, module="main"):
    """The commands in the code blocks of a page, as words."""
    blocks = "\n".join(BLOCK.findall(read(page))).replace("\\\n", " ")
    starts = f"python -m mimjax.{module} "
    return [shlex.split(x) for x in blocks.splitlines() if x.startswith(starts)]


def fits(place, value, objective):
    """Whether a config with that objective, and an encoder it takes, has the field."""
    tables = [config.schemas(x, objective) for x in standins.taken_by(objective)]
    return any(not schema.typed({place: value}, table)[1] for table in tables)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_has_a_page_and_a_link_to_it(name):
    assert f"{name}.md" in PAGES
    assert f"({name}.md)" in read("README.md")


@pytest.mark.parametrize("name", NAMES)
def test_options_are_the_fields_with_their_defaults(name):
    table = config.schemas(standins.taken_by(name)[0], name)["objective"]
    wanted = [(n, default) for n, (_, default) in table.items() if n != "name"]
    # As texts, for 1 and True are equal.
    assert repr(options(f"{name}.md")) == repr(wanted)


def test_options_of_an_evaluation_are_its_fields_with_their_defaults():
    table = schema.schema_of(evaluate.Evaluate)
    wanted = [(name, default) for name, (_, default) in table.items()]
    assert repr(options("evaluate.md")) == repr(wanted)


@pytest.mark.parametrize("page", [*PAGES, README])
def test_overrides_are_of_fields_that_exist(page):
    among = [page[:-3]] if page[:-3] in NAMES else NAMES
    for path, value in CHANGE.findall(BLOCK.sub("", read(page))):
        if path != "GROUP.FIELD":
            place = tuple(path.split("."))
            assert any(fits(place, value, name) for name in among), (path, value)


@pytest.mark.parametrize("page", [*PAGES, README])
def test_commands_can_be_started(page):
    """But for the data and the runs that others build on."""
    assert commands(page) or page not in [README, *(f"{name}.md" for name in NAMES)]
    for words in commands(page):
        flags, changes = main.parse(words[3:])
        changes = [change for change in changes if change[0] != "init_from"]
        config.resolve(str(ROOT / flags.config), changes, 8, with_data=False)


def test_a_workdir_is_of_one_config():
    """Two in one workdir would be refused."""
    configs = {}
    for words in (words for page in PAGES for words in commands(page)):
        flags, _ = main.parse(words[3:])
        configs.setdefault(flags.workdir, set()).add(flags.config)
    several = {workdir: names for workdir, names in configs.items() if len(names) > 1}
    assert not several


def test_the_recipes_of_the_readme_are_those_there_are():
    named = " ".join(cell for cell, *_ in rows(README, "recipe", "what"))
    there = {path.name for path in (ROOT / "configs").glob("*.py")}
    assert set(re.findall(r"`(\w+\.py)`", named)) == there


@pytest.mark.parametrize("page", [*PAGES, README])
def test_files_that_are_named_exist(page):
    text = read(page)
    named = set(re.findall(r"configs/\w+\.py", text)) - {"configs/NAME.py"}
    named |= set(re.findall(r"mimjax/\w+/\w+\.py", text))
    assert [name for name in named if not (ROOT / name).is_file()] == []
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [x for x in links if not (DOCS / page).parent.joinpath(x).exists()] == []


@pytest.mark.parametrize(
    ("module", "command"), [("convert", convert), ("export", export)]
)
def test_commands_on_weights_lack_the_weights_alone(
    tmp_path, monkeypatch, capsys, module, command
):
    monkeypatch.chdir(tmp_path)
    found = [words for page in (*PAGES, README) for words in commands(page, module)]
    assert len(found) > 1
    for words in found:
        assert command.main(words[3:]) == endings.BAD_CONFIG
        (line,) = capsys.readouterr().err.splitlines()
        assert "does not exist" in line, line


def test_commands_that_show_lack_the_run_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = [words for page in (*PAGES, README) for words in commands(page, "show")]
    assert len(found) > 1
    for words in found:
        assert show.main(words[3:]) == endings.BAD_CONFIG
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith("holds no checkpoint of a run"), line


def said(text):
    """The first sentence of a docstring, as it stands in a table."""
    return text.splitlines()[0].rstrip(".").lower()


def test_every_layout_has_a_row_that_says_what_the_code_says():
    found = {row[0].strip("`"): row for row in rows("weights.md", "layout")}
    assert list(found) == layouts.names()
    for name, (_, _, becomes, recognised, source) in found.items():
        module = layouts.load(name)
        known = {objective["name"] for _, objective in test_convert.MODELS[name]}
        assert {cell.strip("` ") for cell in becomes.split(",")} == known, name
        assert recognised.lower() == said(module.recognises.__doc__), name
        assert source.lower() == said(module.__doc__.partition(":")[0]), name


def test_every_way_out_has_a_row_that_says_how_it_loads():
    found = {row[0].strip("`"): row[2] for row in rows("weights.md", "`--layout`")}
    assert set(found) == set(folder.LINES)
    for name, line in folder.LINES.items():
        kind = "ViTMAEForPreTraining"
        assert found[name] == f"`{line.format(f'exported/{name}', kind=kind)}`"


@pytest.mark.parametrize("page", ["weights.md", README])
def test_the_lines_of_python_run(tmp_path, monkeypatch, page):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(tiny.workdir_of("mae"))
    for name in ("a.jpg", "b.png"):
        Image.new("RGB", (30, 20), "red").save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    names = {}
    (block,) = re.findall(
        r"^```python\n(.*?)^```", read(page), re.MULTILINE | re.DOTALL
    )
    exec(compile(block, page, "exec"), names)
    assert names["vectors"].shape == (2, names["encoder"].width)


def test_the_notebook_runs_from_top_to_bottom(monkeypatch, capsys):
    """Its cells in order, with the workdir of a tiny run."""
    cells = json.loads(read("features.ipynb"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(not c["outputs"] and c["execution_count"] is None for c in code)
    plt.switch_backend("Agg")
    drawn = []
    monkeypatch.setattr(plt, "show", lambda: drawn.append(plt.gcf()))
    monkeypatch.setenv("MIMJAX_MODEL", tiny.workdir_of("mae"))
    names = {}
    for cell in code:
        exec(compile("".join(cell["source"]), "features.ipynb", "exec"), names)
    capsys.readouterr()
    assert len(drawn) == 1 and len(drawn[0].axes) == 42
    plt.close(drawn[0])
    wanted = knn.predict(
        names["known_features"],
        names["known_labels"],
        names["features"],
        len(names["names"]),
        names["how"].knn_k[:1],
        names["how"].knn_temperature,
    )[0]
    assert (wanted == names["found"]).mean() > 0.98
