"""A classifier's engine with a gate before it: what a test wants to happen while pictures are in the engine."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from serve_app.classifier.batcher import Infer, Scores
from serve_app.classifier.classifier import Classifier
from tests.held_engine import HeldEngine


class Gate(HeldEngine):
    """An engine whose batches wait while the gate is shut, and their sizes, in order."""

    at_once = 1
    device = "cpu"
    has_tf32 = False

    def __init__(self, infer: Infer) -> None:
        """Begin with the gate open."""
        super().__init__(infer)
        self.batches: list[int] = []
        self.release()

    def infer(self, pictures: np.ndarray) -> Scores:
        self.batches.append(len(pictures))
        return super().infer(pictures)

    def shut(self) -> None:
        """Let the next batches wait for `release`."""
        self._go.clear()


@contextmanager
def gate_before(classifier: Classifier) -> Iterator[Gate]:
    """Yield the gate before the engine of `classifier`, open; at the end it is gone."""
    gate = Gate(classifier._batcher._infer)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(classifier._batcher, "_infer", gate.infer)
        try:
            yield gate
        finally:
            gate.release()
