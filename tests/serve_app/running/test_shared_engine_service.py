"""`shared_engine: true` in a running service: two replicas, one engine, and the death of a process of them."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import httpx
import pytest
from PIL import Image

from serve_app.classifier.model_cache import CHOICE
from serve_app.deployments.cores import usable_cores
from tests.ports import free_port
from tests.serve_app.classifier.small_networks import COLOURS, pictures, write_onnx
from tests.service import START_S, Service, launcher, own_environment, read_config, service, write_config

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
PREDICTIONS = 60
"""Of each client, at least, around a fault."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    config, port = read_config("one_replica.yaml"), free_port()
    config["http_options"]["port"] = port
    model, labels = write_onnx(folder / "colours.onnx"), folder / "colours.txt"
    labels.write_text("\n".join(COLOURS))
    application = config["applications"][1]
    application["args"] |= {
        "model": str(model), "engine": "auto", "threads": "auto", "preprocessing": "scale_0_1", "labels": str(labels),
        "shared_engine": True, "deadline_s": 60, "max_wait_s": 60,
    }  # fmt: skip
    application["deployments"] = [{"name": "Classifier", "num_replicas": 2}, {"name": "Engine"}]
    environment = own_environment(folder) | {"SERVE_APP_CACHE_DIR": str(folder / "cache")}
    with service(launcher(write_config(folder, config)), environment, folder, port) as started:
        started.wait_for_ready_block()
        yield started


class Clients:
    """Ask for predictions until they are told to stop; every answer must be the right one."""

    def __init__(self, service: Service, folder: Path) -> None:
        images, classes = pictures(1, seed=4)
        path = folder / "picture.png"
        Image.fromarray(images[0]).save(path)
        self._url, self._picture, self._wanted = f"{service.url}/model/predict", path.read_bytes(), classes[0]
        self._end = threading.Event()
        self.answers: list[str] = []
        self._threads = [threading.Thread(target=self._ask) for _ in range(4)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(START_S)
        assert set(self.answers) == {COLOURS[int(self._wanted)]}
        assert len(self.answers) >= PREDICTIONS * len(self._threads)

    def _ask(self) -> None:
        asked = 0
        with httpx.Client(timeout=START_S) as http:
            while not self._end.is_set() or asked < PREDICTIONS:
                response = http.post(self._url, content=self._picture)
                self.answers.append(response.json().get("prediction", response.text))
                asked += 1


def test_the_engine_is_chosen_once_for_start_engine_and_replicas(running: Service) -> None:
    """Cores of the machine, for the one engine: with another number of threads each would choose for itself."""
    choices = [*(Path(running.environment["SERVE_APP_CACHE_DIR"]) / "models").glob(f"*/{CHOICE}")]
    assert len(choices) == 1


def engine_of(service: Service) -> int:
    """Return the process number of the engine that Serve has now."""
    *_, newest = service.titled("ray::ServeReplica:model:Engine")
    return newest.pid


def test_the_ready_block_says_that_there_is_one_engine(running: Service) -> None:
    assert f"one engine for all replicas × {usable_cores()} thread(s)" in running.printed()
    assert running.rest().running_replicas("model", "Engine") == 1
    assert running.rest().running_replicas("model", "Classifier") == 2


@pytest.mark.parametrize("title", ["Engine", "Classifier"])
def test_no_prediction_is_lost_with_a_process_that_is_killed(running: Service, tmp_path: Path, title: str) -> None:
    def running_now() -> set[int]:
        return {each.pid for each in running.titled(f"ray::ServeReplica:model:{title}")}

    before = running_now()
    with Clients(running, tmp_path):
        os.kill(min(before), signal.SIGKILL)
        running.wait_for(lambda: len(running_now() - {min(before)}) == len(before), f"another {title}")
        running.wait_for(lambda: running.rest().running_replicas("model", title) == len(before), f"a ready {title}")


def test_no_prediction_fails_while_another_config_replaces_the_engine(running: Service, tmp_path: Path) -> None:
    before = engine_of(running)
    command = [sys.executable, "-m", "serve_app.redeploy", str(running.output.with_name("config.yaml"))]
    with Clients(running, tmp_path):
        done = subprocess.run(
            [*command, "--set", "model.max_batch=4"], env=running.environment, capture_output=True, text=True,
            timeout=START_S, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert engine_of(running) != before
