"""Two services on one machine at once, of two users, of which each has chosen a port for its API and nothing else."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from serve_app.classifier.model_cache import find_or_prepare
from serve_app.classifier.settings import ClassifierSettings
from serve_app.deployments.rest import PATH
from tests.conftest import Fitted
from tests.ports import free_port
from tests.service import START_S, Service, adapted, launcher, own_environment, processes_of, service, write_config

OTHER_USER = 65_534  # nobody, who has no home
READING = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
"""For Python and the checkout, which may be in a home; who may write what stays as it is for any user."""
CHOSEN = re.compile(r"^ *ports +(.+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def services(fitted: Fitted) -> Iterator[list[Service]]:
    """The services of root and of another user, started at the same time."""
    with ExitStack() as stack:
        started = [stack.enter_context(service_of(user, fitted)) for user in (os.getuid(), OTHER_USER)]
        for one in started:
            one.wait_for_ready_block()
        yield started


@contextmanager
def service_of(user: int, fitted: Fitted) -> Iterator[Service]:
    """Start one_replica.yaml on a port of its own, with all files of the user in a folder of the user."""
    with tempfile.TemporaryDirectory(prefix="user-", dir="/tmp") as name:
        home, port = Path(name), free_port()
        config = write_config(home, adapted("one_replica.yaml", port=port, model_args=fitted.args))
        find_or_prepare(ClassifierSettings.model_validate(fitted.args))  # once for both
        shutil.copytree(os.environ["SERVE_APP_CACHE_DIR"], home / "cache", dirs_exist_ok=True)
        own = {
            "HOME": name,
            "SERVE_APP_CACHE_DIR": str(home / "cache"),
            "SERVE_APP_DATA_DIR": str(home / "data"),
            "KERAS_HOME": str(home / "keras"),
        }
        environment = {key: value for key, value in own_environment(home).items() if "_PORT" not in key} | own
        for path in (home, *home.rglob("*")):
            os.chown(path, user, user)
        with service([*become(user), *READING, *launcher(config)], environment, home, port) as started:
            yield started


def become(user: int) -> list[str]:
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]


def ask_dashboard(one: Service, path: str, **parameters: str) -> httpx.Response:
    token = Path(one.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    return httpx.get(
        one.dashboard + path, params=parameters, headers={"Authorization": f"Bearer {token}"}, timeout=START_S
    )


pytestmark = [pytest.mark.system("setpriv", root=True), pytest.mark.timeout(900)]


def test_both_services_answer(services: list[Service], fitted: Fitted) -> None:
    for one in services:
        assert httpx.get(f"{one.url}/user/1", timeout=START_S).json()["id"] == 1
        answer = httpx.post(f"{one.url}/model/predict", content=fitted.pictures["thing 7"], timeout=START_S)
        assert answer.json()["prediction"] == "thing 7"


def test_each_runs_as_its_user(services: list[Service]) -> None:
    users = [{process.uids().real for process in processes_of(one.environment)} for one in services]
    assert users == [{os.getuid()}, {OTHER_USER}]


def test_each_says_which_ports_it_took_and_they_are_apart(services: list[Service]) -> None:
    told = [dict(part.rsplit(" ", 1) for part in CHOSEN.findall(one.printed())[0].split(", ")) for one in services]
    assert told[0].keys() == told[1].keys() == {
        "statistics", "metrics", "Serve's proxy", "replicas", "dashboard", "Ray's agent",
    }  # fmt: skip
    assert not set(told[0].values()) & set(told[1].values())
    for user, ports in zip((os.getuid(), OTHER_USER), told, strict=True):
        listening = set()
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.pid:
                with suppress(psutil.NoSuchProcess):  # another program's, ended meanwhile
                    if psutil.Process(connection.pid).uids().real == user:
                        listening.add(connection.laddr.port)
        first, last = map(int, ports.pop("replicas").split("-"))
        assert {int(port) for port in ports.values()} <= listening
        assert listening & set(range(first, last + 1))


def test_the_dashboards_show_their_own_services_logs(services: list[Service]) -> None:
    for one in services:
        applications: dict[str, Any] = ask_dashboard(one, PATH).json()["applications"]
        [replica] = applications["model"]["deployments"]["Classifier"]["replicas"]
        listed = ask_dashboard(one, "/api/v0/logs", node_id=replica["node_id"], glob="serve/*")
        assert listed.json()["result"], listed.text
        name = replica["log_file_path"].lstrip("/")
        shown = ask_dashboard(one, "/api/v0/logs/file", node_id=replica["node_id"], filename=name, lines="1000")
        assert shown.status_code == 200, shown.text
        assert "engine loaded and warm" in shown.text


def test_no_user_looks_into_the_folder_of_the_other(services: list[Service]) -> None:
    port = services[0].port
    for path in (f"/tmp/serve-app-{os.getuid()}", f"/tmp/serve-app-{os.getuid()}/{port}"):
        seen = subprocess.run([*become(OTHER_USER), "ls", path], capture_output=True, text=True, check=False)
        assert "Permission denied" in seen.stderr


def test_when_one_stops_the_other_goes_on_and_no_folder_is_left(services: list[Service]) -> None:
    first, second = services
    folders = [Path(f"/tmp/serve-app-{user}/{one.port}") for user, one in zip(
        (os.getuid(), OTHER_USER), services, strict=True)]  # fmt: skip
    assert [folder.is_dir() for folder in folders] == [True, True]
    assert first.stop() == 0
    assert [folder.exists() for folder in folders] == [False, True]
    assert httpx.get(f"{second.url}/model/ready", timeout=START_S).status_code == 200
    assert second.stop() == 0
    assert not folders[1].exists()
