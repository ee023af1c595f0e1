"""The whole service on a real one-node Ray, started as a user starts it. The tests of one service run in this order."""

import asyncio
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from loadtest.measuring.target_metrics import discover
from tests.conftest import Fitted
from tests.ports import free_port
from tests.serve_app.classifier.test_model_api import assert_error, stages_ms
from tests.service import (
    Service,
    adapted,
    launcher,
    own_environment,
    processes_of,
    serve_run,
    service,
    without_data_plane,
    write_config,
)

UPDATE_S = 120
DISCOVERY = Path("/tmp/ray/prom_metrics_service_discovery.json")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, fitted: Fitted) -> Iterator[Service]:
    """`make serve` with one_replica.yaml, fitted weights and ports of its own."""
    folder = tmp_path_factory.mktemp("service")
    port = free_port()
    config = write_config(folder, adapted("one_replica.yaml", port=port, model_args=fitted.args))
    with service(launcher(config), own_environment(folder), folder, port) as started:
        started.wait_until_ready()
        deadline = time.monotonic() + 10
        while "Ctrl-C" not in started.printed():
            assert time.monotonic() < deadline, started.printed()
            time.sleep(0.1)
        yield started


def client(running: Service) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=running.url, timeout=30)


async def expect_known_pictures(running: Service, fitted: Fitted) -> None:
    async with client(running) as http:
        responses = await asyncio.gather(
            *(http.post("/model/predict?top_k=10", files={"file": data}) for data in fitted.pictures.values())
        )
    for label, row, response in zip(fitted.pictures, fitted.expected, responses, strict=True):
        answer = response.json()
        assert answer["prediction"] == label
        for found in answer["predictions"]:
            assert found["score"] == pytest.approx(row[found["class_id"]], abs=5e-3)


def test_the_ready_block_says_where_everything_is(running: Service) -> None:
    printed = running.printed()
    for words in (
        "READY after", f"{running.url}/user/docs", f"{running.url}/model/docs", "ray get-auth-token",
        "resnet50 on tensorflow (float32), 1 replica(s) × 2 thread(s)", "weights: fitted.weights.h5", "logs ",
    ):  # fmt: skip
        assert words in printed
    assert "random weights" not in printed


def test_one_replica_is_asked_for_and_one_runs(running: Service) -> None:
    assert running.rest().running_replicas("model", "Classifier") == 1
    assert running.rest().running_replicas("users", "Users") == 2


async def test_known_pictures_are_named_as_the_bare_model_names_them(running: Service, fitted: Fitted) -> None:
    await expect_known_pictures(running, fitted)


async def test_one_bad_picture_among_eight_fails_alone(running: Service, fitted: Fitted) -> None:
    pictures = fitted.pictures | {"thing 433": b"not a picture"}
    async with client(running) as http:
        responses = await asyncio.gather(*(http.post("/model/predict", content=data) for data in pictures.values()))
    for label, response in zip(pictures, responses, strict=True):
        if label == "thing 433":
            assert_error(response, 415, "unsupported_image")
        else:
            assert response.json()["prediction"] == label


async def test_an_error_carries_the_request_id_of_its_header(running: Service) -> None:
    async with client(running) as http:
        for path, status in (("/model/nothing", 404), ("/user/nobody", 422), ("/user/999999999", 404)):
            response = await http.get(path)
            assert response.status_code == status
            assert response.json()["request_id"] == response.headers["x-request-id"]


async def test_users_are_made_on_first_start_and_paged(running: Service) -> None:
    async with client(running) as http:
        page = (await http.get("/user/", params={"limit": 3})).json()
        assert [user["id"] for user in page["users"]] == [1, 2, 3]
        assert list(page["users"][0]) == ["id", "name", "email", "created_at"]
        second = (await http.get("/user/", params={"limit": 3, "after": page["next"]})).json()
        assert [user["id"] for user in second["users"]] == [4, 5, 6]
        assert (await http.get("/user/10000")).json()["id"] == 10_000
        assert (await http.get("/user/10001")).status_code == 404
        assert (await http.get("/user")).json()["users"][0]["id"] == 1


async def test_server_timing_comes_through_the_ingress(running: Service, fitted: Fitted) -> None:
    async with client(running) as http:
        response = await http.post("/model/predict", content=fitted.pictures["thing 7"])
    assert stages_ms(response)["inference"] > 1


