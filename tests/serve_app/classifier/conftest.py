"""For tests that compute with TensorFlow in pytest's own process."""

import pytest

from tests.conftest import THREADS


@pytest.fixture(scope="session")
def tensorflow_threads() -> None:
    """Give TensorFlow the threads of the tests' engines, which it takes once, before it computes anything."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)
