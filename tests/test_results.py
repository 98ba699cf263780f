"""The page of results: its numbers are those of the kept logs, what it says holds."""

import functools
import json
import pathlib

import numpy as np
import pytest

from mimjax import schema
from mimjax.study import fits, results

ROOT = pathlib.Path(__file__).parents[1]
LOGS = ROOT / "docs" / "results"
STUDY, _ = schema.called(str(ROOT / "configs" / "results.py"), "get_study")
SETS = "digits", "letters"
PRETRAINED = "mae", "simmim", "beit", "aim", "mpp", "beit2"
CELLS = [(n, m) for n in SETS for m in PRETRAINED if (n, m) not in STUDY.SKIPPED]
# Rows of the README's table that are called otherwise.
NAMES = {"BEiT v2": "beit2", "untrained, so from scratch": "untrained"}
HELD_OUT = 1024  # images
# Standard errors by which a probe is to be above that of the untrained encoder.
ABOVE = {"kNN": 2, "linear": 2, "attentive": 3}


def last(path):
    """What the lines of a metrics.jsonl end with, by name."""
    found = {}
    for line in path.read_text().splitlines():
        found |= json.loads(line)
    return found


@functools.cache
def ends(name, method, column):
    """What the runs of a cell end with."""
    part, value = STUDY.TABLE[column]
    paths = sorted((LOGS / name / method).glob(f"{part}*.jsonl"))
    return [last(path)[value] for path in paths]


def tables(page, heading):
    """The cells of the first table below a heading."""
    text = (ROOT / page).read_text().partition(f"\n## {heading}\n")[2]
    rows = [line for line in text.split("\n## ")[0].splitlines() if line[:1] == "|"]
    head, _, *found = ([c.strip() for c in row.strip("|").split("|")] for row in rows)
    return head, found


@pytest.mark.parametrize("name", SETS)
def test_every_cell_is_what_the_logs_end_with(name):
    head, found = tables("docs/results.md", name.title())
    assert head == ["", *STUDY.TABLE]
    wanted = [method for method in STUDY.METHODS if (name, method) not in STUDY.SKIPPED]
    assert [row[0] for row in found] == wanted
    for method, *texts in found:
        for column, text in zip(STUDY.TABLE, texts, strict=True):
            assert str(results.Cell(ends(name, method, column), [])) == text


def test_the_short_table_is_that_of_digits():
    head, found = tables("README.md", "What to expect")
    columns = [c.partition(" ")[0] for c in head[1:]]
    for label, *texts in found:
        method = NAMES.get(label, label.lower())
        for column, text in zip(columns, texts, strict=True):
            values = ends("digits", method, column)
            said = [f"{np.mean(values):.2f}"]
            if len(values) > 1:
                said += [f"{np.std(values, ddof=1):.2f}"]
            assert text.split(" ± ") == said, (label, column)


@pytest.mark.parametrize(("name", "method"), CELLS)
def test_fine_tuning_is_above_scratch_by_more_than_the_spread(name, method):
    scratch = "aim_untrained" if method == "aim" else "untrained"
    tuned, other = (ends(name, m, "fine-tuned") for m in (method, scratch))
    assert len(tuned) == len(other) == 3
    spread = max(np.std(values, ddof=1) for values in (tuned, other))
    assert np.mean(tuned) - np.mean(other) > spread


@pytest.mark.parametrize("column", ABOVE)
@pytest.mark.parametrize(("name", "method"), CELLS)
def test_probes_are_above_the_untrained_encoder(name, method, column):
    other = "aim_untrained" if method == "aim" else "untrained"
    (ours,), (theirs,) = (ends(name, m, column) for m in (method, other))
    error = ((ours * (1 - ours) + theirs * (1 - theirs)) / HELD_OUT) ** 0.5
    assert ours - theirs > ABOVE[column] * error


@pytest.mark.parametrize("name", SETS)
def test_aim_s_attentive_probe_finds_far_more_than_its_linear_one(name):
    """Both of the mean of all layers."""
    (attentive,), (linear,) = (ends(name, "aim", c) for c in ("attentive", "linear"))
    assert attentive > 1.7 * linear


@pytest.mark.parametrize("name", SETS)
def test_the_untrained_encoder_where_others_are_read_is_told(name):
    page = " ".join((ROOT / "docs" / "results.md").read_text().split())
    found = last(LOGS / "early" / f"{name}.jsonl")
    knn, linear, probe = (found[f"eval/{n}"] for n in ("knn", "linear", "accuracy"))
    told = f"{knn:.2f} and {linear:.2f}, its first two layers by the attentive probe"
    assert f"on the {name} {told} {probe:.2f}" in page


def test_no_rate_leaves_chance_from_scratch():
    """Nor the one of the table."""
    paths = sorted((LOGS / "scratch").glob("digits_*.jsonl"))
    assert len(paths) == 3
    found = [last(path)["eval/accuracy"] for path in paths]
    assert max(*found, *ends("digits", "untrained", "fine-tuned")) < 0.12


def test_the_laws_are_those_of_the_runs():
    """The loss falls with size and images; exponents are told with their errors."""
    page = " ".join((ROOT / "docs" / "results.md").read_text().split())
    _, rows = tables("docs/results.md", "Sizes and images")
    sizes, images = [], []
    for width, parameters, count, *told in rows:
        whole = count == "28,800"
        number = "60000" if whole else count.replace(",", "")
        found = last(LOGS / "scaling" / f"width{width}_images{number}.jsonl")
        assert told == [f"{found[f'eval/{name}']:.4f}" for name in ("loss", "linear")]
        if whole:
            sizes.append((parameters.replace(",", ""), found["eval/loss"]))
        if width == "128":
            images.append((count.replace(",", ""), found["eval/loss"]))
    for points, count in ((sizes, 5), (images, 8)):
        x, losses = np.asarray(points, np.float64).T
        assert len(x) == count
        law = fits.power_law(x, losses)
        error = f"{law.exponent:.2f} ± {law.exponent_error:.2f}"
        assert f"{law.floor:.3f} + A x^-α, α = {error}" in page
        assert not law.why and law.exponent > 3 * law.exponent_error
        few = losses[:6]  # of more images there is little left to gain
        assert list(few) == sorted(few, reverse=True)


def test_what_pretraining_varies_by_is_that_of_three_seeds():
    _, rows = tables("docs/results.md", "Other seeds of pretraining")
    assert [row[0] for row in rows] == ["mae", "aim"]
    values = ("eval/loss", "eval/knn", "eval/linear", "eval/accuracy")
    for method, *told in rows:
        parts = ("pretrain", "attentive", "attentive", "attentive")
        for text, part, value in zip(told, parts, values, strict=True):
            paths = [LOGS / "digits" / method / f"{part}.jsonl"]
            paths += [LOGS / "seeds" / f"{method}{s}_{part}.jsonl" for s in (1, 2)]
            found = [last(path)[value] for path in paths]
            assert text == f"{np.mean(found):.4f} ± {np.std(found, ddof=1):.4f}"
