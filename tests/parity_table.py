"""How far every comparison with code of others was off, and the page that shows it.

A test that compares with a model of others says so (`compares`); the largest difference
of each kind that `closeness` sees in it makes a row of docs/parity.md.
"""

import dataclasses
import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

KINDS = ("outputs", "loss", "gradients")
HERE = "PyTorch, written for these tests"
PEERS = ("transformers", "timm", "official", HERE)
VERSIONS = ("jax", "flax", "numpy", "torch", "transformers", "timm")


@dataclasses.dataclass
class Row:
    """One comparison; `found` has the largest relative difference of each kind."""

    peer: str
    model: str
    image: str
    layers: str
    test: str
    found: dict[str, float] = dataclasses.field(default_factory=dict)


# By the test that is or was running.
ROWS: dict[str, Row] = {}


def running() -> str:
    """The test that is running, by pytest's name; empty outside of one."""
    return os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]


def compares(peer: str, model: str, encoder: Any) -> None:
    """Says that this test compares an encoder with that of a model of others."""
    file, _, name = running().partition("::")
    (height, width), (rows, columns) = encoder.image_size, encoder.patch_size
    size = f"{height} × {width}, patch {rows} × {columns}"
    size += "" if encoder.channels == 3 else f", channels {encoder.channels}"
    test = f"`{pathlib.PurePath(file).stem}.{name.partition('[')[0]}`"
    ROWS[running()] = Row(peer, model, size, layers_of(encoder), test)


def layers_of(encoder: Any) -> str:
    """How deep it is, a number a stage."""
    if hasattr(encoder, "groups"):  # a dVAE
        return " + ".join([str(encoder.blocks)] * encoder.groups)
    stem = getattr(encoder, "stages", ())
    depths = encoder.depths if hasattr(encoder, "depths") else (encoder.depth,)
    return " + ".join(map(str, (*stem, *depths)))


def note(kind: str, relative: float) -> None:
    """Remembers how far off something of this test is, if that is the most."""
    if running() in ROWS:
        found = ROWS[running()].found
        found[kind] = max(found.get(kind, 0.0), float(relative))


HEAD = """# Parity

Models of others and ours, with the same weights: the largest relative difference in
what they say. Weights are random, none of them zero or one; both sides compute in
float32 on the CPU, on the same images and masks. Outputs are the tokens after the last
norm and the prediction; gradients are those of every parameter. A difference is the
largest in a tensor over the largest entry of that tensor. The tests ask for 1e-5 of
models in PyTorch, 24 layers deep too, and of what official code has said (kept in
`tests/golden`) for 3e-6 of outputs, 1e-6 of the loss and 1e-5 of gradients, with 1e-7
beside it for those that are zero.

The last table is of models written for these tests in PyTorch, from the papers and the
facts of the official code, for methods that no package has. VQ-KD and the attentive
probe are compared after a step too, which moves codes and running statistics; the dVAE
in one, with the noise that is drawn.

An image has its rows first, and layers a number a stage. There are no gradients of
timm's hybrids, for they jump where rounding carries a value past zero; those of the
official hybrid are here. The command that writes this page, on Python 3.11, where the
tests' environment has PyTorch:

```sh
{command}
```

{versions}.
"""
COMMAND = (
    "python -m pytest -n0 tests/test_parity.py tests/test_timm.py tests/test_golden.py "
    "tests/test_beit2.py tests/test_aim_torch.py tests/test_vits_torch.py "
    "tests/test_dvae_torch.py --parity-table=docs/parity.md"
)


COLUMNS = ("model", "image", "layers", *KINDS, "test")


def write(path: pathlib.Path) -> None:
    """Writes the page of all that was compared."""
    names = [f"{name} {importlib.metadata.version(name)}" for name in VERSIONS]
    versions = ", ".join([f"Python {platform.python_version()}", *names])
    text = [HEAD.format(command=COMMAND, versions=versions)]
    for peer in PEERS:
        text += [f"## {peer}\n", line(COLUMNS), line(["---"] * len(COLUMNS))]
        rows = [row for row in ROWS.values() if row.peer == peer]
        for row in sorted(rows, key=lambda row: row.model):
            found = [shown(row.found.get(kind)) for kind in KINDS]
            text.append(line([row.model, row.image, row.layers, *found, row.test]))
        text.append("")
    path.write_text("\n".join(text).rstrip() + "\n", encoding="utf-8")


def line(cells: Sequence[str]) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def shown(relative: float | None) -> str:
    """A difference with two digits, or that there is none."""
    if relative is None:
        return "–"
    return f"{relative:.1e}" if relative else "0"
