"""The scaling law L(x) = E + A x^-alpha through a few points, with its uncertainty."""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import optimize

# Exponents that are looked at; at either end the points show no curve of this kind.
LEAST, MOST = 1e-2, 10.0
# Points for three numbers and something left to tell their error from.
FEWEST = 4
# Shares of the loss below which it differs by rounding.
ROUNDING = 1e-14


@dataclasses.dataclass(frozen=True)
class Fit:
    """A fitted law, or why there is none.

    Attributes:
        floor: E, the loss that is left.
        factor: A.
        exponent: alpha.
        floor_error, exponent_error: one standard error, from the covariance of a least
            squares fit whose noise is the same for all points and is told from what
            the law leaves over, with as many degrees of freedom as there are points
            more than numbers fitted: three, or two and no error of the floor where
            it is at its bound, 0.
        points: how many different x there are.
        why: what keeps the exponent from being determined; "" where it is.
    """

    floor: float = math.nan
    factor: float = math.nan
    exponent: float = math.nan
    floor_error: float = math.nan
    exponent_error: float = math.nan
    points: int = 0
    why: str = ""

    def __call__(self, x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The loss that the law has at x."""
        return self.floor + self.factor * x**-self.exponent


def power_law(x: Float[np.ndarray, " n"], loss: Float[np.ndarray, " n"]) -> Fit:
    """The law of least squares through points of positive x, one loss for each.

    E and A are at least zero. For a given exponent they are a linear problem, so that
    the exponent alone is searched for, over all of its range: no start is guessed, and
    no local minimum taken.
    """
    count = len(np.unique(x))
    if count < FEWEST:
        return Fit(points=count, why=f"{count} points, at least {FEWEST} are needed")
    level = Fit(points=count, why="the loss does not fall")
    if np.ptp(loss) <= ROUNDING * np.abs(loss).max():
        return level
    # In units of the middle, where the powers stay near one.
    middle = float(np.exp(np.log(x).mean()))
    z = x / middle
    grid = np.geomspace(LEAST, MOST, 100)
    left = [linear(z, loss, alpha)[2] for alpha in grid]
    best = int(np.argmin(left))
    if linear(z, loss, grid[best])[1] == 0:
        return level
    if best in (0, len(grid) - 1):
        return Fit(points=count, why="the points bend like no power of x")
    found: Any = optimize.minimize_scalar(
        lambda alpha: linear(z, loss, alpha)[2],
        bounds=(grid[best - 1], grid[best + 1]),
        method="bounded",
        options={"xatol": 1e-10},
    )
    alpha = float(found.x)
    floor, factor, rest = linear(z, loss, alpha)
    if factor == 0:
        return level
    floor_error, error = errors(z, floor, factor, alpha, rest)
    why = ""
    if not error < alpha:
        told = f"± {error:.2g}" if np.isfinite(error) else "without bound"
        why = f"the error of the exponent, {alpha:.2g} {told}, is as large as itself"
    return Fit(floor, factor * middle**alpha, alpha, floor_error, error, count, why)


def linear(
    z: Float[np.ndarray, " n"], loss: Float[np.ndarray, " n"], alpha: float
) -> tuple[float, float, float]:
    """E and A, neither below zero, of least squares, and the squares left over."""
    powers = z**-alpha
    spread = powers - powers.mean()
    factor = max(0.0, float(spread @ loss) / float(spread @ spread))
    floor = float(loss.mean() - factor * powers.mean())
    if floor < 0:
        floor, factor = 0.0, max(0.0, float(powers @ loss) / float(powers @ powers))
    return floor, factor, float(((loss - floor - factor * powers) ** 2).sum())


def errors(
    z: Float[np.ndarray, " n"], floor: float, factor: float, alpha: float, rest: float
) -> tuple[float, float]:
    """Standard errors of E and alpha; infinite where the points do not tell them.

    An E of 0, its bound, is no free number and has none (NaN).
    """
    powers = z**-alpha
    columns = [-factor * powers * np.log(z), powers]
    if floor:
        columns.append(np.ones_like(z))
    slopes = np.stack(columns, axis=1)
    # Columns of one length: what is singular then is so in any unit.
    lengths = np.linalg.norm(slopes, axis=0)
    _, sizes, rows = np.linalg.svd(slopes / lengths, full_matrices=False)
    if sizes[-1] < 1e-10:
        return math.inf, math.inf
    free = len(z) - len(columns)
    variance = rest / free * ((rows / sizes[:, None]) ** 2).sum(axis=0)
    found = np.sqrt(variance) / lengths
    return (float(found[2]) if floor else math.nan), float(found[0])
