"""Engines leave it to the system on which cores their threads run: what one replica pins, the others pin as well."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from serve_app.classifier.classifier import Classifier
from serve_app.classifier.pinning import watch_pinning

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="masks are Linux's")
CORES = os.sched_getaffinity(0)
RUNS = 40


@pytest.fixture(scope="module")
def openvino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network in the form in which the engine expects it, large enough for several threads."""
    import openvino
    from openvino import opset13 as layers

    from serve_app.classifier.engines.prepared_files import OPENVINO_MODEL

    folder = tmp_path_factory.mktemp("network")
    pictures = layers.parameter([-1, 64], np.uint8, name="pictures")
    rows = layers.convert(pictures, "f32")
    for seed, (height, width) in enumerate([(64, 2048), (2048, 2048), (2048, 8)]):
        weights = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
        rows = layers.matmul(rows, layers.constant(weights), False, False)  # noqa: FBT003 what is transposed
    openvino.save_model(openvino.Model([rows], [pictures]), folder / OPENVINO_MODEL, compress_to_fp16=False)
    return folder


def held_cores(folder: Path) -> frozenset[int]:
    from serve_app.classifier.engines.openvino_engine import OpenVinoEngine

    engine = OpenVinoEngine(folder, threads=len(CORES), precision="float32")
    pictures = np.zeros((512, 64), np.uint8)
    scores, held = watch_pinning(lambda: [engine.infer(pictures) for _ in range(RUNS)])
    assert scores[-1].shape == (512, 8)
    return held


def test_openvino_leaves_its_threads_to_the_system(openvino_folder: Path) -> None:
    assert held_cores(openvino_folder) == frozenset()


def test_threads_that_an_engine_holds_on_cores_are_seen(openvino_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.classifier.engines.openvino_engine.FOR_REPLICAS", {})  # OpenVINO as it comes
    if len(CORES) == 1:  # held or not, a thread may run on all there is
        assert held_cores(openvino_folder) == frozenset()
        return
    deadline = time.monotonic() + 60
    while not (held := held_cores(openvino_folder)):
        assert time.monotonic() < deadline
    assert held <= CORES


def test_tensorflow_leaves_its_threads_to_the_system(classifier: Classifier) -> None:
    assert classifier.held_cores == frozenset()
