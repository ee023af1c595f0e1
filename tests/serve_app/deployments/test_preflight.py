"""What can be known is told before Ray starts: every fault at once, each in one line with its key and remedy."""

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.__main__ import _check
from serve_app.classifier.settings import ClassifierSettings
from serve_app.classifier.sources import find_source_faults
from serve_app.deployments import model
from serve_app.deployments.preflight import (
    CHECKS,
    CHECKS_OF_PORT,
    Check,
    Start,
    _haproxy,
    _queues,
    _tls,
    find_faults,
    startable_config,
)
from serve_app.deployments.ready import application_url
from serve_app.entrance.environment import HAPROXY_SWITCH
from serve_app.entrance.haproxy import BINARY_VARIABLE
from serve_app.errors import Fault, SetupFaults
from serve_app.service_folder import claimed_folder
from tests.certificates import write_certificate
from tests.conftest import Fitted
from tests.ports import free_port
from tests.redis_server import RedisServer
from tests.service import ROOT, read_config
from tests.startup_mistakes import BEGIN, END, MISTAKES, PAGE, Mistake, cell, rows, shown

RUN_S = 120
[THREE] = [each for each in MISTAKES if each.name == "three at once"]
PAGE_TEXT = PAGE.read_text(encoding="utf-8")


def messages(mistake: Mistake, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what a start with this mistake says, in this process."""
    port = free_port()
    if mistake.missing_package is not None:
        monkeypatch.setitem(sys.modules, mistake.missing_package, None)
    with mistake.made(folder, port) as (config, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SetupFaults) as caught:
            startable_config(config, is_to_listen=True)
    return shown(str(caught.value), folder, port).splitlines()


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_each_mistake_is_told_as_the_page_says(
    mistake: Mistake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = messages(mistake, tmp_path, monkeypatch)
    assert {name: message for name, message, _ in rows(PAGE_TEXT)}[mistake.name] == cell(told)
    assert all("secret" not in line for line in told)
    for line in told:
        key, _, words = line.partition(": ")
        assert re.fullmatch(r"[\w.\[\]…]+", key), line
        assert "; " in words, line  # what is wrong, and what mends it


def test_the_page_has_every_mistake_once_in_their_order() -> None:
    assert [name for name, *_ in rows(PAGE_TEXT)] == [mistake.name for mistake in MISTAKES]
    assert PAGE_TEXT.count(BEGIN) == PAGE_TEXT.count(END) == 1


def assert_all_three(lines: Iterable[str]) -> None:
    assert [line.partition(": ")[0] for line in lines] == [
        "http_options.port", "applications[model].args.labels", "REDIS_URL",
    ]  # fmt: skip


def test_all_faults_are_told_at_once_and_nothing_is_started(tmp_path: Path) -> None:
    with THREE.made(tmp_path, free_port()) as (config, environment):
        done = subprocess.run(
            [sys.executable, "-m", "serve_app", str(config)], cwd=ROOT, env={**os.environ, **environment},
            capture_output=True, text=True, timeout=RUN_S, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    heads, _, lines = zip(*(line.partition(": ") for line in done.stderr.splitlines()), strict=True)
    assert set(heads) == {"error"}
    assert_all_three(list(lines))


def test_a_check_tells_all_faults_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with THREE.made(tmp_path, free_port()) as (config, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SetupFaults) as caught:
            _check(config)
    assert_all_three(caught.value.lines)


def test_a_shipped_config_has_no_fault_and_an_optional_redis_that_is_down_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:secret@127.0.0.1:9/0")
    config = Mistake("none").write(tmp_path, free_port())
    _, [warning] = startable_config(config, is_to_listen=False)
    assert warning.is_warning
    assert str(warning).startswith("REDIS_URL: Redis cannot be used: Connection refused; start Redis")
    assert "secret" not in str(warning)


def faults_with(variable: str, url: str) -> list[Fault]:
    return find_faults(Start(read_config("one_replica.yaml"), {variable: url, "RAY_AUTH_TOKEN": "x"}), CHECKS)


def test_two_models_with_one_job_queue_are_a_fault(own_redis: RedisServer) -> None:
    config = read_config("two_models.yaml")
    assert [*_queues(Start(config, {"REDIS_URL": own_redis.url}))] == []
    config["applications"][2]["args"].pop("jobs")
    [fault] = _queues(Start(config, {"REDIS_URL": own_redis.url}))
    assert str(fault).startswith("applications[cats].args.jobs.queue: the queue model is that of application model")
    assert [*_queues(Start(config, {}))] == []


def test_haproxy_is_a_program_where_it_takes_http(tmp_path: Path) -> None:
    program = tmp_path / "haproxy"
    program.touch(mode=0o600)
    environment = {BINARY_VARIABLE: str(program), HAPROXY_SWITCH: "1"}
    config = read_config("one_replica.yaml")
    [fault] = _haproxy(Start(config, environment))
    assert str(fault).startswith(
        f"{BINARY_VARIABLE}: {program} is no program, so nothing would take HTTP; write the whole"
    )
    assert [*_haproxy(Start(config, environment | {HAPROXY_SWITCH: "0"}))] == []
    assert [*_haproxy(Start(config, {BINARY_VARIABLE: str(program)}))] == []
    program.chmod(0o700)
    assert [*_haproxy(Start(config, environment))] == []


def test_https_needs_haproxy_and_a_certificate_and_is_in_the_addresses_that_are_told(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    write_certificate(cert, key)
    config = read_config("one_replica.yaml")
    [application, *_] = config["applications"]
    assert application_url(config, application).startswith("http://127.0.0.1:")
    assert [*_tls(Start(config, {}))] == []
    config["tls"] = {"cert": str(cert), "key": str(key)}
    assert application_url(config, application).startswith("https://127.0.0.1:")
    assert [*_tls(Start(config, {HAPROXY_SWITCH: "1"}))] == []
    [fault] = _tls(Start(config, {HAPROXY_SWITCH: "0"}))
    assert str(fault).startswith("tls: without HAProxy there is no HTTPS; ")
    key.unlink()
    [fault] = _tls(Start(config, {HAPROXY_SWITCH: "1"}))
    assert str(fault).startswith("tls.key: ")


def answer_as_a_web_server(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(1)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        while connection.recv(4096):
            pass


def test_a_redis_that_answers_is_no_fault_and_what_is_none_is_one(own_redis: RedisServer) -> None:
    assert faults_with("REDIS_URL", own_redis.url) == []
    [refused] = faults_with("REDIS_URL", f"{own_redis.url.rpartition('/')[0]}/99999")
    assert not refused.is_warning
    assert "no database with the number" in str(refused)
    with socket.create_server(("127.0.0.1", 0)) as server:
        answering = threading.Thread(target=answer_as_a_web_server, args=(server,))
        answering.start()
        [other] = faults_with("REDIS_URL", f"redis://127.0.0.1:{server.getsockname()[1]}/0")
        answering.join()
    assert not other.is_warning
    assert "the server that answers there is not Redis" in str(other)


def test_a_check_that_hears_nothing_is_a_fault_and_holds_nothing_up() -> None:
    never = threading.Event()

    def wait(_: Start) -> list[Fault]:
        never.wait()
        return []

    start = Start(read_config("one_replica.yaml"), {})
    [fault] = find_faults(start, (Check("DATABASE_URL", wait),), longest_s=0.01)
    never.set()
    assert str(fault).startswith("DATABASE_URL: no answer within 0.01 s")


def test_a_check_that_reads_large_files_is_waited_for() -> None:
    read = threading.Event()

    def find(_: Start) -> Iterator[Fault]:
        assert read.wait(RUN_S)
        yield Fault("weights", "the file is damaged", "name another one")

    threading.Timer(0.5, read.set).start()
    checks = (Check("weights", find, reads_files=True),)
    [fault] = find_faults(Start(read_config("one_replica.yaml"), {}), checks, longest_s=0.1)
    assert str(fault) == "weights: the file is damaged; name another one"
    [sources] = [check for check in CHECKS if check.key.endswith("weights")]
    assert sources.reads_files


def test_a_port_in_use_stops_a_start_and_is_a_warning_of_a_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as other:
        port, metrics = taken.getsockname()[1], other.getsockname()[1]
        monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
        monkeypatch.setenv("RAY_SERVE_HAPROXY_METRICS_PORT", str(metrics))
        config = Mistake("taken").write(tmp_path, port)
        _, told = startable_config(config, is_to_listen=False)
        assert [(fault.key, fault.is_warning) for fault in told] == [
            ("RAY_SERVE_HAPROXY_METRICS_PORT", True), ("http_options.port", True),
        ]  # fmt: skip
        with pytest.raises(SetupFaults) as caught:
            startable_config(config, is_to_listen=True)
    assert [line.partition(": ")[0] for line in caught.value.lines] == [fault.key for fault in told]
    assert f"port {metrics} cannot be used (Address already in use); free it" in str(caught.value)


def test_the_port_of_a_running_service_is_no_fault_of_a_check(
    short_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVE_APP_RUN_DIR", str(short_folder))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with claimed_folder(port, is_over=lambda: True):
            _, told = startable_config(Mistake("runs").write(tmp_path, port), is_to_listen=False)
    assert told == []


def test_hosts_whose_names_are_looked_up_without_end_are_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of the libraries are for each address, and none of them bounds a name server that says nothing."""
    ended = threading.Event()
    look_up = socket.getaddrinfo

    def look_up_slowly(host: object, *args: Any, **options: Any) -> Any:
        if host == "silent.example":
            ended.wait()
            raise socket.gaierror
        return look_up(host, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", look_up_slowly)
    config = read_config("one_replica.yaml")
    url = "http://silent.example/labels.json"
    config["applications"][1]["args"] |= {"weights": "random", "labels": url, "labels_sha256": "0" * 64}
    addresses = {"DATABASE_URL": "postgresql://silent.example/x", "REDIS_URL": "redis://silent.example/0"}
    try:
        told = find_faults(Start(config, {**addresses, "RAY_AUTH_TOKEN": "x"}), CHECKS, longest_s=RUN_S)
        assert not ended.is_set()
    finally:
        ended.set()
    assert [fault.key for fault in told] == ["applications[model].args.labels", "DATABASE_URL", "REDIS_URL"]
    assert all("no answer in time; " in str(fault) for fault in told)


@pytest.mark.parametrize(("name", "place"), [(None, 1), (7, 7)])
def test_a_name_that_is_none_is_one_line_beside_what_else_is_wrong(
    tmp_path: Path, name: int | None, place: int
) -> None:
    config = read_config("one_replica.yaml")
    model = config["applications"][1]
    model |= {"name": name, "args": {**model["args"], "labels": "/no/such.txt"}}
    if name is None:
        del model["name"]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(SetupFaults) as caught:
        startable_config(path, is_to_listen=False)
    told = [line.partition(": ")[0] for line in caught.value.lines]
    assert told == [f"applications[{place}].name", f"applications[{name}].args.labels"]


GRPC = {"grpc_servicer_functions": ["serve_app.open_inference.grpc_service:x"]}
SCALED = "applications[model].deployments[Classifier].autoscaling_config"
OF_ANOTHER_KIND: list[Any] = [[], [1], "abc", 1.5, -1, 10**18, True, float("nan"), float("inf"), {1: 2}, [None], "\0"]


@pytest.mark.parametrize("value", OF_ANOTHER_KIND, ids=repr)
@pytest.mark.parametrize("key", ["grpc_options.port", "http_options.port", "http_options.host", SCALED])
def test_a_value_of_another_kind_is_a_line_with_its_key_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: Any
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    config = read_config("one_replica.yaml")
    config["http_options"]["port"] = free_port()
    model = config["applications"][1]
    model["args"]["weights"] = "random"
    if key == SCALED:
        model["deployments"][0] |= {"num_replicas": "auto", "autoscaling_config": value}
    else:
        config["grpc_options"] = {**GRPC, "port": free_port()}
        config[key.partition(".")[0]][key.partition(".")[2]] = value
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(SetupFaults) as caught:
        startable_config(path, is_to_listen=False)
    assert any(line.startswith(key) for line in caught.value.lines)


def test_a_home_whose_name_is_too_long_is_told_and_such_a_folder_is_passed_over() -> None:
    too_long = f"/{300 * 'x'}"
    start = Start(read_config("one_replica.yaml"), {"HOME": too_long, "TMPDIR": too_long})
    assert "HOME" in [fault.key for fault in find_faults(start, (*CHECKS, CHECKS_OF_PORT[0]))]


def test_redis_is_asked_once_for_several_models() -> None:
    [warning] = find_faults(
        Start(read_config("two_models.yaml"), {"REDIS_URL": "redis://127.0.0.1:9/0", "RAY_AUTH_TOKEN": "x"}), CHECKS
    )
    assert warning.is_warning


def test_whole_weights_of_a_resnet50_are_no_fault(fitted: Fitted, tmp_path: Path) -> None:
    whole, cut = ClassifierSettings(weights=str(fitted.weights)), tmp_path / "cut.h5"
    assert list(find_source_faults(whole)) == []
    cut.write_bytes(fitted.weights.read_bytes()[:50_000_000])
    [fault] = find_source_faults(ClassifierSettings(weights=str(cut)))
    assert "not a complete file of Keras weights" in str(fault)


def test_serve_run_is_told_of_weights_before_a_replica_starts() -> None:
    with pytest.raises(SetupFaults, match=r"^weights: /no/such\.h5 cannot be read"):
        model.build(ClassifierSettings(auth="none", weights="/no/such.h5"))
