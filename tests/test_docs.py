"""The guide in docs/: its options, overrides and commands are those of the code."""

import ast
import pathlib
import re
import shlex

import pytest

from mimjax import config, main, objectives, schema, standins

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
NAMES = objectives.names()

OPTIONS = ["field", "default", "meaning"]
CHANGE = re.compile(r"--config\.([\w.]+)=([^\s`']+)")
BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def read(page):
    """The text of a page."""
    return (DOCS / page).read_text(encoding="utf-8")


def cells(line):
    """What stands in a row of a table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def options(page):
    """Field and default, a Python value, in the rows of the options table of a page."""
    lines = read(page).splitlines()
    head = next(n for n, line in enumerate(lines) if cells(line)[:3] == OPTIONS)
    found = []
    for line in lines[head + 2 :]:
        if not line.startswith("|"):
            break
        field, default = (cell.strip("`") for cell in cells(line)[:2])
        found.append((field, ast.literal_eval(default)))
    return found


def commands(page):
    """The commands in the code blocks of a page, as words."""
    blocks = "\n".join(BLOCK.findall(read(page))).replace("\\\n", " ")
    starts = "python -m mimjax.main"
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


@pytest.mark.parametrize("page", PAGES)
def test_overrides_are_of_fields_that_exist(page):
    among = NAMES if page == "README.md" else [page[:-3]]
    for path, value in CHANGE.findall(BLOCK.sub("", read(page))):
        if path != "GROUP.FIELD":
            place = tuple(path.split("."))
            assert any(fits(place, value, name) for name in among), (path, value)


@pytest.mark.parametrize("page", PAGES)
def test_commands_can_be_started(page):
    """But for the data and the runs that others build on."""
    for words in commands(page):
        flags, changes = main.parse(words[3:])
        config.resolve(str(ROOT / flags.config), changes, 8, with_data=False)


def test_a_workdir_is_of_one_config():
    """Two in one workdir would be refused."""
    configs = {}
    for words in (words for page in PAGES for words in commands(page)):
        flags, _ = main.parse(words[3:])
        configs.setdefault(flags.workdir, set()).add(flags.config)
    several = {workdir: names for workdir, names in configs.items() if len(names) > 1}
    assert several.keys() <= {"runs/small"}, several


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page):
    text = read(page)
    named = set(re.findall(r"configs/\w+\.py", text))
    named |= set(re.findall(r"mimjax/\w+/\w+\.py", text))
    assert [name for name in named if not (ROOT / name).is_file()] == []
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [link for link in links if not (DOCS / link).is_file()] == []
