"""report.html: one self-contained page on a run, made from the files of its workdir."""

import math
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mimjax.data import error_counts
from mimjax.metrics import Record, read_json, read_metrics, replacing
from mimjax.report import curves, figures, health, page

REPORT = "report.html"
PICTURES = "pictures"
ENCODER = "encoder"  # and the step: a folder of pictures of what the encoder sees
EARLIER = 6  # sheets shown besides the newest
THUMB = 480  # pixels


def report(
    workdir: Path, out: Path | None = None, images: str = "held-out images"
) -> Path:
    """Writes report.html, and the curves it holds as PNG files beside it.

    Reads config.json, run.json, metrics.jsonl, data_errors.jsonl and
    pictures/step_NNNNNNNN.png and leaves out what is absent, so it can be made again at
    any time. Images are inside the page, so it can be moved or sent alone. It goes into
    the workdir, or to `out`, whose pictures of what the encoder sees are shown then;
    `images` says in which images that is.

    Returns:
      The path of the page.

    Raises:
      OSError: where the workdir cannot be written.
    """
    workdir = Path(workdir)
    out = out or workdir
    config, run = (read_json(workdir / f"{name}.json") for name in ("config", "run"))
    records = read_metrics(workdir)
    sheets = sorted((workdir / PICTURES).glob(f"step_{'[0-9]' * 8}.png"))
    facts = {k: v for k, v in run.items() if k != "command" and v not in (None, [])}
    bad = sorted(error_counts(workdir).items(), key=lambda item: -item[1])
    title = _title(config, run)
    parts = [
        f"<h1>{page.text(title)}</h1>",
        f'<p class="faint">{page.text(_subtitle(config, run))}</p>',
        page.tiles(figures.figures(records, run, config)),
        page.section("Rates tried, on held-out images", _rates(records)),
        page.section("Frozen encoder on held-out images", _accuracy(records, config)),
        page.section("What the model predicts", _newest(sheets)),
        page.section("What the encoder sees", _encoder(out / PICTURES, images)),
        page.section("Over the run", _curves(out, records, run, config)),
        page.section("Earlier pictures", _earlier(sheets, out)),
        page.section("Images that could not be read", page.table(bad)),
        page.section("Run", page.groups(_flat(facts))),
        page.section("To reproduce or resume", _command(run)),
        page.section("Configuration", _config(config)),
    ]
    with replacing(out / REPORT) as temp:
        temp.write_text(page.document(title, parts), "utf-8", "backslashreplace")
    return out / REPORT


