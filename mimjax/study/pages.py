"""report.html of a study, and the plots and numbers beside it."""

import dataclasses
import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mimjax.metrics import read_json, replacing
from mimjax.report import REPORT, page
from mimjax.run.stop import STOPPED
from mimjax.run.workdir import write as write_json
from mimjax.study import outcome, results, runner, scaling
from mimjax.study.fits import Fit
from mimjax.study.outcome import Values
from mimjax.study.plan import Run, Study
from mimjax.study.scaling import AXES, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCALING = "scaling"


def write(
    study: Study, command: list[str], values: Values, notes: list[str]
) -> dict[str, Fit]:
    """Writes all that is told of a study, with notes on what is not.

    Returns the fitted law of every axis.
    """
    points = scaling.points(study, values)
    found = scaling.laws(points) if points else {}
    lines = "".join(f"<p>{page.text(line)}</p>" for line in notes)
    facts = results.circumstances(study, values)
    parts = [
        f"<h1>{page.text(study.file)}</h1>",
        page.section("What is missing", lines),
        page.section("Results", table(study, command, values)),
        page.section("Scaling", laws(study, points, found, values)),
        page.section("Runs", runs(study, values)),
        page.section("Circumstances", page.table(facts)),
        page.section(
            "To reproduce or go on", f"<pre>{page.text(shlex.join(command))}</pre>"
        ),
    ]
    with replacing(study.workdir / REPORT) as temporary:
        document = page.document(study.file, parts)
        temporary.write_text(document, "utf-8", "backslashreplace")
    return found


def table(study: Study, command: list[str], values: Values) -> str:
    """The table of results, written to files of its own too."""
    if not study.table:
        return ""
    results.save(study, command, values)
    head, rows = results.grid(study, values)
    meaning, columns = results.columns(study, values)
    return (
        page.table(rows, head)
        + f'<p class="faint">{results.NOTE}</p>'
        + page.table(columns, meaning)
    )


def runs(study: Study, values: Values) -> str:
    """Every run, how long it is and what came of it."""
    rows, ends = [], read_json(study.workdir / runner.RECORD).get("runs", {})
    for run in study.runs.values():
        there = (run.folder / REPORT).exists()
        name = page.link(run.name, f"{run.name}/{REPORT}") if there else run.name
        state = "finished" if run.name in values else unfinished(run, ends)
        told = outcome.figures(values.get(run.name, {}))
        rows.append((name, state, outcome.facts(run).get("steps", ""), told))
    return page.table(rows, ("", "", "steps", "last step, held out"))


def unfinished(run: Run, ends: dict[str, Any]) -> str:
    """What came of a run that has no values, given how runs have ended here."""
    if outcome.finished(run):
        return "left out"
    status = ends.get(run.name, {"status": 0})["status"]
    if status not in (0, STOPPED) and run.folder.exists():
        return f"failed: {outcome.failure(run, status)}"
    return "not finished" if outcome.facts(run) else "to do"


def laws(
    study: Study, points: list[Point], found: dict[str, Fit], values: Values
) -> str:
    """Plots and fitted laws, written to files of their own too."""
    if not points:
        return ""
    told = {
        "values": study.scaling,
        "points": [dataclasses.asdict(point) for point in points],
        "laws": {axis: numbers(fit) for axis, fit in found.items()},
        "left_out": (lost := scaling.left_out(study, values)),
    }
    write_json(study.workdir / f"{SCALING}.json", told)
    picture = study.workdir / f"{SCALING}.png"
    draw(study, points, found, picture)
    rows = [(AXES[axis], *words(fit)) for axis, fit in found.items()]
    head = ("loss = E + A x^-α, x being", "α", "E", "A", "points")
    note = (
        "± is one standard error, from the covariance of the least squares fit; with "
        "so few points it is rough. Parameters are compared where images are most, "
        "images where parameters are, compute along the frontier."
    )
    if lost:
        note += f" Left out, for their loss is not finite: {', '.join(lost)}."
    return (
        page.picture(picture, "Held-out loss; lines are the fitted laws")
        + page.table(rows, head)
        + f'<p class="faint">{note}</p>'
    )


