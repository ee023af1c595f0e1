"""How the service starts and does not start, loses processes, and stops. The shared one is stopped here."""

import asyncio
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from inspect import signature
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image
from ray.serve._private.client import ServeControllerClient

from serve_app.classifier.model_cache import find_or_prepare
from serve_app.classifier.settings import ClassifierSettings
from serve_app.deployments.applications import http_host
from serve_app.deployments.rollout import Rollout
from serve_app.entrance.environment import data_plane_environment, read_env_file
from serve_app.service_folder import haproxy_files
from tests.conftest import Fitted
from tests.ports import free_port
from tests.serve_app.classifier.small_networks import COLOURS, pictures, write_onnx
from tests.serve_app.classifier.test_images import encode
from tests.serve_app.classifier.test_model_api import assert_error
from tests.serve_app.running.shared import KEY, client_of, two_replicas
from tests.service import (
    CONFIGS,
    START_S,
    Service,
    adapted,
    command_of,
    launcher,
    own_environment,
    processes_of,
    serve_run,
    service,
    without_data_plane,
    write_config,
)
from tests.stopping import stop_under_load

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="HAProxy comes for Linux only")

HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What to write under `args:` to serve a network of a few weights, which needs no TensorFlow."""
    folder = tmp_path_factory.mktemp("small")
    labels = folder / "colours.txt"
    labels.write_text("\n".join(COLOURS))
    model = write_onnx(folder / "colours.onnx")
    return {"model": str(model), "engine": "onnxruntime", "preprocessing": "scale_0_1", "labels": str(labels)}


def test_a_second_start_on_the_same_port_says_so_with_all_other_faults_before_it_starts_anything(
    running: Service, tmp_path: Path
) -> None:
    args: dict[str, object] = {"thread": 2, "max_batch": 0}
    config = write_config(tmp_path, adapted("one_replica.yaml", port=running.port, model_args=args))
    with service(launcher(config), own_environment(tmp_path), tmp_path, running.port) as second:
        assert second.process.wait(START_S) == 2
        printed = second.printed()
    for words in (
        f"port {running.port} cannot be used", "http_options.port",
        "args.thread: no such key; did you mean threads?", "args.max_batch",
    ):  # fmt: skip
        assert words in printed
    assert "Traceback" not in printed
    assert "starting" not in printed


@linux_only
async def test_haproxy_comes_back_hardened_after_a_kill(running: Service) -> None:
    running.wait_until_routed()  # an older one may still be ending its requests
    [before] = running.haproxies()
    before.kill()

    def serves_own() -> tuple[list[str], set[str]] | None:
        """Return what Serve's own was started with and listens on; the stand-in is a child of the launcher."""
        managers = {process.pid for process in running.titled("ray::HAProxyManager")}
        for process in running.haproxies():
            with suppress(psutil.Error):  # a reload may end it meanwhile
                is_own = process.ppid() in managers and process.pid != before.pid
                if is_own and (listened := addresses(process)):
                    return process.cmdline(), listened
        return None

    def addresses(process: psutil.Process) -> set[str]:
        return {found.laddr.ip for found in process.net_connections("tcp") if found.status == psutil.CONN_LISTEN}

    command, listened = await asyncio.to_thread(running.wait_for, serves_own, "another HAProxy of Serve")
    assert command[1] == "-db"
    assert listened == {"127.0.0.1"}
    async with client_of(running) as http:
        assert_error(await http.get("/nothing"), 404, "not_found")


@linux_only
async def test_what_was_accepted_is_answered_by_a_stop_and_what_comes_later_is_refused(
    running: Service, fitted: Fitted, keys_file: Path
) -> None:
    rollout = Rollout(running.rest(), two_replicas(running.port, fitted, keys_file))
    rollout.deploy()  # changes nothing where a test before this one has made the update
    await asyncio.to_thread(rollout.wait_until_in_place, ("DEPLOY_FAILED",), time.monotonic() + START_S)
    await asyncio.to_thread(running.wait_until_routed)  # what an older HAProxy has could not be counted
    assert len(processes_of(running.environment)) > 5
    await stop_under_load(running, fitted, lambda: running.process.send_signal(signal.SIGTERM), KEY)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections may linger
        probe.bind(("127.0.0.1", running.port))