async def test_no_client_can_change_serves_own_limits(running: Service, fitted: Fitted) -> None:
    data = fitted.pictures["thing 7"]
    async with client(running) as http:
        hurried = await http.post("/model/predict", content=data, headers={"X-Request-Timeout-Seconds": "0.001"})
        assert hurried.status_code == 200


@pytest.mark.parametrize("header", ["", "X-Request-Disconnect-Disabled: ?1\r\n"])
def test_who_has_gone_costs_no_inference(running: Service, fitted: Fitted, header: str) -> None:
    port, data = int(running.url.rsplit(":", 1)[-1]), fitted.pictures["thing 7"]
    head = f"POST /model/predict HTTP/1.1\r\nHost: x\r\n{header}Content-Length: {len(data)}\r\n\r\n"
    with ExitStack() as leaving:
        for _ in range(64):
            client = leaving.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.sendall(head.encode() + data)
        time.sleep(0.3)
    time.sleep(0.5)  # the ingress and the replica have to see that they have gone
    after = httpx.post(f"{running.url}/model/predict", content=data, timeout=30)
    # What was taken is some four seconds of work; in the engine when they left were eight pictures.
    assert after.status_code == 200, after.text
    assert stages_ms(after)["queue"] < 64 * stages_ms(after)["inference"] / 4


async def test_an_answer_that_comes_too_late_is_a_504_in_the_error_shape(running: Service, fitted: Fitted) -> None:
    async with client(running) as http:
        response = await http.post("/model/predict", content=fitted.pictures["thing 7"], headers={"X-Deadline-Ms": "1"})
    assert_error(response, 504, "deadline_exceeded")


async def test_refusals_deadlines_batches_and_stages_are_exported_to_prometheus(
    running: Service, fitted: Fitted
) -> None:
    wanted = {
        "ray_classifier_missed_deadlines_total",
        "ray_classifier_queue_pictures",
        "ray_classifier_batch_pictures_count",
        "ray_classifier_stage_ms_sum",
    }
    deadline = time.monotonic() + 40
    async with client(running) as http:
        while True:  # Ray forgets a gauge that has not been set since its last export
            await http.post("/model/predict", content=fitted.pictures["thing 7"], headers={"X-Deadline-Ms": "1"})
            await http.post("/model/predict", content=fitted.pictures["thing 7"])
            text = "".join([(await http.get(url)).text for url in discover(DISCOVERY)])
            missing = {name for name in wanted if f"\n{name}{{" not in text}
            if not missing:
                break
            assert time.monotonic() < deadline, missing
            await asyncio.sleep(1)


@pytest.mark.parametrize("application", ["model", "user"])
async def test_the_documentation_is_served_without_internet(running: Service, application: str) -> None:
    async with client(running) as http:
        page = await http.get(f"/{application}/docs")
        for source in re.findall(r'(?:src|href)="([^"]+)"', page.text):
            assert source.startswith(f"/{application}/")
            assert (await http.get(source)).status_code == 200
        assert (await http.get(f"/{application}/openapi.json")).json()["paths"]


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")
def test_the_engine_runs_at_a_lower_priority_than_lookups(running: Service) -> None:
    niceness = {}
    for process in processes_of(running.environment):
        title = process.cmdline()[0] if process.cmdline() else ""
        if title.startswith("ray::ServeReplica"):
            threads = [os.getpriority(os.PRIO_PROCESS, thread.id) for thread in process.threads()]
            niceness[title.split(":")[-1].split(".")[0]] = (min(threads), max(threads))
    assert niceness["Classifier"] == (0, 10)
    assert niceness["Users"][1] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_tensorflow_is_loaded_in_the_classifier_only(running: Service) -> None:
    carriers = set()
    for process in processes_of(running.environment):
        if any("libtensorflow" in mapped.path for mapped in process.memory_maps()):
            carriers.add(" ".join(process.cmdline())[:40])
    assert len(carriers) == 1
    assert "Classifier" in carriers.pop()


def test_a_second_start_on_the_same_port_says_so_at_once(running: Service, fitted: Fitted, tmp_path: Path) -> None:
    port = int(running.url.rsplit(":", 1)[-1])
    config = write_config(tmp_path, adapted("one_replica.yaml", port=port, model_args=fitted.args))
    with service(launcher(config), own_environment(tmp_path), tmp_path, port) as second:
        assert second.process.wait(20) == 2
        assert f"port {port} cannot be used" in second.printed()
        assert "http_options.port" in second.printed()


