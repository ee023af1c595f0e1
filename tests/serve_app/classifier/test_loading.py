"""Engines that are loaded and warmed."""

import numpy as np
import pytest
from numpy.typing import NDArray

from serve_app.classifier.families import Geometry
from serve_app.classifier.loading import load_and_warm
from serve_app.errors import SetupError


class BrokenAbove:
    """Right for batches of up to so many pictures; in larger ones the last row is not finite."""

    at_once = 1
    device = "a GPU"
    has_tf32 = False

    def __init__(self, pictures: int) -> None:
        self._pictures = pictures

    def infer(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        scores = np.full((len(pictures), 4), 0.25, np.float32)
        scores[self._pictures :] = np.nan
        return scores


@pytest.mark.parametrize("largest", [0, 4])
def test_an_engine_whose_answers_are_not_finite_does_not_start(largest: int) -> None:
    of = 8 if largest else 1
    told = (
        f"^engine: it gives numbers that are not finite for a batch of {of} on a GPU; name another engine, other "
        "weights, or `precision: float32`$"
    )
    with pytest.raises(SetupError, match=told):
        load_and_warm(lambda: BrokenAbove(largest), 8, Geometry(256, 224))
    assert load_and_warm(lambda: BrokenAbove(8), 8, Geometry(256, 224)).engine.device == "a GPU"
