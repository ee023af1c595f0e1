"""What can be known is told before Ray starts: every fault at once, each in one line with its key and remedy."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from serve_app.classifier.settings import ClassifierSettings
from serve_app.classifier.sources import LABELS_URL, find_source_faults
from serve_app.deployments import model
from serve_app.deployments.preflight import CHECKS, Check, Start, _queues, find_faults, startable_config
from serve_app.errors import Fault, SetupFaults
from tests.conftest import Fitted
from tests.redis_server import RedisServer
from tests.service import CONFIGS, ROOT, read_config
from tests.startup_mistakes import BEGIN, END, MISTAKES, PAGE, Mistake, cell, rows, shown, write_files

RUN_S = 120
PAGE_TEXT = PAGE.read_text(encoding="utf-8")


def messages(mistake: Mistake, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what a start with this mistake says, in this process."""
    write_files(folder)
    for name, value in mistake.variables(folder).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SetupFaults) as caught:
        startable_config(mistake.write(folder), is_to_listen=False)
    return shown(str(caught.value), folder).splitlines()


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_each_mistake_is_told_as_the_page_says(
    mistake: Mistake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = messages(mistake, tmp_path, monkeypatch)
    assert dict(rows(PAGE_TEXT))[mistake.name] == cell(told)
    assert all("secret" not in line and ": " in line for line in told)


def test_the_page_has_every_mistake_once_in_their_order() -> None:
    assert [name for name, _ in rows(PAGE_TEXT)] == [mistake.name for mistake in MISTAKES]
    assert PAGE_TEXT.count(BEGIN) == PAGE_TEXT.count(END) == 1


def run_launcher(mistake: Mistake, folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    write_files(folder)
    command = [sys.executable, "-m", "serve_app", *options, str(mistake.write(folder))]
    environment = {**os.environ, **mistake.variables(folder)}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=RUN_S, check=False
    )


@pytest.mark.parametrize("options", [(), ("--check",)])
def test_all_faults_are_told_at_once_and_nothing_is_started(tmp_path: Path, options: tuple[str, ...]) -> None:
    [mistake] = [each for each in MISTAKES if each.name == "three at once"]
    done = run_launcher(mistake, tmp_path, *options)
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    for line, key in zip(lines, ("http_options.port", "applications[model].args.labels", "REDIS_URL"), strict=True):
        assert line.startswith(f"error: {key}: ")


def test_a_shipped_config_has_no_fault_and_an_optional_redis_that_is_down_is_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:secret@127.0.0.1:9/0")
    _, [warning] = startable_config(CONFIGS / "one_replica.yaml", is_to_listen=False)
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
    assert str(fault).startswith("applications[cats].args.jobs.queue: model is also the queue of model")
    assert [*_queues(Start(config, {}))] == []


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


def test_the_port_must_be_free_only_for_a_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = Mistake("taken").write(tmp_path, port)
        startable_config(config, is_to_listen=False)
        with pytest.raises(SetupFaults, match=rf"http_options\.port: port {port} cannot be used"):
            startable_config(config, is_to_listen=True)


def test_whole_weights_of_a_resnet50_are_no_fault(fitted: Fitted, tmp_path: Path) -> None:
    whole, cut = ClassifierSettings(weights=str(fitted.weights)), tmp_path / "cut.h5"
    assert list(find_source_faults(whole)) == []
    cut.write_bytes(fitted.weights.read_bytes()[:50_000_000])
    [fault] = find_source_faults(ClassifierSettings(weights=str(cut)))
    assert "not a complete file of Keras weights" in str(fault)


def test_serve_run_is_told_of_weights_before_a_replica_starts() -> None:
    with pytest.raises(SetupFaults, match=r"^weights: /no/such\.h5 cannot be read"):
        model.build(ClassifierSettings(auth="none", weights="/no/such.h5"))


def test_the_imagenet_labels_are_asked_for_where_keras_fetches_them() -> None:
    from keras.src.applications import imagenet_utils

    assert imagenet_utils.CLASS_INDEX_PATH == LABELS_URL