def test_a_bare_serve_run_serves_the_same_yaml_without_haproxy(small: dict[str, object], tmp_path: Path) -> None:
    port = free_port()
    config = write_config(tmp_path, adapted("one_replica.yaml", port=port, model_args=small))
    environment = without_data_plane(own_environment(tmp_path))
    with service(serve_run(config), environment, tmp_path, port) as bare:
        bare.wait_until_ready()
        assert bare.haproxies() == []
        for image, class_id in zip(*pictures(8), strict=True):
            file = encode(Image.fromarray(image), "PNG")
            answer = httpx.post(f"{bare.url}/model/predict", files={"file": file}, timeout=START_S)
            assert answer.json()["prediction"] == COLOURS[class_id]
        assert httpx.get(f"{bare.url}/user/7", timeout=START_S).json()["id"] == 7
        assert_error(httpx.get(f"{bare.url}/user/?limt=7", timeout=START_S), 422, "invalid_parameter", "mean limit?")
        assert_error(httpx.get(f"{bare.url}/user/", headers=HANDSHAKE, timeout=START_S), 404, "not_found", "WebSocket")
        bare.stop(signal.SIGTERM)


@linux_only
@pytest.mark.long
def test_a_serve_run_through_the_data_plane_ends_before_serve_gives_up_waiting(
    fitted: Fitted, tmp_path: Path, short_folder: Path
) -> None:
    port = free_port()
    path = write_config(tmp_path, adapted("one_replica.yaml", port=port, model_args=fitted.args))
    with ExitStack() as stack:
        environment = own_environment(tmp_path) | haproxy_files(short_folder)
        del environment["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"]  # as in serve.env
        environment |= data_plane_environment(path, environment)
        running = stack.enter_context(service(serve_run(path), environment, tmp_path, port))
        running.wait_until_ready()
        running.stop(signal.SIGINT)
        assert "Got KeyboardInterrupt" in running.printed()
        assert "Controller failed to shut down" not in running.printed()


def test_a_replica_drains_for_less_than_serve_run_waits() -> None:
    """Serve gives up after 30 s, which was the time that each replica stayed for by default."""
    drains_s = float(read_env_file(CONFIGS / "serve.env")["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"])
    waits_s = signature(ServeControllerClient.shutdown).parameters["timeout_s"].default
    assert drains_s <= waits_s / 3


def model_alone(port: int, model_args: dict[str, object]) -> dict[str, object]:
    """Return one_replica.yaml without lookups, which what follows is not about."""
    config = adapted("one_replica.yaml", port=port, model_args=model_args)
    config["applications"] = config["applications"][1:]
    return config


def test_a_model_that_cannot_be_prepared_ends_a_start_before_ray(small: dict[str, object], tmp_path: Path) -> None:
    port = free_port()
    config = write_config(tmp_path, model_alone(port, small | {"crop": 16}))
    with service(launcher(config), own_environment(tmp_path), tmp_path, port) as failing:
        assert failing.process.wait(START_S) == 2
        printed = failing.printed()
        assert "error: applications[model].args.crop: 16 differs from the 32×32 pixels" in printed
        assert "stopping" not in printed  # no Ray was there to stop
        assert len(printed.splitlines()) < 50


