"""The images whose features are nearest, by cosine as in `knn`."""

import numpy as np
from jaxtyping import Float, Int


def nearest(
    features: Float[np.ndarray, "n D"], asked: Int[np.ndarray, " q"], k: int
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """The k rows nearest to each of the rows `asked`, itself left out; their cosines.

    Of equally near ones those of lower index come first. A row of zeros is at a cosine
    of 0 to all. There must be more than k rows.
    """
    length = np.linalg.norm(features, axis=1, keepdims=True)
    rows = features / np.maximum(length, 1e-12)
    cosines = rows[asked] @ rows.T
    cosines[np.arange(len(asked)), asked] = -np.inf
    found = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return found, np.take_along_axis(cosines, found, axis=1)
