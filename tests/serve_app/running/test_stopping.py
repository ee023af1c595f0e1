"""A service that is stopped under load: nothing that was accepted is lost. Counted, with half-sent uploads."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Fitted
from tests.ports import free_port
from tests.service import Service
from tests.stopping import patient_service, press_ctrl_c, stop_under_load

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="HAProxy is there on Linux only"),
    pytest.mark.timeout(900),
]


def terminate(running: Service) -> None:
    running.process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("stop", [terminate, pytest.param(press_ctrl_c, marks=pytest.mark.long)])
async def test_what_was_accepted_is_answered_and_what_comes_later_is_refused(
    fitted: Fitted, tmp_path: Path, stop: Callable[[Service], None]
) -> None:
    with patient_service(tmp_path, fitted, free_port()) as running:
        await stop_under_load(running, fitted, lambda: stop(running))
