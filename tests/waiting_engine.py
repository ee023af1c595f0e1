"""An engine that waits a set time instead of computing, in the real service: what is left is the service itself.

In a config, `tests.waiting_engine:build` stands for `serve_app.deployments.model:build`. With `shared_engine: true`,
its times are about those of a GPU. Without, each replica has one of its own, which takes as many milliseconds for a
picture as the environment variable WAITING_ENGINE_PICTURE_MS says.
"""

import os
import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from ray import serve
from ray.serve import Application

from serve_app.classifier.engines import Engine
from serve_app.classifier.loading import LoadEngine
from serve_app.classifier.model_cache import PreparedModel
from serve_app.classifier.settings import ClassifierSettings
from serve_app.deployments.engine import EngineReplica
from serve_app.deployments.model import ClassifierDeployment
from serve_app.deployments.options import CLASSIFIER, CLASSIFIER_NAME, ENGINE, ENGINE_NAME

BATCH_S = 0.001
PICTURE_S = 0.00004
PICTURE_MS = "WAITING_ENGINE_PICTURE_MS"


class WaitingEngine:
    """Takes `batch_s` for a batch and `picture_s` for each picture in it; says the first class of all of them."""

    at_once = 2
    device = "cpu"
    has_tf32 = False

    def __init__(self, classes: int, batch_s: float = BATCH_S, picture_s: float = PICTURE_S) -> None:
        self._classes = classes
        self._batch_s = batch_s
        self._picture_s = picture_s
        self._device = threading.Lock()

    def infer(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        with self._device:  # batches are computed one after the other
            time.sleep(self._batch_s + self._picture_s * len(pictures))
        scores = np.zeros((len(pictures), self._classes), np.float32)
        scores[:, 0] = 1
        return scores


class WaitingEngineReplica(EngineReplica):
    @staticmethod
    def load_engine(_settings: ClassifierSettings, prepared: PreparedModel) -> Callable[[], Engine]:
        return lambda: WaitingEngine(len(prepared.manifest.labels))


class WaitingClassifier(ClassifierDeployment.func_or_class):  # type: ignore[misc,name-defined]
    @property
    def load_own_engine(self) -> LoadEngine:
        picture_s = float(os.environ[PICTURE_MS]) / 1000
        return lambda _settings, prepared: lambda: WaitingEngine(len(prepared.manifest.labels), 0, picture_s)


def build(args: ClassifierSettings) -> Application:
    if not args.shared_engine:
        return serve.deployment(name=CLASSIFIER_NAME, **CLASSIFIER.model_dump())(WaitingClassifier).bind(args)
    engine = serve.deployment(name=ENGINE_NAME, **ENGINE.model_dump())(WaitingEngineReplica).bind(args)
    return ClassifierDeployment.bind(args, engine)  # type: ignore[attr-defined,no-any-return]
