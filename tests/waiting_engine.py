"""An engine that waits a set time instead of computing, in the real service: what is left is the service itself.

Its times are about those of a GPU. `tests.waiting_engine:build` stands for `serve_app.deployments.model:build` in a
config with `shared_engine: true`.
"""

import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from ray import serve
from ray.serve import Application

from serve_app.classifier.engines import Engine
from serve_app.classifier.model_cache import PreparedModel
from serve_app.classifier.settings import ClassifierSettings
from serve_app.deployments.engine import EngineReplica
from serve_app.deployments.model import ClassifierDeployment
from serve_app.deployments.options import ENGINE, ENGINE_NAME

BATCH_S = 0.001
PICTURE_S = 0.00004


class WaitingEngine:
    """Takes BATCH_S for a batch and PICTURE_S for each picture in it; says the first class of all of them."""

    at_once = 2
    device = "cpu"
    has_tf32 = False

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._device = threading.Lock()

    def infer(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        with self._device:  # batches are computed one after the other
            time.sleep(BATCH_S + PICTURE_S * len(pictures))
        scores = np.zeros((len(pictures), self._classes), np.float32)
        scores[:, 0] = 1
        return scores


class WaitingEngineReplica(EngineReplica):
    @staticmethod
    def load_engine(_settings: ClassifierSettings, prepared: PreparedModel) -> Callable[[], Engine]:
        return lambda: WaitingEngine(len(prepared.manifest.labels))


def build(args: ClassifierSettings) -> Application:
    assert args.shared_engine
    engine = serve.deployment(name=ENGINE_NAME, **ENGINE.model_dump())(WaitingEngineReplica).bind(args)
    return ClassifierDeployment.bind(args, engine)  # type: ignore[attr-defined,no-any-return]
