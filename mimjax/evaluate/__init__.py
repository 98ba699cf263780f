"""Accuracy of frozen features: k-nearest-neighbours, linear probe, few shots; health.

Neighbour counts and temperature are DINO's (arXiv 2104.14294, eval_knn.py); the probe
standardises its input as MAE's linear probe does (arXiv 2111.06377, appendix A).
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import numpy as np

from mimjax import sharding
from mimjax.evaluate import fewshot, knn, linear

Labelled = tuple[np.ndarray, np.ndarray]


class Interrupted(Exception):
    """An evaluation was left unfinished because the program was asked to stop."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """How frozen features are judged; the config group `evaluate`.

    Attributes:
        train_images: labelled training images that the classifiers learn from; 0 for
            none of them, few shots included.
        test_images: held-out images that they are judged on.
        batch_size: images per forward pass, over all devices; half as many, or a
            quarter and so on, where these are all there are.
        pool: the frozen feature of an image: "mean" or "max" of its patches, the "cls"
            token or, of a dVAE, "edges": how alike the tokens of neighbours are.
        layers: the mean of which layers' outputs that is, as they are before the last
            norm, counted from 1, or from -1 back from the last; none: what the last
            norm gives. Behind a small decoder the last layers decode: BEiT is probed
            at layer 9 of 12, 14 of 24 (arXiv 2106.08254). AIM's official probe reads
            the mean of the last six (`constants.py`).
        knn_k: neighbours that vote, of which the first are "eval/knn" (20 is the best
            of 10, 20, 100, 200 in DINO), others such as "eval/knn_10", which is left
            out where there are fewer images than that.
        knn_temperature: a neighbour's vote weighs exp(cosine / knn_temperature).
        linear_l2: the probe minimises mean cross-entropy + linear_l2 / 2 * |weights|^2.
            Fixed beforehand, never chosen by looking at held-out images.
        linear_iterations: L-BFGS iterations at most.
        shots: images a class that a few-shot classifier (`fewshot.py`) learns from,
            such as (1, 5, 10), for "eval/few_1" and so on.
        health_images: held-out images, evenly chosen, whose tokens and attention are
            looked at in all layers ("eval/health/..."); 0 for none, and no rank of
            features either ("eval/rankme", of all held-out images).
        source: labelled images to probe the encoder with, named and prepared as those
            of `config.data`, which they are where it is empty; the held-out loss and
            pictures are of `config.data.source` always.
    """

    train_images: int = 4096
    test_images: int = 1024
    batch_size: int = 256
    pool: str = "mean"
    layers: tuple[int, ...] = ()
    knn_k: tuple[int, ...] = (20, 10, 100, 200)
    knn_temperature: float = 0.07
    linear_l2: float = 1e-3
    linear_iterations: int = 200
    shots: tuple[int, ...] = ()
    health_images: int = 128
    source: str = ""


def never() -> bool:
    """The `should_stop` of a caller that cannot be asked to stop."""
    return False


def check(evaluate: Evaluate) -> list[str]:
    """Problems of the config group, one line each; empty when there is none."""
    problems = []
    for name in ("test_images", "batch_size", "linear_iterations"):
        value = getattr(evaluate, name)
        if value < 1:
            problems.append(f"config.evaluate.{name}: {value} must be at least 1")
    for name in ("knn_k", "shots"):
        values = getattr(evaluate, name)
        if min(values, default=1) < 1:
            problems.append(f"config.evaluate.{name}: {values} must be at least 1 each")
    for name in ("train_images", "health_images"):
        value = getattr(evaluate, name)
        if value < 0:
            problems.append(f"config.evaluate.{name}: {value} must not be negative")
    if evaluate.pool not in ("mean", "max", "cls", "edges"):
        problems.append(
            f"config.evaluate.pool: {evaluate.pool!r} is none of mean, max, cls, edges"
        )
    if not evaluate.knn_k:
        problems.append("config.evaluate.knn_k: () must name one number at least")
    elif evaluate.knn_k[0] > evaluate.train_images >= 1:
        problems.append(
            f"config.evaluate.knn_k: {evaluate.knn_k[0]} neighbours of only "
            f"{evaluate.train_images} images (config.evaluate.train_images); "
            "the first must be at most that"
        )
    if not 0 < evaluate.knn_temperature < math.inf:
        problems.append(
            f"config.evaluate.knn_temperature: {evaluate.knn_temperature} must be "
            "positive and finite (DINO: 0.07)"
        )
    if not 0 <= evaluate.linear_l2 < math.inf:
        problems.append(
            f"config.evaluate.linear_l2: {evaluate.linear_l2} must be zero or more "
            "and finite"
        )
    return problems


def frozen_accuracy(
    train: Labelled,
    test: Labelled,
    num_classes: int,
    evaluate: Evaluate,
    mesh: jax.sharding.Mesh | None = None,
    should_stop: Callable[[], bool] = never,
) -> dict[str, float]:
    """Held-out accuracy of the classifiers on frozen features.

    Every process passes the same features and gets the same answer.

    Args:
        train: features [n, D] float32 and their classes [n] in 0..num_classes-1, to
            learn from.
        test: the same, to judge on.
        num_classes: how many classes there are.
        evaluate: the settings.
        mesh: the devices to share the work; one where there is none.
        should_stop: asked between stages, equally often on every process.

    Returns:
        Fractions of test images classified rightly: "knn", "linear", and those of other
        numbers of neighbours ("knn_10") and of few shots ("few_5"); all of them NaN
        where features are not finite.

    Raises:
        Interrupted: `should_stop` said so.
        ValueError: a label outside 0..num_classes-1, or no images.
    """
    for split, (features, labels) in (("training", train), ("held-out", test)):
        if len(features) == 0 or len(features) != len(labels):
            raise ValueError(f"{len(features)} {split} images, {len(labels)} labels")
        if labels.min() < 0 or labels.max() >= num_classes:
            raise ValueError(
                f"{split} labels run from {labels.min()} to {labels.max()}, "
                f"must be in 0..{num_classes - 1}"
            )

    def pause() -> None:
        if should_stop():
            raise Interrupted

    def share(answers: np.ndarray) -> float:
        return float(np.mean(answers == test[1]))

    first, *others = evaluate.knn_k
    ks = {"knn": first, **{f"knn_{k}": k for k in others if k <= len(train[0])}}
    if not (np.isfinite(train[0]).all() and np.isfinite(test[0]).all()):
        few = (f"few_{shots}" for shots in evaluate.shots)
        return dict.fromkeys([*ks, "linear", *few], math.nan)
    mesh = mesh or sharding.alone()
    with jax.set_mesh(mesh):  # that of the caller may be another
        answers = knn.predict(
            *train,
            test[0],
            num_classes,
            [*ks.values()],
            evaluate.knn_temperature,
            mesh,
            pause,
        )
        probe = linear.fit(
            *train,
            num_classes,
            evaluate.linear_l2,
            evaluate.linear_iterations,
            mesh,
            pause,
        )
    found = dict(zip(ks, map(share, answers), strict=True))
    found["linear"] = share(linear.predict(probe, test[0]))
    for shots in evaluate.shots:
        pause()
        found[f"few_{shots}"] = fewshot.accuracy(*train, *test, num_classes, shots)
    return found
