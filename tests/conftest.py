"""Fixtures that several files share: own folders, the fitted model."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import certifi
import httpx
import numpy as np
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir

from serve_app.classifier.settings import ClassifierSettings
from tests.fitted_model import CLASS_IDS

if TYPE_CHECKING:
    from serve_app.classifier.classifier import Classifier

pytest_plugins = ["tests.failures", "tests.groups", "tests.postgres", "tests.redis_server", "tests.version_0_1_0"]

BOUNDS = {"max_upload_bytes": 2_000_000, "max_pixels": 10**6}
UNHURRIED = {"max_wait_s": 600, "deadline_s": 600, "upload_timeout_s": 600}
"""A classifier's longest limits: where they are not what is tested, a slow machine must not meet them."""

# The same examples each time, none of them kept on disk, and none refused because the machine is slow.
settings.register_profile(
    "tests",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("tests")
set_hypothesis_home_dir(Path(__file__).parents[1] / "build" / "hypothesis")  # for what it caches all the same

# TensorFlow keeps the number of threads it was first given for as long as the process lives.
THREADS = 2


def pytest_configure() -> None:
    """Let Ctrl-C work in what the tests start: a shell that starts the tests in the background ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Fitted:
    """The fitted model's files, see tests/fitted_model.py."""

    folder: Path

    @property
    def weights(self) -> Path:
        return self.folder / "fitted.weights.h5"

    @property
    def labels(self) -> Path:
        return self.folder / "labels.json"

    @property
    def crops(self) -> np.ndarray:
        """What the bare Keras model was given: uint8 RGB, shape (pictures, 224, 224, 3)."""
        pixels: np.ndarray = np.load(self.folder / "crops.npy")
        return pixels

    @property
    def expected(self) -> np.ndarray:
        """The bare Keras model's probabilities, one row a picture."""
        scores: np.ndarray = np.load(self.folder / "expected.npy")
        return scores

    @property
    def pictures(self) -> dict[str, bytes]:
        """The pictures' JPEG bytes by the label that the model gives them."""
        return {f"thing {i}": (self.folder / "pictures" / f"{i}.jpg").read_bytes() for i in CLASS_IDS}

    @property
    def args(self) -> dict[str, object]:
        """What to write under `args:` of the model application to serve it."""
        return {"weights": str(self.weights), "labels": str(self.labels), "threads": THREADS}


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests away from the user's database and model cache, and off the internet.

    The model cache is that of all processes of this run: what one of them has prepared, the others find.
    """
    given = dict(os.environ)
    os.environ["SERVE_APP_CACHE_DIR"] = str(_folder_of_all_processes(tmp_path_factory) / "cache")
    os.environ["SERVE_APP_DATA_DIR"] = str(tmp_path_factory.mktemp("data"))
    os.environ["KERAS_HOME"] = str(tmp_path_factory.mktemp("keras"))
    os.environ["TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"] = "0"  # in pytest's processes several networks are computed
    os.environ["SSL_CERT_FILE"] = str(_one_certificate(tmp_path_factory.mktemp("certificates")))
    os.environ["https_proxy"] = "http://127.0.0.1:9"  # refused at once: the ImageNet weights cannot be had
    os.environ["no_proxy"] = "127.0.0.1,localhost"
    for name in ("http_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "NO_PROXY"):
        os.environ.pop(name, None)
    os.environ.pop("DATABASE_URL", None)
    os.environ.pop("REDIS_URL", None)
    os.environ["TERM"] = "xterm-256color"
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES"):
        os.environ.pop(name, None)  # of the terminal in which the tests run
    yield
    os.environ.clear()
    os.environ.update(given)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Return a folder in which sockets may have names: the system limits the length of their whole paths."""
    with tempfile.TemporaryDirectory(prefix="sa-", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


def _one_certificate(folder: Path) -> Path:
    """Return a file with one authority for the clients of HTTP: reading all 140 takes each of them 45 ms."""
    ending = "-----END CERTIFICATE-----\n"
    first, _, _ = Path(certifi.where()).read_text().partition(ending)
    file = folder / "one.pem"
    file.write_text(first + ending)
    return file


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """Return the fitted model, made once for all processes of this run."""
    folder = _folder_of_all_processes(tmp_path_factory) / "fitted_model"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            unfinished = folder.with_name("unfinished")
            subprocess.run([sys.executable, "-m", "tests.fitted_model", unfinished], check=True, timeout=600)
            unfinished.rename(folder)
    return Fitted(folder)


def _folder_of_all_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run's folder: with pytest-xdist each process has one of its own below it."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
async def classifier(fitted: Fitted) -> "AsyncIterator[Classifier]":
    """The classifier with its real engine and fitted weights, without HTTP."""
    from serve_app.classifier.classifier import Classifier

    settings = ClassifierSettings.model_validate({**fitted.args, **BOUNDS, **UNHURRIED})
    loaded = await Classifier.load(settings)
    yield loaded
    await loaded.close()


@pytest.fixture(scope="session")
async def model_client(classifier: "Classifier") -> AsyncIterator[httpx.AsyncClient]:
    """A client of the whole classifier without Ray, below /model as Serve mounts it."""
    from serve_app.classifier.api import build_model_api

    transport = httpx.ASGITransport(build_model_api(classifier), root_path="/model", raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test/model") as client:
        yield client
