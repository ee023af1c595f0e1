"""Services of their own that are stopped: by Ctrl-C under load, and when they have lost their replicas."""

import signal
import socket
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import Fitted
from tests.ports import free_port
from tests.serve_app.classifier.test_model_api import assert_error
from tests.service import START_S
from tests.stopping import patient_service, press_ctrl_c, stop_under_load

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="HAProxy is there on Linux only"),
    pytest.mark.timeout(900),
]


async def test_by_ctrl_c_too_what_was_accepted_is_answered_and_what_comes_later_is_refused(
    fitted: Fitted, tmp_path: Path
) -> None:
    with patient_service(tmp_path, fitted, free_port()) as running:
        await stop_under_load(running, fitted, lambda: press_ctrl_c(running))


def test_without_a_replica_the_answer_is_a_503_that_says_when_to_come_back_and_sigterm_stops_the_rest(
    fitted: Fitted, tmp_path: Path
) -> None:
    """Serve's fallback proxy stands in for lost replicas; without both HAProxy itself answers."""
    with patient_service(tmp_path, fitted, free_port()) as running:
        [controller] = running.titled("ray::ServeController")
        controller.suspend()  # it would replace them
        try:
            lost = [*running.replicas(), *running.titled("ray::ProxyActor")]
            for process in lost:
                process.kill()
            psutil.wait_procs(lost, START_S)
            for path in ("/user/", "/model/"):
                answer = httpx.get(running.url + path, timeout=START_S)
                assert_error(answer, 503, "not_ready")
                assert int(answer.headers["Retry-After"]) >= 1
        finally:
            controller.resume()
        assert running.stop(signal.SIGTERM) == 0
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections may linger
            probe.bind(("127.0.0.1", running.port))
