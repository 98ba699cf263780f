"""The folder of an exported model: weights, configuration, and the model card."""

import difflib
import hashlib
import json
import pathlib
from typing import Any

import numpy as np

from mimjax import metrics, models
from mimjax.convert import layouts, own, schemes, weights, writing
from mimjax.convert.files import NPZ
from mimjax.export import program
from mimjax.metrics import replacing
from mimjax.objectives import beit, classify
from mimjax.trees import named_leaves

FAMILIES = ("official", "timm", "transformers")
PROGRAM = program.LAYOUT
WEIGHTS = "model.safetensors"
CARD = "README.md"
# How each loads, in one line; {} is the folder.
LINES = {
    "timm": 'timm.create_model("local-dir:{}", pretrained=True)',
    "transformers": 'transformers.{kind}.from_pretrained("{}")',
    # It would make a pooler, which no run here has trained.
    "official": 'model.load_state_dict(safetensors.torch.load_file("{}/'
    + WEIGHTS
    + '"))',
    "vit_jax": 'numpy.load("{}/' + NPZ + '")',
    # Two modules there, of one file here.
    "dalle": 'torch.nn.ModuleDict({{"encoder": encoder, "decoder": decoder}})'
    '.load_state_dict(safetensors.torch.load_file("{}/' + WEIGHTS + '"))',
    PROGRAM: 'jax.export.deserialize(bytearray(open("{}/'
    + program.NAME
    + '", "rb").read()))',
}
CALL = (
    f"Call it with the arrays of `{WEIGHTS}` by name "
    "(`safetensors.numpy.load_file`) and uint8 images [n, rows, columns, channels] of "
    "the size below: `program.call(weights, images)`."
)


class NoLayoutError(Exception):
    """A model cannot be written so; the message is one line."""


