"""The service as the first process of a container, as `docker run` and Kubernetes have it."""

from pathlib import Path

import pytest

from tests.conftest import Fitted
from tests.ports import free_port
from tests.stopping import patient_service, stop_under_load, terminate_only_child


@pytest.mark.timeout(900)
@pytest.mark.system("unshare", root=True)
async def test_a_pod_that_is_stopped_answers_what_it_has_accepted(fitted: Fitted, tmp_path: Path) -> None:
    def first_process(command: list[str]) -> list[str]:
        return ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *command]

    with patient_service(tmp_path, fitted, free_port(), first_process) as running:
        await stop_under_load(running, fitted, lambda: terminate_only_child(running))