def _title(config: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    objective, source = (
        figures.at(config, "objective.name"),
        figures.at(config, "data.source"),
    )
    if config and not run:
        return objective or "encoder"  # of another project, or not yet of a run
    return f"{objective or 'pretraining'} on {source or 'images'}"


def _subtitle(config: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """Encoder and start of the run in one line."""
    names = {
        "encoder.size": "size {}",
        "encoder.name": "{}",
        "encoder.width": "width {}",
        "encoder.depth": "{} layers",
        "encoder.depths": "{} layers",
        "encoder.heads": "{} heads",
        "encoder.patch_size": "patch {}",
        "encoder.image_size": "image {}",
    }
    said = []
    for path, form in names.items():
        value = figures.at(config, path)
        if isinstance(value, list):
            value = " \u00d7 ".join(map(str, value))
        if value not in (None, ""):
            said.append(form.format(value))
    if run.get("started"):
        said.append(f"started {run['started']}")
    return " \u00b7 ".join(said)


def _share(value: float) -> str:
    return f"{value:.1%}" if math.isfinite(value) else "not finite"


def _accuracy(records: Sequence[Record], config: Mapping[str, Any]) -> str:
    """Probes, kNN and few shots: the encoder at the start next to the newest."""
    few = {key for record in records for key in record if key.startswith("eval/few_")}
    counts = sorted(int(key.removeprefix("eval/few_")) for key in few)
    shots = [(f"eval/few_{n}", f"{n} images a class") for n in counts]
    names = dict([*(line[:2] for line in curves.ACCURACIES), *shots])
    found = {name: curves.series(records, key) for key, name in names.items()}
    newest = max((steps[-1] for steps, _ in found.values() if len(steps)), default=0)
    rows = []
    for name, (steps, values) in found.items():
        # The last start of a run may have asked for less than those before.
        if newest not in steps:
            continue
        start = values[0] if steps[0] == 0 else math.nan
        first = "\u2013" if steps[0] else _share(start)
        gain = 100 * (values[-1] - start)
        told = f"{gain:+.1f} points" if newest and math.isfinite(gain) else "\u2013"
        rows.append((name, first, _share(values[-1]), told))
    if not rows:
        return ""
    note = "Share of held-out images classified right from features of whole images."
    head = ("", curves.start_of(config), f"step {newest:,.0f}", "gain")
    if "encoder" in (figures.at(config, "optim.frozen") or ()):
        head, rows = ("", "frozen encoder"), [(name, last) for name, _, last, _ in rows]
    return page.table(rows, head) + f'<p class="faint">{note}</p>'


def _rates(records: Sequence[Record]) -> str:
    """Held-out accuracy of each of the rates tried in one run, at the newest step."""
    newest = next((r for r in reversed(records) if "eval/rate" in r), {})
    prefix = "eval/accuracy@"
    rows = [
        (name.removeprefix(prefix), f"{value:.1%}")
        for name, value in newest.items()
        if name.startswith(prefix)
    ]
    return page.table(rows, ("rate", "accuracy"))


def _step(sheet: Path) -> str:
    return f"step {int(sheet.stem.removeprefix('step_')):,}"


def _newest(sheets: Sequence[Path]) -> str:
    return page.picture(sheets[-1], _step(sheets[-1])) if sheets else ""


def _encoder(pictures: Path, images: str) -> str:
    """The newest pictures of what the encoder sees, and in which images."""
    folders = sorted(pictures.glob(f"{ENCODER}_{'[0-9]' * 8}"))
    found = sorted(folders[-1].glob("*.png")) if folders else []
    shown = "".join(page.picture(x, x.stem.replace("_", " ")) for x in found)
    return f'<p class="faint">{page.text(f"Of {images}.")}</p>{shown}' if found else ""


def _earlier(sheets: Sequence[Path], out: Path) -> str:
    """At most EARLIER sheets before the newest, evenly chosen, the first among them."""
    older = sheets[:-1]
    if not older:
        return ""
    count = min(EARLIER, len(older))
    chosen = [older[i * len(older) // count] for i in range(count)]
    figures = [
        page.picture(sheet, _step(sheet), link=os.path.relpath(sheet, out), width=THUMB)
        for sheet in chosen
    ]
    return f'<div class="thumbs">{"".join(figures)}</div>'


def _curves(
    workdir: Path,
    records: Sequence[Record],
    run: Mapping[str, Any],
    config: Mapping[str, Any],
) -> str:
    loss, accuracy, others = (
        workdir / f"{name}.png" for name in ("loss", "accuracy", "metrics")
    )
    resumed = [resume["step"] for resume in run.get("resumes", [])]
    warmup, body = run.get("warmup_steps"), ""
    if curves.loss_curve(records, loss, warmup_step=warmup, resumed=resumed):
        body += page.picture(loss, "Loss and learning rate")
    if curves.accuracy_curve(records, accuracy, curves.start_of(config)):
        body += page.picture(accuracy, "Frozen encoder on held-out images")
    if curves.metric_curves(records, others):
        body += page.picture(others, "What else the objective measures")
    if caption := health.depth_curves(records, workdir / "health.png"):
        body += page.picture(workdir / "health.png", caption)
    return body


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of nested mappings, and of lists of them, as (dotted path, value)."""
    if isinstance(tree, list) and tree and all(isinstance(t, Mapping) for t in tree):
        tree = dict(enumerate(tree, 1))
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        value = tuple(tree) if isinstance(tree, list) else tree
        yield prefix, str(value) if value != "" else "''"


def _command(run: Mapping[str, Any]) -> str:
    command = run.get("command")
    if not command:
        return ""
    line = command if isinstance(command, str) else shlex.join(map(str, command))
    note = (
        "The same command resumes this run from its newest checkpoint; with another "
        "--workdir it makes the run again."
    )
    return f'<pre>{page.text(line)}</pre><p class="faint">{note}</p>'


def _config(config: Mapping[str, Any]) -> str:
    body = page.groups(_flat(config))
    note = '<p class="faint">Each name is that of a flag: --config.NAME=VALUE.</p>'
    return note + body if body else ""
