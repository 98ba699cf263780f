"""Workdirs of random models, and what the export of one says."""

import json
import pathlib
import re
from typing import Any

import numpy as np

from mimjax import config, settings
from mimjax.convert import weights, writing
from mimjax.export import __main__ as command
from mimjax.trees import Leaves


def model(encoder: Any, objective: Any, **data: Any) -> tuple[config.Config, Leaves]:
    """A model and its parameters, random and none of them zero or one."""
    # One layer for the compiler, which is most of the time of these tests.
    once = {} if encoder.get("name") == "dvae" else {"unroll": 1}
    groups = {"encoder": {"name": "vit", **once, **encoder}}
    groups["objective"] = objective
    given = config.rebuilt({**groups, "data": data})
    rng, found = np.random.default_rng(0), {}
    for name, x in weights.shapes_of(given).items():
        noise = rng.normal(size=x.shape) * 0.2
        found[name] = (noise + (name[-1] == "scale")).astype(x.dtype)
    return given, found


def workdir(
    folder: pathlib.Path, encoder: Any, objective: Any, **data: Any
) -> pathlib.Path:
    """A run of such a model."""
    given, found = model(encoder, objective, **data)
    named = {"/".join(name): x for name, x in found.items()}
    writing.write(folder / "run" / settings.PARAMS, named, named.__getitem__)
    (folder / "run" / "config.json").write_text(json.dumps(given.values))
    return folder / "run"


def released(folder: pathlib.Path, arrays: dict[str, Any], heads: int) -> pathlib.Path:
    """Them in a folder that says its heads, as others' weights alone do not."""
    writing.write(folder / "model.safetensors", arrays, arrays.__getitem__)
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": heads}))
    return folder


def export(run: pathlib.Path, layout: str, *flags: str) -> pathlib.Path:
    """The folder beside the run that the command has made of it."""
    out = run.with_name(layout)
    given = [f"--workdir={run}", f"--layout={layout}", f"--out={out}", *flags]
    assert command.main(given) == 0
    return out


def relative(said: str) -> dict[str, float]:
    """The differences in the lines of --verify."""
    lines = re.findall(r"^(\w+): largest .*, relative ([\d.e+-]+)$", said, re.MULTILINE)
    return {name: float(number) for name, number in lines}


def line(out: pathlib.Path) -> str:
    """How the card says it is loaded."""
    card = (out / "README.md").read_text()
    (found,) = re.findall(r"^Load it with `(.*)`\.$", card, re.MULTILINE)
    return found
