"""Accuracy of frozen features: weighted k-nearest-neighbours and a linear probe.

Neighbour count and temperature are DINO's (arXiv 2104.14294, eval_knn.py); the probe
standardises its input as MAE's linear probe does (arXiv 2111.06377, appendix A).
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import numpy as np

from mimjax.evaluate import knn, linear

Labelled = tuple[np.ndarray, np.ndarray]


class Interrupted(Exception):
    """An evaluation was left unfinished because the program was asked to stop."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """How frozen features are judged; the config group `evaluate`.

    Attributes:
        train_images: labelled training images that the two classifiers learn from.
        test_images: held-out images that they are judged on.
        batch_size: images per forward pass, over all devices.
        pool: the frozen feature of an image: "mean" or "max" of its patches, the "cls"
            token or, of a dVAE, "edges": how alike the tokens of neighbours are.
        layers: the mean of which layers' outputs that is, as they are before the last
            norm, counted from 1, or from -1 back from the last; none: what the last
            norm gives. Behind a small decoder the last layers decode: BEiT is probed
            at layer 9 of 12, 14 of 24 (arXiv 2106.08254). AIM's official probe reads
            the mean of the last six (`constants.py`).
        knn_k: neighbours that vote (20 is the best of 10, 20, 100, 200 in DINO).
        knn_temperature: a neighbour's vote weighs exp(cosine / knn_temperature).
        linear_l2: the probe minimises mean cross-entropy + linear_l2 / 2 * |weights|^2.
            Fixed beforehand, never chosen by looking at held-out images.
        linear_iterations: L-BFGS iterations at most.
    """

    train_images: int = 4096
    test_images: int = 1024
    batch_size: int = 256
    pool: str = "mean"
    layers: tuple[int, ...] = ()
    knn_k: int = 20
    knn_temperature: float = 0.07
    linear_l2: float = 1e-3
    linear_iterations: int = 200


def never() -> bool:
    """The `should_stop` of a caller that cannot be asked to stop."""
    return False


def check(evaluate: Evaluate) -> list[str]:
    """Problems of the config group, one line each; empty when there is none."""
    problems = []
    for name in (
        "train_images",
        "test_images",
        "batch_size",
        "knn_k",
        "linear_iterations",
    ):
        value = getattr(evaluate, name)
        if value < 1:
            problems.append(f"config.evaluate.{name}: {value} must be at least 1")
    if evaluate.pool not in ("mean", "max", "cls", "edges"):
        problems.append(
            f"config.evaluate.pool: {evaluate.pool!r} is none of mean, max, cls, edges"
        )
    if evaluate.knn_k > evaluate.train_images >= 1:
        problems.append(
            f"config.evaluate.knn_k: {evaluate.knn_k} neighbours of only "
            f"{evaluate.train_images} images (config.evaluate.train_images); "
            "must be at most that"
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
    features_of: Callable[[np.ndarray], np.ndarray],
    train: Labelled,
    test: Labelled,
    num_classes: int,
    evaluate: Evaluate,
    should_stop: Callable[[], bool] = never,
) -> dict[str, float]:
    """Held-out accuracy of the two classifiers on frozen features.

    Every process passes the same images and gets the same answer; the classifiers are
    computed by each process for itself.

    Args:
        features_of: images [n, H, W, C] uint8 -> features [n, D] float32.
        train: images and their classes [n] in 0..num_classes-1, to learn from.
        test: the same, to judge on.
        num_classes: how many classes there are.
        evaluate: the settings.
        should_stop: asked between stages, equally often on every process.

    Returns:
        {"knn": fraction, "linear": fraction} of test images classified rightly.

    Raises:
        Interrupted: `should_stop` said so.
        ValueError: a label outside 0..num_classes-1, or no images.
    """
    for split, (images, labels) in (("training", train), ("held-out", test)):
        if len(images) == 0 or len(images) != len(labels):
            raise ValueError(f"{len(images)} {split} images, {len(labels)} labels")
        if labels.min() < 0 or labels.max() >= num_classes:
            raise ValueError(
                f"{split} labels run from {labels.min()} to {labels.max()}, "
                f"must be in 0..{num_classes - 1}"
            )

    def pause() -> None:
        if should_stop():
            raise Interrupted

    known, asked = features_of(train[0]), features_of(test[0])
    pause()
    # Not on the mesh of the caller, where every device would do the same again.
    here = jax.sharding.Mesh(np.array(jax.local_devices()[:1]), ("here",))
    with jax.set_mesh(here):
        neighbours = knn.predict(
            known,
            train[1],
            asked,
            num_classes,
            evaluate.knn_k,
            evaluate.knn_temperature,
        )
        probe = linear.fit(
            known,
            train[1],
            num_classes,
            evaluate.linear_l2,
            evaluate.linear_iterations,
            pause,
        )
    return {
        "knn": float(np.mean(neighbours == test[1])),
        "linear": float(np.mean(linear.predict(probe, asked) == test[1])),
    }
