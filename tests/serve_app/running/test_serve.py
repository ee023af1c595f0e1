"""The whole service on a real one-node Ray, as a user starts it: what it answers, and an update of its config."""

import asyncio
import os
import re
import select
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path

import httpx
import psutil
import pytest

from serve_app.deployments.options import CLASSIFIER, USERS, DeploymentOptions
from tests.conftest import Fitted
from tests.serve_app.classifier.test_model_api import assert_error, stages_ms
from tests.serve_app.running.shared import ANSWER_S, KEY, client_of, two_replicas
from tests.service import ROOT, START_S, Service, is_alive, processes_of

LEAVING = 200
CLIENTS = 2
PAUSE_S = 0.5


async def expect_known_pictures(running: Service, fitted: Fitted) -> None:
    async with client_of(running) as http:
        responses = await asyncio.gather(
            *(http.post("/model/predict?top_k=10", files={"file": data}) for data in fitted.pictures.values())
        )
    for label, row, response in zip(fitted.pictures, fitted.expected, responses, strict=True):
        answer = response.json()
        assert answer["prediction"] == label
        for found in answer["predictions"]:
            assert found["score"] == pytest.approx(row[found["class_id"]], abs=5e-3)


def exported(running: Service, name: str) -> float:
    """Return the sum of a metric's values, 0 while it is not exported."""
    values = re.findall(rf"^{name}{{.*}} (\S+)$", running.metrics(), re.MULTILINE)
    return sum(map(float, values))


def test_the_ready_block_says_where_everything_is(running: Service) -> None:
    printed = running.printed()
    for words in (
        "READY after", f"{running.url}/user/docs", f"{running.url}/model/docs", "ray get-auth-token",
        "resnet50 on tensorflow (float32), 1 replica(s) × 2 thread(s)", "weights: fitted.weights.h5", "logs ",
    ):  # fmt: skip
        assert words in printed
    assert "random weights" not in printed


def test_the_ready_block_has_the_lines_for_rays_own_status_commands(running: Service) -> None:
    """As typed, in a shell that has nothing of Ray in its environment."""
    block = running.printed().partition("READY after")[2]
    lines = re.findall(r"^ *(?:status)? *(RAY_AUTH_MODE=token .* status .*)$", block, re.MULTILINE)
    assert len(lines) == 2
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_") and name != "no_proxy"}
    bare |= {"http_proxy": "http://127.0.0.1:9"}  # where nobody is; it would get Ray's token
    for line, words in zip(lines, ("applications:", "Node status"), strict=True):
        done = subprocess.run(
            line, shell=True, cwd=ROOT, env=bare, capture_output=True, text=True, timeout=START_S, check=False
        )
        assert done.returncode == 0, done.stderr
        assert words in done.stdout
        assert "Traceback" not in done.stdout + done.stderr


def test_one_replica_is_asked_for_and_one_runs(running: Service) -> None:
    assert running.rest().running_replicas("model", "Classifier") == 1
    assert running.rest().running_replicas("users", "Users") == 2


def test_what_the_config_leaves_out_is_in_force(running: Service) -> None:
    """Serve's own defaults are others; the short configs rely on those of the deployments."""
    applications = running.rest().applications()
    for application, deployment, wanted in (("users", "Users", USERS), ("model", "Classifier", CLASSIFIER)):
        found = applications[application]["deployments"][deployment]["deployment_config"]
        assert {key: found[key] for key in DeploymentOptions.model_fields} == wanted.model_dump()


async def test_known_pictures_are_named_as_the_bare_model_names_them(running: Service, fitted: Fitted) -> None:
    await expect_known_pictures(running, fitted)


async def test_one_bad_picture_among_eight_fails_alone(running: Service, fitted: Fitted) -> None:
    pictures = fitted.pictures | {"thing 433": b"not a picture"}
    async with client_of(running) as http:
        responses = await asyncio.gather(*(http.post("/model/predict", content=data) for data in pictures.values()))
    for label, response in zip(pictures, responses, strict=True):
        if label == "thing 433":
            assert_error(response, 415, "unsupported_image")
        else:
            assert response.json()["prediction"] == label


