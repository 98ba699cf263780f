"""docs/parity.md shows every comparison with code of others; nothing is run for it."""

import ast
import collections
import math
import pathlib
import re

import parity_table
import pytest

TESTS = pathlib.Path(__file__).parent
PAGE = TESTS.parent / "docs" / "parity.md"
FILES = re.findall(r"tests/(\w+)\.py", parity_table.COMMAND)
# Of these files, what compares no outputs: parameters that are counted, and a loss in
# float64; of the last, what the official code says nothing of.
OTHERS = {"test_dinov2_g_has_as_many_parameters"}
OTHERS |= {"test_float64_meets_the_official_float64"}
OTHERS |= {"test_attentive_probe_in_float64"}
OF_BEIT2 = {"test_the_tokenizer_is_the_official_one"}
OF_BEIT2 |= {"test_the_pretraining_is_the_official_one"}


def cases(tree: ast.Module, function: ast.FunctionDef) -> int:
    """How often a test is run."""
    lists = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found = 1
    for mark in function.decorator_list:
        assert isinstance(mark, ast.Call) and ast.unparse(mark.func).endswith("ize")
        values = mark.args[1]
        values = lists[values.id] if isinstance(values, ast.Name) else values
        assert isinstance(values, ast.List)
        found *= len(values.elts)
    return found


def rows() -> list[list[str]]:
    """The cells of all rows of the page."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    split = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    assert split.count([*parity_table.COLUMNS]) == len(parity_table.PEERS)
    return [cells for cells in split if cells[-1].startswith("`")]


@pytest.mark.parametrize("name", FILES)
def test_every_comparison_has_its_rows(name):
    tree = ast.parse((TESTS / f"{name}.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    wanted = {
        f"`{name}.{function.name}`": cases(tree, function)
        for function in functions
        if function.name.startswith("test_") and function.name not in OTHERS
        if name != "test_beit2" or function.name in OF_BEIT2
    }
    counts = collections.Counter(cells[-1] for cells in rows())
    found = {test: n for test, n in counts.items() if test.startswith(f"`{name}.")}
    assert found == wanted, f"write the page anew: {parity_table.COMMAND}"


def test_the_page_shows_what_the_tests_ask_for():
    for cells in rows():
        differences = [float(cell) for cell in cells[3:6] if cell != "–"]
        assert differences and all(0 <= x <= 1e-5 for x in differences), cells
    assert parity_table.COMMAND in PAGE.read_text(encoding="utf-8")


def test_the_largest_difference_of_a_test_is_kept(encoder, monkeypatch, tmp_path):
    monkeypatch.setattr(parity_table, "ROWS", {})
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "tests/test_x.py::test_y[1-2] (call)")
    parity_table.note("loss", 1.0)  # of nothing that is compared
    parity_table.compares("timm", "`Beit`", encoder(depth=3, channels=1))
    for relative in (1e-7, 3e-7, 2e-7):
        parity_table.note("outputs", relative)
    (row,) = parity_table.ROWS.values()
    assert math.isclose(row.found["outputs"], 3e-7)
    monkeypatch.setattr(parity_table, "VERSIONS", ("jax",))
    parity_table.write(tmp_path / "page.md")
    assert (
        "| `Beit` | 16 × 16, patch 4 × 4, channels 1 | 3 | 3.0e-07 | – | – | "
        "`test_x.test_y` |"
    ) in (tmp_path / "page.md").read_text(encoding="utf-8")
