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
PRETRAINED = "mae", "simmim", "beit", "aim"
HELD_OUT = 1024  # images
# Standard errors by which a probe is to be above that of the untrained encoder.
ABOVE = {"linear": 2, "attentive": 3}


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
    assert [row[0] for row in found] == list(STUDY.METHODS)
    for method, *texts in found:
        for column, text in zip(STUDY.TABLE, texts, strict=True):
            assert str(results.Cell(ends(name, method, column), [])) == text


def test_the_short_table_is_that_of_digits():
    head, found = tables("README.md", "What to expect")
    columns = [c.partition(" ")[0] for c in head[1:]]
    for label, *texts in found:
        method = label.lower().partition(",")[0]
        for column, text in zip(columns, texts, strict=True):
            values = ends("digits", method, column)
            said = [f"{np.mean(values):.2f}"]
            if len(values) > 1:
                said += [f"{np.std(values, ddof=1):.2f}"]
            assert text.split(" ± ") == said, (label, column)


@pytest.mark.parametrize("method", PRETRAINED)
@pytest.mark.parametrize("name", SETS)
def test_fine_tuning_is_above_scratch_by_more_than_the_spread(name, method):
    scratch = "aim_untrained" if method == "aim" else "untrained"
    tuned, other = (ends(name, m, "fine-tuned") for m in (method, scratch))
    assert len(tuned) == len(other) == 3
    spread = max(np.std(values, ddof=1) for values in (tuned, other))
    assert np.mean(tuned) - np.mean(other) > spread


@pytest.mark.parametrize("name", SETS)
def test_probes_are_above_the_untrained_encoder(name):
    """But for the attentive one of SimMIM and BEiT on the letters, as the page says."""
    for method in PRETRAINED:
        other = "aim_untrained" if method == "aim" else "untrained"
        for column, times in ABOVE.items():
            (ours,), (theirs,) = (ends(name, m, column) for m in (method, other))
            error = ((ours * (1 - ours) + theirs * (1 - theirs)) / HELD_OUT) ** 0.5
            wide = ours - theirs > times * error
            but = (name, column) == ("letters", "attentive")
            assert wide != (but and method in ("simmim", "beit")), (method, column)


@pytest.mark.parametrize("name", SETS)
def test_aim_s_attentive_probe_finds_twice_what_its_linear_one_does(name):
    (attentive,), (linear,) = (ends(name, "aim", c) for c in ("attentive", "linear"))
    assert attentive > 1.9 * linear


def test_the_laws_are_those_of_the_runs():
    """The loss falls with the size, and the exponent is told with its error."""
    page = (ROOT / "docs" / "results.md").read_text()
    _, rows = tables("docs/results.md", "Sizes and images")
    sizes, losses = [], []
    for width, parameters, images, *told in rows:
        whole = images == "28,800"
        number = "60000" if whole else images.replace(",", "")
        found = last(LOGS / "scaling" / f"width{width}_images{number}.jsonl")
        assert told == [f"{found[f'eval/{name}']:.4f}" for name in ("loss", "linear")]
        if whole:
            sizes.append(float(parameters.replace(",", "")))
            losses.append(found["eval/loss"])
    assert losses == sorted(losses, reverse=True) and len(losses) == 5
    law = fits.power_law(np.asarray(sizes), np.asarray(losses))
    said = (
        f"{law.floor:.3f} + A x^-α, α = {law.exponent:.2f} ± {law.exponent_error:.2f}"
    )
    assert said in page
    assert not law.why