async def test_no_prediction_fails_while_the_config_is_updated_to_two_replicas(
    running: Service, fitted: Fitted
) -> None:
    port = int(running.url.rsplit(":", 1)[-1])
    rest = running.rest()
    rest.deploy(adapted("two_replicas.yaml", port=port, model_args=fitted.args))
    statuses: list[int] = []

    def updated() -> bool:
        model = rest.applications()["model"]
        return model["status"] == "RUNNING" and rest.running_replicas("model", "Classifier") == 2

    async def keep_predicting(http: httpx.AsyncClient, finished: asyncio.Event) -> None:
        while not finished.is_set():
            for label, data in fitted.pictures.items():
                response = await http.post("/model/predict", files={"file": data})
                statuses.append(response.status_code)
                assert response.json()["prediction"] == label

    finished = asyncio.Event()
    async with client(running) as http:
        predicting = [asyncio.create_task(keep_predicting(http, finished)) for _ in range(4)]
        deadline = time.monotonic() + UPDATE_S
        while not await asyncio.to_thread(updated):
            assert time.monotonic() < deadline, rest.applications()["model"]
            await asyncio.sleep(0.5)
        await asyncio.sleep(2)
        finished.set()
        await asyncio.gather(*predicting)
        assert (await http.get("/model/")).json()["threads"] == 1
    assert set(statuses) == {200}
    assert len(statuses) > 50


async def test_two_replicas_name_the_pictures_as_one_does(running: Service, fitted: Fitted) -> None:
    await expect_known_pictures(running, fitted)


def test_sigterm_stops_everything_within_15_s(running: Service) -> None:
    assert len(processes_of(running.environment)) > 5
    assert running.stop(signal.SIGTERM) == 0


async def test_a_bare_serve_run_serves_the_same_yaml_without_haproxy(fitted: Fitted, tmp_path: Path) -> None:
    port = free_port()
    config = write_config(tmp_path, adapted("two_replicas.yaml", port=port, model_args=fitted.args))
    environment = without_data_plane(own_environment(tmp_path))
    with service(serve_run(config), environment, tmp_path, port) as bare:
        bare.wait_until_ready()
        await expect_known_pictures(bare, fitted)
        bare.stop(signal.SIGTERM)


def test_a_deployment_that_fails_ends_with_the_reason_on_one_screen(fitted: Fitted, tmp_path: Path) -> None:
    port = free_port()
    args = {**fitted.args, "weights": "/no/such.h5"}
    config = write_config(tmp_path, adapted("one_replica.yaml", port=port, model_args=args))
    with service(launcher(config), own_environment(tmp_path), tmp_path, port) as failing:
        assert failing.process.wait(100) == 1
        printed = failing.printed()
        assert "NOT DEPLOYED" in printed
        assert "weights: /no/such.h5 cannot be read" in printed
        assert len(printed.splitlines()) < 50
        assert not processes_of(failing.environment)


def test_a_bad_config_ends_at_once_with_all_its_faults(tmp_path: Path) -> None:
    config = adapted("one_replica.yaml", port=free_port(), model_args={"thread": 2, "max_batch": 0})
    path = write_config(tmp_path, config)
    with service(launcher(path), own_environment(tmp_path), tmp_path, 1) as bad:
        assert bad.process.wait(20) == 2
        assert "args.thread: Extra inputs" in bad.printed()
        assert "args.max_batch" in bad.printed()
        assert "Traceback" not in bad.printed()


@pytest.mark.parametrize(("number", "moment"), [(signal.SIGINT, "deploying"), (signal.SIGTERM, "starting")])
def test_a_signal_while_starting_leaves_nothing(
    fitted: Fitted, tmp_path: Path, number: signal.Signals, moment: str
) -> None:
    port = free_port()
    config = write_config(tmp_path, adapted("one_replica.yaml", port=port, model_args=fitted.args))
    with service(launcher(config), own_environment(tmp_path), tmp_path, port) as starting:
        deadline = time.monotonic() + 60
        while moment not in starting.printed():
            assert time.monotonic() < deadline, starting.printed()
            time.sleep(0.1)
        time.sleep(1.5)
        assert starting.stop(number) == 0
        assert "stopped" in starting.printed()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
