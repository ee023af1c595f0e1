"""For tests that compute with TensorFlow in pytest's own process, or must not have it, or need no engine."""

import site
import sysconfig
import venv
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import BOUNDS, THREADS, UNHURRIED
from tests.counted import Counted
from tests.small_classifier import client_of, small_classifier


@pytest.fixture(scope="session")
def tensorflow_threads() -> None:
    """Give TensorFlow the threads of the tests' engines, which it takes once, before it computes anything."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)


@pytest.fixture(scope="session")
def python_without_tensorflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has every package of this one but TensorFlow, and so have the processes that it starts."""
    home = tmp_path_factory.mktemp("python")
    venv.create(home, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(home)}))
    for part in Path(site.getsitepackages()[0]).iterdir():
        if not part.name.startswith("tensorflow") and part.suffix != ".pth" and not (packages / part.name).exists():
            (packages / part.name).symlink_to(part)
    return home / "bin" / "python"


@pytest.fixture(scope="session")
async def small_client() -> AsyncIterator[httpx.AsyncClient]:
    """A client of a classifier without a real engine, for what is in front of one; its bounds are those of the real."""
    async with small_classifier(Counted(), **BOUNDS, **UNHURRIED) as classifier, client_of(classifier) as client:
        yield client
