"""Engines leave it to the system on which cores their threads run: what one replica pins, the others pin as well."""

import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from serve_app.classifier.classifier import Classifier
from serve_app.classifier.pinning import watch_pinning

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="masks are Linux's")
CORES = os.sched_getaffinity(0)
WATCHED_S = 0.5
"""A hundred looks at the threads, however fast the machine is."""


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


def held_cores(folder: Path, *, as_it_comes: bool = False) -> frozenset[int]:
    """Of a process of its own: threads that other tests left behind in this one may still be held."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_held_cores, folder, as_it_comes=as_it_comes).result()


def _held_cores(folder: Path, *, as_it_comes: bool) -> frozenset[int]:
    from serve_app.classifier.engines import openvino_engine

    if as_it_comes:
        openvino_engine.FOR_REPLICAS.clear()
    engine = openvino_engine.OpenVinoEngine(folder, threads=len(CORES), precision="float32")
    pictures = np.zeros((512, 64), np.uint8)

    def compute() -> None:
        end = time.monotonic() + WATCHED_S
        while time.monotonic() < end:
            assert engine.infer(pictures).shape == (512, 8)

    deadline = time.monotonic() + (60 if as_it_comes else 0)
    while True:
        _, held = watch_pinning(compute)
        if held or time.monotonic() > deadline:
            return held


def test_openvino_leaves_its_threads_to_the_system(openvino_folder: Path) -> None:
    assert held_cores(openvino_folder) == frozenset()


def test_threads_that_an_engine_holds_on_cores_are_seen(openvino_folder: Path) -> None:
    held = held_cores(openvino_folder, as_it_comes=len(CORES) > 1)
    assert held <= CORES
    assert bool(held) == (len(CORES) > 1)  # of a single core every thread may run on all there is


def test_tensorflow_leaves_its_threads_to_the_system(classifier: Classifier) -> None:
    assert classifier.held_cores == frozenset()
