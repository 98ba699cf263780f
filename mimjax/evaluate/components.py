"""Principal components of the tokens of several images, as colours."""

import numpy as np
from jaxtyping import Float

# Tokens that the components are fitted to, evenly chosen of all there are.
FITTED = 2048
# What is seen as the darkest and the brightest: a few tokens far out would otherwise
# leave no contrast to the rest.
PERCENTILES = 2.0, 98.0


def fit(
    tokens: Float[np.ndarray, "n D"], count: int
) -> tuple[Float[np.ndarray, " D"], Float[np.ndarray, "k D"], Float[np.ndarray, " k"]]:
    """Mean, directions of most variance, and the share of the variance of each.

    Of a direction the loading that is largest without its sign is positive. There are
    fewer than `count` where there are not so many dimensions or tokens.
    """
    size = min(len(tokens), FITTED)
    x = tokens[np.arange(size) * len(tokens) // size].astype(np.float64)
    mean = x.mean(axis=0)
    _, sizes, directions = np.linalg.svd(x - mean, full_matrices=False)
    directions = directions[:count]
    largest = np.abs(directions).argmax(axis=1)
    signs = np.sign(directions[np.arange(len(directions)), largest])
    variances = np.square(sizes)
    shares = variances[:count] / max(variances.sum(), np.finfo(np.float64).tiny)
    return mean, directions * signs[:, None], shares


def project(
    tokens: Float[np.ndarray, "n D"], count: int = 3
) -> tuple[Float[np.ndarray, "n {count}"], Float[np.ndarray, " {count}"]]:
    """The components of all tokens from 0 to 1, and their shares of the variance.

    Each goes from the 2nd to the 98th percentile over all images together; what lies
    beyond is clipped. One half where there is no such component, or no difference.
    """
    mean, directions, shares = fit(tokens, count)
    values = (tokens.astype(np.float64) - mean) @ directions.T
    low, high = np.percentile(values, PERCENTILES, axis=0)
    wide = high - low > 1e-9
    scaled = (values - low) / np.where(wide, high - low, 1.0)
    shown = np.full((len(tokens), count), 0.5)
    shown[:, : len(shares)] = np.where(wide, scaled.clip(0, 1), 0.5)
    return shown, np.pad(shares, (0, count - len(shares)))
