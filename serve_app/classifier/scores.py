"""The best classes of a picture's scores: what is kept of them, answered and compared."""

import numpy as np
from numpy.typing import NDArray

from serve_app.cache.classification import KEPT_CLASSES, BestClasses


def best_classes(scores: NDArray[np.float32]) -> BestClasses:
    """Return the KEPT_CLASSES highest of `scores`, shape (classes,), as (class index, score), highest first."""
    order = np.argsort(-scores, kind="stable")[:KEPT_CLASSES]
    # Probabilities of a network from elsewhere may leave 0 to 1 in their last bits.
    return [(int(index), min(1.0, max(0.0, float(scores[index])))) for index in order]
