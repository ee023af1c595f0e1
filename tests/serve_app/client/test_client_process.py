"""The client as people start it, in a process of its own: signals, pipes, terminals, what it loads."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.conftest import Fitted
from tests.known_service import AT_ONCE, SILENCE, Held, KnownService, known_service
from tests.ports import free_port
from tests.service import adapted, launcher, own_environment, service, write_config

RUN_S = 120.0
MOST_MODULES = 500
"""Of an interpreter that is ready to ask; 355 of them, a third of Python's own start, take 0.3 s."""
MOST_RSS_BYTES = 100_000_000
HEAVY = ("ray", "tensorflow", "sqlalchemy", "PIL", "redis", "fastapi", "pydantic", "numpy", "serve_app.errors")


@pytest.fixture
def known() -> Iterator[KnownService]:
    with known_service() as running:
        yield running


def command(known: KnownService, *arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "serve_app.client", "--server", known.url, *map(str, arguments)]


def start(arguments: list[str], *, stderr: int = subprocess.PIPE) -> "subprocess.Popen[str]":
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=stderr, text=True)


def make_pictures(folder: Path, count: int, size: int = 0) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:04}.jpg").write_bytes(f"label:thing {number}:".encode().ljust(size))
    return folder


def interrupt(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Press Ctrl-C and return exit code, standard output and standard error."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=RUN_S)
    return process.returncode, out, err


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Return when what the client does has made the condition true; fails at once when it has ended."""
    deadline_s = time.monotonic() + RUN_S
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_ctrl_c_leaves_what_was_answered_and_resume_does_the_rest(known: KnownService, tmp_path: Path) -> None:
    folder, output = make_pictures(tmp_path / "many", 40), tmp_path / "out.jsonl"
    known.trouble.extend([AT_ONCE] * 10 + [SILENCE] * 30)
    process = start(command(known, folder, "--output", output, "--parallel", "2"))
    # Two at a time: who asks for the twelfth has the answers to ten.
    wait_until(lambda: len(known.requests("POST", "/model/predict")) == 12, process)
    code, out, err = interrupt(process)
    answered = output.read_text().splitlines()
    assert (code, out) == (130, "")
    assert "Traceback" not in err
    assert "the same command with --resume continues from here" in err
    assert err.endswith("stopped by Ctrl-C\n")
    assert len(answered) == 10
    known.trouble.clear()
    subprocess.run(command(known, folder, "--output", output, "--resume"), check=True, timeout=RUN_S)
    answers = [json.loads(line) for line in output.read_text().splitlines()]
    names = [answer["prediction"]["prediction"] for answer in answers]
    assert sorted(names) == sorted(f"thing {number}" for number in range(40))


def test_ctrl_c_names_a_job_that_has_ended_too_if_its_results_were_not_written(
    known: KnownService, tmp_path: Path
) -> None:
    known.file_s, known.max_job_files = 3600, 2
    process = start(command(known, make_pictures(tmp_path / "many", 4), "--jobs"))
    wait_until(lambda: len(known.jobs) == 2, process)
    known.jobs["job-0"].file_s = 0.001
    wait_until(lambda: len(known.requests("GET", "/model/jobs/job-1")) >= 1, process)
    code, _, err = interrupt(process)
    assert code == 130
    assert "--job job-0 --job job-1 --cancel " in err


def test_ctrl_c_leaves_jobs_to_the_service_and_says_how_to_fetch_them(known: KnownService, tmp_path: Path) -> None:
    known.file_s = 3600
    process = start(command(known, make_pictures(tmp_path / "many", 4), "--jobs", "--batch", "2"))
    wait_until(lambda: len(known.requests("GET", "/model/jobs/job-1")) >= 1, process)
    code, out, err = interrupt(process)
    assert (code, out) == (130, "")
    assert "the results of 2 job(s) are left in the service" in err
    assert f"python -m serve_app.client --server {known.url} --job job-0 --job job-1 --cancel " in err
    for job in known.jobs.values():
        job.file_s = 0.001
    told = [sys.executable, *re.findall(r"python (-m .*--job job-1) +waits", err)[0].split(), "--format", "jsonl"]
    fetched = subprocess.run(told, check=True, capture_output=True, text=True, timeout=RUN_S)
    answers = [json.loads(line) for line in fetched.stdout.splitlines()]
    assert [answer["prediction"]["prediction"] for answer in answers] == [f"thing {number}" for number in range(4)]


def test_a_terminal_shows_a_bar_and_standard_output_has_nothing_of_it(known: KnownService, tmp_path: Path) -> None:
    known.weights = "random"
    seen = threading.Event()
    known.trouble.extend([AT_ONCE] * 5 + [Held(lambda _: seen.is_set())] * 3)
    ours, theirs = pty.openpty()
    process = start(command(known, make_pictures(tmp_path / "many", 8), "--format", "jsonl"), stderr=theirs)
    os.close(theirs)
    shown = bytearray()
    reader = threading.Thread(target=read_all, args=(ours, shown))
    reader.start()
    wait_until(lambda: re.search("[━╸╺]{10}.*5/8", shown.decode(errors="ignore")) is not None, process)
    seen.set()
    out, _ = process.communicate(timeout=RUN_S)
    reader.join(RUN_S)
    os.close(ours)
    assert process.returncode == 0
    assert [json.loads(line)["file"][-8:] for line in out.splitlines()] == [f"{number:04}.jpg" for number in range(8)]
    assert "RANDOM" in shown.decode()


def test_without_a_terminal_standard_error_is_plain_lines(known: KnownService, tmp_path: Path) -> None:
    environment = {**os.environ, "FORCE_COLOR": "1", "TTY_INTERACTIVE": "1"}
    ended = subprocess.run(
        command(known, make_pictures(tmp_path / "many", 3), "--format", "csv"),
        capture_output=True, text=True, check=True, timeout=RUN_S, env=environment,
    )  # fmt: skip
    assert len(ended.stdout.splitlines()) == 4
    assert re.fullmatch(r"3 classified; \d+\.\d s\n", ended.stderr)


def test_a_reader_that_has_gone_ends_it_quietly(known: KnownService, tmp_path: Path) -> None:
    gone = threading.Event()
    known.trouble.extend([AT_ONCE] + [Held(lambda _: gone.is_set())] * 49)
    process = start(command(known, make_pictures(tmp_path / "many", 50), "--format", "csv", "--parallel", "1"))
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    gone.set()
    assert process.wait(RUN_S) == 1
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


def test_it_loads_little_and_nothing_of_the_service() -> None:
    script = "import sys; from serve_app.client import command, table; print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    modules = ended.stdout.split()
    assert "serve_app.client.table" in modules
    assert not set(HEAVY) & set(modules)
    assert len(modules) < MOST_MODULES


@pytest.mark.long
@pytest.mark.parametrize("mode", [[], ["--jobs", "--batch", "100"]], ids=["predict", "jobs"])
def test_thousands_of_pictures_are_never_in_memory_together(
    known: KnownService, tmp_path: Path, mode: list[str]
) -> None:
    """2,000 pictures of 200 kB are 400 MB."""
    known.max_upload_bytes, known.file_s = 300_000, 0.0001
    folder, output = make_pictures(tmp_path / "many", 2000, size=200_000), tmp_path / "out.csv"
    process = psutil.Popen(command(known, folder, "--output", output, *mode), stderr=subprocess.DEVNULL)
    most_rss_bytes = 0
    while process.poll() is None:  # its ru_maxrss would count what this process had when it was started
        with suppress(psutil.Error):
            most_rss_bytes = max(most_rss_bytes, process.memory_info().rss)
        time.sleep(0.01)
    assert process.returncode == 0
    assert len(output.read_text().splitlines()) == 2001
    assert 0 < most_rss_bytes < MOST_RSS_BYTES


@pytest.mark.long
def test_the_real_service_classifies_a_folder(tmp_path: Path, fitted: Fitted) -> None:
    port = free_port()
    config = write_config(tmp_path, adapted("one_replica.yaml", port=port, model_args=fitted.args))
    (tmp_path / "pictures").mkdir()
    for label, picture in fitted.pictures.items():
        (tmp_path / "pictures" / f"{label}.jpg").write_bytes(picture)
    (tmp_path / "pictures" / "zz_broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    output = tmp_path / "out.jsonl"
    with service(launcher(config), own_environment(tmp_path), tmp_path, port) as running:
        running.wait_until_ready()
        arguments = ["--server", running.url, str(tmp_path / "pictures"), "--output", str(output), "--top-k", "3"]
        ended = subprocess.run(
            [sys.executable, "-m", "serve_app.client", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=RUN_S,
        )
        answers = [json.loads(line) for line in output.read_text().splitlines()]
        assert running.stop() == 0
    *good, broken = answers
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "RANDOM" not in ended.stderr
    assert [answer["prediction"]["prediction"] for answer in good] == sorted(fitted.pictures)
    assert {len(answer["prediction"]["predictions"]) for answer in good} == {3}
    assert broken["error"]["code"] == "unreadable_image"


def read_all(terminal: int, shown: bytearray) -> None:
    """Add to `shown` what is printed on a terminal until its other end is closed."""
    with suppress(OSError):  # how Linux says so
        while chunk := os.read(terminal, 4096):
            shown.extend(chunk)