async def test_an_error_carries_the_request_id_of_its_header(running: Service) -> None:
    async with client_of(running) as http:
        for path, status in (("/model/nothing", 404), ("/user/nobody", 422), ("/user/999999999", 404)):
            response = await http.get(path)
            assert response.status_code == status
            assert response.json()["request_id"] == response.headers["x-request-id"]


async def test_users_are_made_on_first_start_and_paged(running: Service) -> None:
    async with client_of(running) as http:
        page = (await http.get("/user/", params={"limit": 3})).json()
        assert [user["id"] for user in page["users"]] == [1, 2, 3]
        assert list(page["users"][0]) == ["id", "name", "email", "created_at"]
        second = (await http.get("/user/", params={"limit": 3, "after": page["next"]})).json()
        assert [user["id"] for user in second["users"]] == [4, 5, 6]
        assert (await http.get("/user/10000")).json()["id"] == 10_000
        assert (await http.get("/user/10001")).status_code == 404
        assert (await http.get("/user")).json()["users"][0]["id"] == 1


async def test_server_timing_comes_through_the_ingress(running: Service, fitted: Fitted) -> None:
    async with client_of(running) as http:
        response = await http.post("/model/predict", content=fitted.pictures["thing 7"])
    assert stages_ms(response)["inference"] > 0


async def test_no_client_can_change_serves_own_limits(running: Service, fitted: Fitted) -> None:
    data = fitted.pictures["thing 7"]
    async with client_of(running) as http:
        hurried = await http.post("/model/predict", content=data, headers={"X-Request-Timeout-Seconds": "0.001"})
        assert hurried.status_code == 200


def test_who_has_gone_costs_no_inference(running: Service, fitted: Fitted) -> None:
    """Each of them tries to switch Serve's watch for it off."""
    data = fitted.pictures["thing 7"]
    before = computed_pictures(running, data)
    with ExitStack() as leaving:
        clients = [leaving.enter_context(socket.create_connection(("127.0.0.1", running.port))) for _ in range(LEAVING)]
        head = f"POST /model/predict HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nX-Request-Disconnect-Disabled: ?1\r\n"
        for client in clients:
            client.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        first, _, _ = select.select(clients, [], [], START_S)
        assert first, "nobody was answered"
    # How many are computed before the ingress and the replica see that the clients have gone is a matter of time.
    assert 1 < computed_pictures(running, data) - before < LEAVING


def computed_pictures(running: Service, data: bytes) -> float:
    """Return how many pictures the engine has computed; what waits in front of this question is counted too."""
    with httpx.Client(base_url=running.url, headers={"X-API-Key": KEY}, timeout=ANSWER_S) as http:
        assert http.post("/model/predict", content=data).status_code == 200
        for _ in range(2):  # the values of one moment are exported one after the other, those of the next one after all
            wait_for_export(running, http, data)
    return exported(running, "ray_classifier_batch_pictures_sum")


def wait_for_export(running: Service, http: httpx.Client, data: bytes) -> None:
    """Return once it is exported that a deadline which nobody can meet was missed."""
    missed = exported(running, "ray_classifier_missed_deadlines_total")
    assert http.post("/model/predict", content=data, headers={"X-Deadline-Ms": "1"}).status_code == 504
    running.wait_for(lambda: exported(running, "ray_classifier_missed_deadlines_total") > missed, "exported metrics")


async def test_an_answer_that_comes_too_late_is_a_504_in_the_error_shape(running: Service, fitted: Fitted) -> None:
    async with client_of(running) as http:
        response = await http.post("/model/predict", content=fitted.pictures["thing 7"], headers={"X-Deadline-Ms": "1"})
    assert_error(response, 504, "deadline_exceeded")