def chosen(model: models.Model, asked: str) -> str:
    """The layout of that name, or the one of a family that holds most of the model."""
    if asked == PROGRAM:
        return PROGRAM
    names = [n for n in layouts.names() if asked in (n, layouts.family(n))]
    names += layouts.TUNED if asked == "official" else ()
    if not names:
        known = ", ".join([*FAMILIES, PROGRAM, *layouts.names()])
        near = difflib.get_close_matches(asked, known.split(", "), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise NoLayoutError(f"--layout: {asked!r} is none of {known}{hint}")
    wrong = {name: misfit(model, name) for name in names}
    fitting = [name for name in names if not wrong[name]]
    if not fitting:
        why = "; ".join(f"{name}: {said}" for name, said in wrong.items())
        others = {layouts.family(n) for n in layouts.names() if not misfit(model, n)}
        can = " or ".join(sorted({*FAMILIES} & others | {PROGRAM}))
        told = f"--layout: {asked} cannot hold this model, {can} can ({why})"
        raise NoLayoutError(told)
    return max(fitting, key=lambda name: len(held(model, name)))


def misfit(model: models.Model, layout: str) -> str:
    """Why the layout cannot hold the model, if it cannot."""
    table = layouts.load(layout)
    wrong = table.misfit(present(model, layout))
    if wrong and model.headless and not table.misfit(model.config.objective):
        return f"the model has no {', '.join(groups(model.headless))}"
    return wrong


def present(model: models.Model, layout: str) -> Any:
    """The objective as far as the model has it.

    Libraries build the head that a configuration tells: where ours is not whole it is a
    classifier of no classes. A vocabulary is that of the head, if the tokenizer's run
    is not there.
    """
    objective = model.config.objective
    kind, params = schemes.kind_of(objective), model.variables["params"]
    if model.headless and layouts.family(layout) != "official":
        if kind == "classify":
            return objective.clone(num_classes=0)
        encoder, pool = objective.encoder, schemes.pool_of(objective)
        return classify.Objective(encoder, num_classes=0, pool=pool)
    head = {"beit": "head", "mae": "decoder_pred"}.get(kind, "")
    named = kind == "beit" or model.config.values["objective"].get("tokenizer")
    if head in params and named:
        codes, found = len(params[head]["bias"]), objective.tokenizer
        if not found or found.objective.num_codes != codes:
            return objective.clone(tokenizer=beit.stand_in(codes))
    return objective


def leaves_of(model: models.Model) -> set[str]:
    """The names of all parameters that the model has."""
    return {"/".join(name) for name in named_leaves(model.variables["params"])}


def held(model: models.Model, layout: str) -> set[str]:
    """Those of them that the layout has a place for."""
    entries = layouts.load(layout).entries(present(model, layout))
    return {entry.ours for entry in entries} & leaves_of(model)


def write(
    model: models.Model, layout: str, out: pathlib.Path, source: str
) -> list[str]:
    """Writes the folder; returns the names of parameters that are not in it.

    Where that fails the folder is as it was.

    Args:
        source: where the model comes from, for the card.
    """
    with writing.filling(out):
        return fill(model, layout, out, source)


def fill(model: models.Model, layout: str, out: pathlib.Path, source: str) -> list[str]:
    """The same into a folder that is there."""
    if layout == PROGRAM:
        program.write(model, out)
        left_out, line = program.left_out(model), LINES[PROGRAM]
        line = line.format(out)
    else:
        said = pack(model, layout, out)
        left_out = sorted(leaves_of(model) - held(model, layout))
        kind = said.get("config.json", {}).get("architectures", ["AutoModel"])[0]
        way = layout if layout in LINES else layouts.family(layout)
        line = LINES[way].format(out, kind=kind)
        if kind == "ViTModel":
            # It makes a pooler of its own, which no weights are released of.
            line = f"{line[:-1]}, add_pooling_layer=False)"
    with replacing(out / CARD) as temporary:
        temporary.write_text(card(model, layout, out, source, line, left_out))
    return groups(left_out)


def pack(model: models.Model, layout: str, out: pathlib.Path) -> dict[str, Any]:
    """Writes weights and configuration; returns the latter by file name."""
    objective = present(model, layout)
    variables = dict(model.variables)
    arrays = weights.written(objective, variables.pop("params") | variables, layout)
    if layout == "vit_jax":
        with replacing(out / NPZ) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
    else:
        writing.write(out / WEIGHTS, arrays, arrays.__getitem__)
    table, found = layouts.load(layout), {}
    mean, std = map(rounded, model.constants)
    if hasattr(table, "package"):
        found = table.package(objective, mean, std)
        found["config.json"] |= own.judged(model.config)
    elif layout != "vit_jax":
        found["config.json"] = own.written(model.config, layout, mean, std)
    for name, content in found.items():
        with replacing(out / name) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")
    return found


def groups(names: list[str]) -> list[str]:
    """The parts of a model that the names are of, and the parts of its encoder."""
    cut = {name: 2 if name.startswith("encoder/") else 1 for name in names}
    return sorted({"/".join(name.split("/")[:n]) for name, n in cut.items()})


def card(
    model: models.Model,
    layout: str,
    out: pathlib.Path,
    source: str,
    line: str,
    left_out: list[str],
) -> str:
    """The model card, Markdown."""
    values, (mean, std) = model.config.values, model.constants
    encoder, objective = values["encoder"], values["objective"]
    text = [
        f"# {objective['name']} on {encoder['name']}, {layout}",
        f"Load it with `{line}`.",
        *([CALL] if layout == PROGRAM else []),
        f"Images: {encoder['image_size']} pixels (rows, columns), divided by 255, "
        f"minus {rounded(mean)}, over {rounded(std)}.",
        f"From `{source}` after {model.step:,} updates.",
    ]
    if left_out:
        text.append(f"Left out: {', '.join(groups(left_out))}.")
    if model.fresh:
        fresh = ", ".join(groups(model.fresh))
        text.append(f"Not in the source: {fresh}.")
    text += run_facts(pathlib.Path(source), model.step)
    text += ["## Files", table_of(out)]
    text += ["## Config", f"```json\n{json.dumps(values, indent=1, default=str)}\n```"]
    return "\n\n".join(text) + "\n"


def rounded(numbers: Any) -> list[float]:
    """The shortest decimals that are these float32 numbers."""
    return [float(str(x)) for x in np.asarray(numbers, np.float32)]


def run_facts(workdir: pathlib.Path, step: int) -> list[str]:
    """What a run says of its data, versions and results, as far as it is one."""
    text, record = [], workdir / "run.json"
    if record.exists():
        facts = json.loads(record.read_text())
        for name in ("data", "versions"):
            said = ", ".join(f"{k} {v}" for k, v in facts.get(name, {}).items())
            text.append(f"{name.capitalize()}: {said}.")
    if (workdir / metrics.METRICS).exists():
        last: dict[str, Any] = {}
        for row in metrics.read_metrics(workdir):
            if row.get("step", 0) <= step:
                last |= {k: v for k, v in row.items() if isinstance(v, int | float)}
        said = ", ".join(f"{k} {v:.4g}" for k, v in last.items() if k != "step")
        text.append(f"Last measured: {said}.")
    return text


def table_of(out: pathlib.Path) -> str:
    """The files and their SHA-256."""
    rows = ["| file | bytes | SHA-256 |", "|---|---|---|"]
    for path in sorted(p for p in out.iterdir() if p.name != CARD):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        rows.append(f"| {path.name} | {path.stat().st_size:,} | `{digest}` |")
    return "\n".join(rows)


def add_to_card(out: pathlib.Path, found: list[str]) -> None:
    """Adds what the comparison found."""
    text = (out / CARD).read_text()
    with replacing(out / CARD) as temporary:
        temporary.write_text(f"{text}\n## Verified\n\n" + "\n".join(found) + "\n")
