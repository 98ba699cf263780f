"""Curves of a run as PNG files: loss and learning rate, accuracy of the frozen encoder.

Nothing here touches pyplot: its global state would leak figures over a long run and is
not safe in threads. Matplotlib is imported at first use.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from mimjax.metrics import DETAIL, Record, replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Key of a record, its name, its colour.
ACCURACIES = (
    ("eval/linear", "linear probe", "#1f5fa8"),
    ("eval/knn", "kNN", "#d9822b"),
)
# What every run records is no metric of its objective.
EVERY_RUN = {"step", "loss", "lr", "grad_norm", "skipped"}
EVERY_RUN |= {"images_per_sec", "step_time", "data_wait", "mfu"}
EVERY_RUN |= {"eval/loss", "eval/rate", *(key for key, _, _ in ACCURACIES)}


def series(
    records: Sequence[Record], key: str
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Steps and values of one metric, of the records that have it, by step.

    Of several values at one step the last counts.
    """
    points = {r["step"]: float(r[key]) for r in records if r.get(key) is not None}
    steps = sorted(points)
    return np.array(steps, np.float64), np.array([points[s] for s in steps], np.float64)


def smooth(values: Float[np.ndarray, " n"], span: int) -> Float[np.ndarray, " n"]:
    """Centred mean of up to `span` values; fewer near the ends, where none lags."""
    if not len(values):
        return values
    half = min(span // 2, (len(values) - 1) // 2)
    # Not by sums over all: behind one huge value their differences are nothing.
    middle = np.convolve(values, np.full(2 * half + 1, 1 / (2 * half + 1)), "valid")
    first = [values[: 2 * i + 1].mean() for i in range(half)]
    last = [values[::-1][: 2 * i + 1].mean() for i in reversed(range(half))]
    return np.concatenate([first, middle, last])


def loss_curve(
    records: Sequence[Record],
    path: Path,
    *,
    warmup_step: int | None = None,
    resumed: Sequence[int] = (),
) -> bool:
    """Draws loss and learning rate against the step to a PNG at `path`.

    The loss of each log line is thin, its moving average thick, held-out loss
    ("eval/loss") in points. Marked are the end of warm-up, where the run was resumed,
    and losses that were not finite.

    Args:
      records: as read_metrics returns them.
      warmup_step: the step at which warm-up ends, if there is one.
      resumed: the steps from which the run was resumed.

    Returns:
      False, with nothing drawn, where no record has a finite loss.
    """
    steps, losses = series(records, "loss")
    finite = np.isfinite(losses)
    if not finite.any():
        return False
    figure = _figure(4.6)
    upper, lower = figure.subplots(nrows=2, sharex=True, height_ratios=[4, 1])
    held_out = series(records, "eval/loss")
    _draw_loss(upper, steps[finite], losses[finite], held_out[1])
    if len(held_out[0]):
        label = f"held-out loss: {held_out[1][0]:.3g} to {held_out[1][-1]:.3g}"
        # A line to a point outside the picture would tell of a fall that was not there.
        inside = held_out[1] <= upper.get_ylim()[1]
        points = held_out[0][inside], held_out[1][inside]
        upper.plot(*points, "o-", color="#d9822b", ms=4, lw=1, label=label)
    if warmup_step:
        lower.axvline(warmup_step, color="#999999", ls="--", lw=1)
        _mark(upper, [warmup_step], "end of warm-up", color="#999999", ls="--", lw=1)
    _mark(upper, resumed, "resumed", color="#8e44ad", ls=":", lw=1.2)
    bad = steps[~finite].tolist()
    _mark(upper, bad, "loss not finite", color="#c0392b", ymax=0.05, lw=1.2)
    upper.legend(frameon=False, loc="upper right")
    lower.plot(*series(records, "lr"), color="#555555", lw=1.2)
    lower.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    lower.set_ylim(bottom=0)
    _tidy(upper, "loss")
    _tidy(lower, "learning\nrate")
    lower.set_xlabel("step")
    _save(figure, path)
    return True


def start_of(values: Mapping[str, Any]) -> str:
    """What to call the encoder at step 0 of a run with a config of these values."""
    return "at the start" if values.get("init_from") else "untrained"


def accuracy_curve(
    records: Sequence[Record], path: Path, start: str = "untrained"
) -> bool:
    """Draws the accuracy of the frozen encoder against the step to a PNG at `path`.

    Args:
      records: those with "eval/knn" and "eval/linear" count, shares of 1; step 0 is the
        encoder at the `start`, drawn as a level to be above.

    Returns:
      False, with nothing drawn, where no record has either.
    """
    found = [(*line, *series(records, line[0])) for line in ACCURACIES]
    found = [line for line in found if len(line[-1])]
    if not found:
        return False
    figure = _figure(3.2)
    axes = figure.subplots()
    for _, name, colour, steps, values in found:
        label = f"{name}: {100 * values[-1]:.1f} %"
        axes.plot(steps, 100 * values, "o-", color=colour, ms=4, lw=1.5, label=label)
        if steps[0] == 0 and len(steps) > 1:
            level = 100 * values[0]
            label = f"{start}: {level:.1f} %"
            axes.axhline(level, color=colour, ls=":", lw=1, label=label)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    _tidy(axes, "held-out accuracy (%)")
    axes.set_xlabel("step")
    _save(figure, path)
    return True


def metric_curves(records: Sequence[Record], path: Path) -> bool:
    """Draws what the objective measures beside its loss, one panel each, to `path`.

    Training is a line, held-out values ("eval/NAME") are points.

    Returns:
      False, with nothing drawn, where the objective measures nothing else.
    """
    told = {key for record in records for key in record} - EVERY_RUN
    own = (key for key in told if not DETAIL.fullmatch(key))
    names = sorted({key.removeprefix("eval/") for key in own})
    if not names:
        return False
    rows = -(-len(names) // 2)
    figure = _figure(0.4 + 2.2 * rows)
    panels = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        axes.plot(*series(records, name), color="#1f5fa8", lw=1.2, label="training")
        points = series(records, f"eval/{name}")
        if len(points[0]):
            axes.plot(*points, "o", color="#d9822b", ms=4, label="held out")
        _tidy(axes, name.replace("_", " "))
        axes.set_xlabel("step")
    panels[0].legend(frameon=False)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    _save(figure, path)
    return True


def _draw_loss(
    axes: "Axes", steps: np.ndarray, losses: np.ndarray, held_out: np.ndarray
) -> None:
    """The raw and the smoothed line; a start far above the rest is cut off."""
    few = len(losses) < 20
    axes.plot(steps, losses, color="#1f5fa8" if few else "#a9c4e4", lw=1, label="loss")
    if not few:
        average = smooth(losses, max(5, len(losses) // 25))
        axes.plot(steps, average, color="#1f5fa8", lw=1.8, label="moving average")
    # Of held-out points only the first, of the untrained model, may be cut as well.
    low, most = losses.min(), np.quantile(losses, 0.95)
    top = min(losses.max(), most + 2 * (most - low))
    points = held_out[np.isfinite(held_out)]
    if len(points):
        low, top = min(low, points.min()), max(top, *points[1:], points[-1])
    margin = 0.05 * (top - low) or 0.1
    axes.set_ylim(low - margin, top + margin)


def _mark(axes: "Axes", steps: Sequence[float | int], label: str, **style: Any) -> None:
    """Upright lines at `steps`, of which the legend names one."""
    for number, step in enumerate(steps):
        axes.axvline(step, label=None if number else label, **style)


def _figure(height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(8, height), dpi=130, layout="constrained")


def _tidy(axes: "Axes", label: str) -> None:
    axes.set_ylabel(label)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01)


def _save(figure: "Figure", path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    # Not by savefig, which lays everything out twice.
    with replacing(path) as temp:
        FigureCanvasAgg(figure).print_png(temp)
