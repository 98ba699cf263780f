"""Few-shot classification of frozen features by least squares.

The ViT paper's way to judge on the fly (arXiv 2010.11929, section 4.1): features of a
few labelled images to targets of {-1, 1}^K, solved in closed form. The rest is as in
the official big_vision (`evaluators/fewshot_lsr.py`, `configs/common_fewshot.py`):
features standardised over those few images (1e-5 added to the deviation), a ridge of
2^10, the mean of three draws of images. Departure: the intercept is free, not the
weight of one more feature of 100, which hardly feels the ridge.
"""

import numpy as np
from jaxtyping import Float, Int

L2 = 2.0**10
EPS = 1e-5
DRAWS = 3


def draw(labels: Int[np.ndarray, " n"], shots: int, seed: int) -> Int[np.ndarray, " m"]:
    """Indices of `shots` images of each class; a class of fewer gives all it has.

    More shots are those of fewer, and others; as in big_vision a seed draws class after
    class.
    """
    rng = np.random.default_rng(seed)
    classes = range(int(labels.max()) + 1)
    found = [rng.permutation(np.flatnonzero(labels == c))[:shots] for c in classes]
    return np.concatenate(found)


def fit(
    features: Float[np.ndarray, "n D"],
    labels: Int[np.ndarray, " n"],
    num_classes: int,
    l2: float = L2,
) -> tuple[Float[np.ndarray, "D V"], Float[np.ndarray, " V"]]:
    """Weight and bias that minimise |x W + b - y|^2 + l2 |W|^2; float64.

    x is standardised; weight and bias take features as they are. The smaller of the two
    systems of equations is solved, for features or for images.
    """
    x = features.astype(np.float64)
    mean, std = x.mean(axis=0), x.std(axis=0) + EPS
    x = (x - mean) / std
    targets = np.where(labels[:, None] == np.arange(num_classes), 1.0, -1.0)
    level = targets.mean(axis=0)
    count, width = x.shape
    if count < width:
        dual = np.linalg.solve(x @ x.T + l2 * np.eye(count), targets - level)
        weight = x.T @ dual
    else:
        moments = x.T @ x + l2 * np.eye(width)
        weight = np.linalg.solve(moments, x.T @ (targets - level))
    weight /= std[:, None]
    return weight, level - mean @ weight


def accuracy(
    train: Float[np.ndarray, "n D"],
    labels: Int[np.ndarray, " n"],
    test: Float[np.ndarray, "m D"],
    truth: Int[np.ndarray, " m"],
    num_classes: int,
    shots: int,
) -> float:
    """The share of test rows classified rightly after so many images of each class.

    The mean of DRAWS draws, always the same for the same labels; each process computes
    it for itself.
    """

    def share(seed: int) -> float:
        chosen = draw(labels, shots, seed)
        weight, bias = fit(train[chosen], labels[chosen], num_classes)
        scores = test @ weight.astype(np.float32) + bias.astype(np.float32)
        return float(np.mean(scores.argmax(axis=1) == truth))

    return float(np.mean([share(seed) for seed in range(DRAWS)]))