def test_a_deployment_that_fails_ends_with_the_reason_on_one_screen(small: dict[str, object], tmp_path: Path) -> None:
    port = free_port()
    prepared = find_or_prepare(ClassifierSettings.model_validate(small))
    damaged = tmp_path / "cache" / "models" / prepared.folder.name
    damaged.mkdir(parents=True)
    shutil.copy(prepared.folder / "manifest.json", damaged)  # the network itself is not there
    config = write_config(tmp_path, model_alone(port, small))
    environment = own_environment(tmp_path) | {"RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "1"}
    environment["SERVE_APP_CACHE_DIR"] = str(tmp_path / "cache")
    with service(launcher(config), environment, tmp_path, port) as failing:
        assert failing.process.wait(START_S) == 1
        printed = failing.printed()
        assert "NOT DEPLOYED" in printed
        assert f"the prepared model {damaged} cannot be loaded; delete that folder" in printed
        assert "model: deploying (Classifier 0 of 1 replica(s)" in printed
        assert len(printed.splitlines()) < 50
        assert not processes_of(failing.environment)


def is_starting_ray(starting: Service) -> bool:
    return any("/gcs_server -" in command_of(process) for process in processes_of(starting.environment))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_ray_that_is_late_is_started_again(small: dict[str, object], tmp_path: Path) -> None:
    """The node does not register within Ray's own limit: its raylet stands still, as on a machine that does more."""
    port = free_port()
    config = write_config(tmp_path, model_alone(port, small))

    def is_started_again() -> bool:
        if "starting it again" in starting.printed():
            return True
        for process in processes_of(starting.environment):
            if "/raylet " in command_of(process):
                process.suspend()
        return False

    with service(launcher(config), own_environment(tmp_path), tmp_path, port) as starting:
        starting.wait_for(is_started_again, "a second start of Ray")
        starting.wait_for_ready_block()
        assert starting.stop() == 0


def is_starting_a_replica(starting: Service) -> bool:
    return bool(starting.replicas("model"))


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGTERM, is_starting_ray),
        (signal.SIGINT, is_starting_ray),
        pytest.param(signal.SIGINT, is_starting_a_replica, marks=pytest.mark.long),
    ],
)
def test_a_signal_while_starting_leaves_nothing(
    small: dict[str, object], tmp_path: Path, number: signal.Signals, moment: Callable[[Service], bool]
) -> None:
    port = free_port()
    config = write_config(tmp_path, model_alone(port, small))
    with service(launcher(config), own_environment(tmp_path), tmp_path, port) as starting:
        starting.wait_for(lambda: moment(starting), moment.__name__)
        assert starting.stop(number) == 0
        assert "READY" not in starting.printed()
        assert "stopped" in starting.printed()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))


NOBODY_READS = "import os, sys; os.dup2(os.pipe()[1], 1); os.execv(sys.argv[1], sys.argv[1:])"
"""Makes stdout a pipe whose other end this program's successor does not inherit: what `| head -1` leaves."""


def test_a_stop_whose_words_nobody_reads_leaves_nothing(small: dict[str, object], tmp_path: Path) -> None:
    port = free_port()
    config = write_config(tmp_path, model_alone(port, small))
    command = [sys.executable, "-c", NOBODY_READS, *launcher(config)]
    with service(command, own_environment(tmp_path), tmp_path, port) as starting:
        starting.wait_for(lambda: is_starting_ray(starting), is_starting_ray.__name__)
        assert starting.stop(signal.SIGINT) == 0
        assert starting.printed() == ""  # what goes to stderr: no traceback
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))


START_SERVE = """
import asyncio, sys, ray
from serve_app.deployments.http_host import running_http_host
from serve_app.deployments.launcher import _start_serve
ray.init("local", include_dashboard=False, log_to_driver=False)
_start_serve({"applications": [], "http_options": {"port": int(sys.argv[1])}})
print("host", asyncio.run(running_http_host()))
ray.shutdown()
"""


def test_without_haproxy_too_serve_listens_where_the_checks_say_that_it_does(tmp_path: Path) -> None:
    """Serve's own default of `http_options.host` is another one there."""
    port = free_port()
    environment = without_data_plane(own_environment(tmp_path))
    with service([sys.executable, "-c", START_SERVE, str(port)], environment, tmp_path, port) as started:
        assert started.process.wait(START_S) == 0, started.printed()
        assert f"host {http_host({})}\n" in started.printed()