def test_deadlines_batches_and_stages_are_exported_to_prometheus(running: Service, fitted: Fitted) -> None:
    wanted = (
        "ray_classifier_missed_deadlines_total",
        "ray_classifier_queue_pictures",
        "ray_classifier_batch_pictures_count",
        "ray_classifier_stage_ms_sum",
    )
    of_keys = {"ray_api_key_requests_total", "ray_api_key_queue_pictures"}
    data = fitted.pictures["thing 7"]

    def are_exported() -> bool:
        with httpx.Client(base_url=running.url, headers={"X-API-Key": KEY}, timeout=ANSWER_S) as http:
            http.post("/model/predict", content=data, headers={"X-Deadline-Ms": "1"})
            http.post("/model/predict", content=data)  # Ray forgets a gauge that has not been set since its last export
        text = running.metrics()
        by_key = re.findall(r'^(ray_api_key_\w+){.*\bkey="first".*}', text, re.MULTILINE)
        return all(f"\n{name}{{" in text for name in wanted) and of_keys <= set(by_key)

    running.wait_for(are_exported, "exported metrics")


@pytest.mark.parametrize("application", ["model", "user"])
async def test_the_documentation_is_served_without_internet(running: Service, application: str) -> None:
    async with client_of(running) as http:
        page = await http.get(f"/{application}/docs")
        for source in re.findall(r'(?:src|href)="([^"]+)"', page.text):
            assert source.startswith(f"/{application}/")
            assert (await http.get(source)).status_code == 200
        assert (await http.get(f"/{application}/openapi.json")).json()["paths"]


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")
def test_the_engine_runs_at_a_lower_priority_than_lookups(running: Service) -> None:
    niceness = {}
    for application in ("model", "users"):
        for replica in running.replicas(application):
            threads = []
            for thread in replica.threads():
                with suppress(ProcessLookupError):  # it has ended meanwhile
                    threads.append(os.getpriority(os.PRIO_PROCESS, thread.id))
            niceness[application] = (min(threads), max(threads))
    given = os.getpriority(os.PRIO_PROCESS, running.process.pid)
    assert niceness["model"] == (given, min(given + 10, 19))
    assert niceness["users"][1] == given


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_tensorflow_is_loaded_in_the_classifier_only_and_without_what_it_takes_along(running: Service) -> None:
    needless = ("jaxlib", "matplotlib", "sklearn")
    assert all(map(find_spec, needless))  # they are installed, and TensorFlow or Keras would import them
    carriers = []
    for process in processes_of(running.environment):
        with suppress(psutil.NoSuchProcess):
            loaded = {mapped.path for mapped in process.memory_maps()}
            if any("libtensorflow" in path for path in loaded):
                carriers.append(process)
                assert not [path for path in loaded if any(f"/{name}/" in path for name in needless)]
    assert carriers == running.replicas("model")


async def test_no_prediction_fails_while_the_config_is_updated_to_two_replicas(
    running: Service, fitted: Fitted, keys_file: Path
) -> None:
    """No answer is an error either: HAProxy closes no connection that waits for a client's next request."""
    rest, answered = running.rest(), [0] * CLIENTS
    [old] = running.replicas("model")
    finished = asyncio.Event()

    async def keep_predicting(number: int, http: httpx.AsyncClient) -> None:
        for label, data in cycle(fitted.pictures.items()):
            response = await http.post("/model/predict", files={"file": data})
            assert response.status_code == 200, response.text
            assert response.json()["prediction"] == label
            answered[number] += 1
            if finished.is_set():
                return
            await asyncio.sleep(PAUSE_S)  # or they would take the new replicas' processor time

    def is_updated() -> bool:
        model = rest.applications()["model"]
        states = [replica["state"] for found in model["deployments"].values() for replica in found["replicas"]]
        return model["status"] == "RUNNING" and states == ["RUNNING"] * 2 and not is_alive(old)

    async with client_of(running) as http, asyncio.TaskGroup() as predicting:
        for number in range(CLIENTS):
            predicting.create_task(keep_predicting(number, http))
        await asyncio.to_thread(running.wait_for, lambda: all(answered), "the first predictions")
        await asyncio.to_thread(rest.deploy, two_replicas(running.port, fitted, keys_file))
        await asyncio.to_thread(running.wait_for, is_updated, "two replicas instead of the old one")
        finished.set()  # after one more answer each
    async with client_of(running) as http:
        assert (await http.get("/model/")).json()["threads"] == 1


async def test_two_replicas_name_the_pictures_as_one_does(running: Service, fitted: Fitted) -> None:
    await expect_known_pictures(running, fitted)
