"""A step of ours beside that of transformers, measured in this process."""

import importlib
import json
import sys

import pytest
import tiny
import torch

from mimjax.bench import __main__ as bench
from mimjax.bench import child, prepare, rows, step
from mimjax.run import endings

torch.set_num_threads(1)

# Rounding alone, over eight updates.
RELATIVE = 2e-5


@pytest.fixture
def here(monkeypatch):
    """The processes are asked in this one."""

    def ask(module, spec, **_):
        found = importlib.import_module(f"mimjax.bench.{module}")
        measure = {"machine": "describe", "prepare": "answer"}.get(module, "measure")
        return json.loads(json.dumps(getattr(found, measure)({**spec, "spawned": 0.0})))

    monkeypatch.setattr(step, "ask", ask)
    monkeypatch.setattr(child, "SIDES", {"cpu": 64})
    monkeypatch.setattr(child, "PROBE", 0.0)
    # It stays out of the way of whatever is tested later.
    monkeypatch.setitem(sys.modules, "torchvision", None)


class Row(rows.Row):
    """A row of a tiny config."""

    @property
    def path(self):
        """Its file."""
        return f"{tiny.CONFIG}:{self.config}"


def measured(objective, **more):
    """What a row of it comes to."""
    # At the highest rate at once, which shows more.
    changes = [("optim.warmup_steps", "0")]
    changes += [(name.replace("__", "."), str(value)) for name, value in more.items()]
    return step.measure(
        f"{tiny.CONFIG}:{objective}",
        changes,
        against="torch",
        ways=["eager-sdpa"],
        rounds=1,
        seconds=0.0,
    )


@pytest.mark.parametrize(
    ("objective", "more"),
    [
        ("beit", {}),
        (
            "simmim_swin",
            {"encoder__image_size": "32,32", "encoder__window": 2, "optim__clip": 0.1},
        ),
    ],
)
def test_losses_are_those_of_the_peer(here, objective, more):
    """Masks, targets, weights, decay and rates are the same, update by update."""
    found = measured(objective, **more)
    ours, theirs = (found[side][0]["losses"] for side in ("ours", "peer"))
    assert len(ours) == len(theirs) == step.CHECKED
    assert ours[0] != ours[-1]
    assert found["loss_difference"] <= RELATIVE


def test_all_rows_are_in_the_table_and_the_files(here, monkeypatch, tmp_path, capsys):
    """One with a peer, and one that fails."""
    fields = {"encoder": {"dropout": "0.5", "dtype": "bfloat16"}}
    listed = [
        Row(name="MAE", config="mae", batch_size=8, **fields),
        Row(name="none", config="mae", batch_size=8, encoder={"depth": "0"}),
    ]
    monkeypatch.setattr(rows, "on_cpu", lambda: listed)
    flags = ["--rounds=1", "--seconds=0", "--ways=eager-eager,eager-sdpa"]
    status = bench.main(["all", f"--out={tmp_path}", *flags])
    assert status == endings.INTERNAL
    found = json.loads((tmp_path / "all.json").read_text())["rows"]
    text = (tmp_path / "all.md").read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    assert set(found["MAE"]["ways"]) == {"eager-eager", "eager-sdpa"}
    # Rounded to bfloat16 at other places.
    assert 0 < found["MAE"]["loss_difference"] <= 1e-2
    assert "Off on both sides: encoder.dropout (0.5)." in text
    assert "| none | failed: config.encoder.depth: 0" in text


@pytest.mark.parametrize(
    ("objective", "more", "why"),
    [
        ("aim", {}, "transformers has no aim on vit"),
        ("simmim", {}, "config.encoder.position"),
        ("mae", {"optim__name": "sgd"}, "config.optim.name"),
        ("mae", {"objective__mask_in_encoder": True}, "mask_in_encoder"),
    ],
)
def test_where_there_is_no_peer_it_says_why(here, tmp_path, objective, more, why):
    changes = [(name.replace("__", "."), str(value)) for name, value in more.items()]
    spec = step.spec_of(f"{tiny.CONFIG}:{objective}", changes, 0.0, "torch")
    found = prepare.answer({**spec, "folder": str(tmp_path)})
    assert set(found) == {"no_peer"} and "\n" not in found["no_peer"]
    assert why in found["no_peer"]
