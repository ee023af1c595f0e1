"""The classifier that works off the jobs of these tests: what its network would say is looked up.

`client/test_client_jobs.py` has jobs with a real engine, and `running/test_durable_jobs.py` those of a whole service.
"""

import json
from collections.abc import AsyncIterator

import numpy as np
import pytest

from serve_app.classifier.batcher import Scores
from serve_app.classifier.classifier import Classifier
from tests.conftest import BOUNDS, UNHURRIED, Fitted
from tests.counted import Counted
from tests.small_classifier import Network, small_classifier

EVERY = 16
"""Of the pixels of a picture, so many to one are enough to know it by."""


@pytest.fixture(scope="package")
async def classifier(fitted: Fitted) -> AsyncIterator[Classifier]:
    """A classifier that says of a picture what the fitted network says of the known one that is most like it."""
    known, expected = _thinned(fitted.crops), fitted.expected

    def recall(pictures: np.ndarray) -> Scores:
        differences = np.abs(_thinned(pictures)[:, np.newaxis] - known).sum(axis=(2, 3, 4))
        scores: Scores = expected[differences.argmin(axis=1)]
        return scores

    network = Network(recall, json.loads(fitted.labels.read_text()), at_once=2)
    async with small_classifier(Counted(), network, **fitted.args, **BOUNDS, **UNHURRIED) as found:
        yield found


def _thinned(pictures: np.ndarray) -> np.ndarray:
    return pictures[:, ::EVERY, ::EVERY].astype(np.int16)