def laws_told(found: dict[str, Fit]) -> list[str]:
    """The fitted law of every axis, a line each."""
    lines = []
    for axis, fit in found.items():
        power, floor, factor, count = words(fit)
        law = f"α = {power}, E = {floor}, A = {factor}"
        told = f"law of {AXES[axis]}: {power if fit.why else law} ({count} points)"
        lines.append(told)
    return lines


def numbers(fit: Fit) -> dict[str, float | int | str | None]:
    """A law for JSON, without numbers where it is not determined."""
    told = dataclasses.asdict(fit)
    figures = {name: x for name, x in told.items() if isinstance(x, float)}
    lost = [name for name, x in figures.items() if fit.why or not math.isfinite(x)]
    return told | dict.fromkeys(lost)


def words(fit: Fit) -> tuple[str, str, str, str]:
    """Exponent, floor, factor and points of a law, or why there is none."""
    if fit.why:
        return f"not determined: {fit.why}", "–", "–", str(fit.points)
    floor = f"{fit.floor:.3g} ± {fit.floor_error:.2g}"
    if fit.floor == 0:
        floor = "0, its bound: the points show no floor"
    return exponent(fit), floor, f"{fit.factor:.3g}", str(fit.points)


def exponent(fit: Fit) -> str:
    """α with its error."""
    return f"{fit.exponent:.3g} ± {fit.exponent_error:.2g}"


def draw(study: Study, points: list[Point], found: dict[str, Fit], path: Path) -> None:
    """Loss against each axis, and accuracy against loss, to a PNG."""
    from matplotlib import ticker
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 8), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy = study.scaling or ("", "")
    panels = figure.subplots(2, 2).ravel()
    for axes, axis in zip(panels, AXES, strict=False):
        lines(axes, points, axis)
        law(axes, scaling.along(points, axis), axis, found[axis])
        axes.set(xscale="log", xlabel=AXES[axis], ylabel=loss)
        # Of its own accord matplotlib writes names of short axes one over another.
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(ticker.LogFormatterSciNotation())
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    for point in points:
        for one, share in zip(point.losses, point.accuracies, strict=True):
            if share is not None:
                panels[3].plot(one, share, "o", color=colour(point, points), ms=4)
    for point in {point.parameters: point for point in points}.values():
        label = f"{point.parameters:,} parameters"
        panels[3].plot([], [], "o", color=colour(point, points), ms=4, label=label)
    panels[3].legend(frameon=False, fontsize=8)
    panels[3].set(xlabel=loss, ylabel=accuracy)
    for axes in panels:
        axes.grid(color="#e6e6e6", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def lines(axes: "Axes", points: list[Point], axis: str) -> None:
    """The points, a colour a model; joined are those of as many images, or one size.

    Of FLOPs none: what else differs between two runs there is not one thing.
    """
    other = "images" if axis == "parameters" else "parameters"
    for value in {getattr(point, other) for point in points if axis != "flops"}:
        same = [point for point in points if getattr(point, other) == value]
        chosen = scaling.along(same, axis)
        x = [getattr(point, axis) for point in chosen]
        axes.plot(x, [p.loss for p in chosen], "-", color="#c8ccd2", lw=0.8)
    for point in points:
        x = [getattr(point, axis)] * len(point.losses)
        axes.plot(x, point.losses, "o", color=colour(point, points), ms=4)


def law(axes: "Axes", chosen: list[Point], axis: str, fit: Fit) -> None:
    """The fitted curve over its points; the points alone where there is none."""
    x = np.array([getattr(point, axis) for point in chosen], np.float64)
    if fit.why:
        axes.plot(x, [p.loss for p in chosen], ":", color="#202124", lw=1.2)
        axes.set_title("no law determined", fontsize=9)
        return
    wide = np.geomspace(x.min(), x.max(), 100)
    axes.plot(wide, fit(wide), color="#202124", lw=1.6)
    told = f"{fit.floor:.3g} + A x$^{{-α}}$, α = {exponent(fit)}"
    axes.set_title(told, fontsize=9)


def colour(point: Point, points: list[Point]) -> tuple[float, float, float, float]:
    """Dark to light by the size of the model."""
    from matplotlib import colormaps

    sizes = [math.log(p.parameters) for p in points]
    least, most = min(sizes), max(sizes)
    share = (math.log(point.parameters) - least) / ((most - least) or 1.0)
    return colormaps["viridis"](0.9 * share)
