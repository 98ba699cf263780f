"""Held-out loss against parameters, images and compute: points of runs and their laws.

As in Kaplan et al. (arXiv 2001.08361) and in AIM's figures (arXiv 2401.08541): one axis
is looked at where the others are largest, and compute along its frontier.
"""

import dataclasses
import math
import statistics

import numpy as np

from mimjax.metrics import read_json
from mimjax.study import fits, outcome
from mimjax.study.outcome import Values
from mimjax.study.plan import Run, Study

# What a law is fitted against: a field of Point, and what it counts.
AXES = {
    "parameters": "parameters of the encoder",
    "images": "different training images seen",
    "flops": "FLOPs of training",
}


@dataclasses.dataclass(frozen=True)
class Point:
    """Runs that differ in their seed alone: of one size, and named alike.

    Attributes:
        parameters: numbers in the encoder.
        images: different training images seen: all there are, or all that were drawn.
        flops: of loss and gradient, over all steps (`mimjax/flops.py`).
        losses, accuracies: held-out, one a run; None where there is no accuracy.
        names: the runs.
    """

    parameters: int
    images: int
    flops: int
    losses: list[float]
    accuracies: list[float | None]
    names: list[str]

    @property
    def loss(self) -> float:
        """The mean over the runs."""
        return statistics.fmean(self.losses)


def points(study: Study, values: Values) -> list[Point]:
    """Of the runs that have finished with a finite loss, the smallest first."""
    if not study.scaling:
        return []
    loss, accuracy = study.scaling
    found: dict[tuple[int, int, int, str, str], Point] = {}
    for name, last in values.items():
        if not math.isfinite(last.get(loss, math.nan)):
            continue
        run = study.runs[name]
        size, share = sizes(run), last.get(accuracy, math.nan)
        place = *size, run.row, run.part
        point = found.setdefault(place, Point(*size, [], [], []))
        point.names.append(name)
        point.losses.append(last[loss])
        point.accuracies.append(share if math.isfinite(share) else None)
    return [found[place] for place in sorted(found)]


def left_out(study: Study, values: Values) -> list[str]:
    """The runs that have finished with a loss that is not finite."""
    loss, _ = study.scaling or ("", "")
    return [n for n, x in values.items() if not math.isfinite(x.get(loss, 0.0))]


def sizes(run: Run) -> tuple[int, int, int]:
    """Parameters, images and FLOPs of a run that has finished."""
    known, config = outcome.facts(run), read_json(run.folder / "config.json")
    drawn = known["steps"] * config["batch_size"]
    return (
        known["parameters"]["encoder"],
        min(known["data"]["length"], drawn),
        known["step_flops"] * known["steps"],
    )


def along(points: list[Point], axis: str) -> list[Point]:
    """The points that a law of an axis is fitted to, in its order.

    Of parameters: those with most images, and of several the one of most compute, then
    of the lowest loss; of images likewise. Of compute: each that has a lower loss than
    all of less.
    """
    if axis == "flops":
        found = []
        for point in sorted(points, key=lambda p: (p.flops, p.loss)):
            if not found or point.loss < found[-1].loss:
                found.append(point)
        return found
    other = "images" if axis == "parameters" else "parameters"
    most = max((getattr(p, other) for p in points), default=0)
    chosen = {}
    for point in sorted(points, key=lambda p: (p.flops, -p.loss)):
        if getattr(point, other) == most:
            chosen[getattr(point, axis)] = point
    return [chosen[x] for x in sorted(chosen)]


def laws(points: list[Point]) -> dict[str, fits.Fit]:
    """The fitted law of every axis."""
    found = {}
    for axis in AXES:
        chosen = along(points, axis)
        x = np.array([getattr(p, axis) for p in chosen], np.float64)
        loss = np.array([p.loss for p in chosen], np.float64)
        found[axis] = fits.power_law(x, loss)
    return found
