"""Requests that are under way in a service while it is stopped, of every kind, and what comes of them."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from serve_app.entrance.haproxy_admin import count_in_ingress
from serve_app.service_folder import folder_of
from tests.conftest import Fitted
from tests.service import (
    PATIENT_MODEL,
    START_S,
    Service,
    adapted,
    launcher,
    own_environment,
    processes_of,
    service,
    write_config,
)

PATIENT = {**PATIENT_MODEL, "upload_timeout_s": START_S}

HELD, PASSED_ON = 4, 4
WHOLE = 8
LARGE_BYTES = 300_000
"""Of an upload that HAProxy passes on at once; it waits for a smaller one."""


@contextmanager
def patient_service(
    folder: Path, fitted: Fitted, port: int, around: Callable[[list[str]], list[str]] = lambda command: command
) -> Iterator[Service]:
    """Yield the ready service of one_replica.yaml, which takes its time to stop; `around` may change its command."""
    config = write_config(folder, adapted("one_replica.yaml", port=port, model_args=fitted.args | PATIENT))
    command = around([*launcher(config), "--drain-s", str(START_S)])
    with service(command, own_environment(folder), folder, port) as started:
        started.wait_for_ready_block()
        started.wait_until_routed()  # what an older HAProxy has could not be counted
        yield started


@dataclass
class SlowUpload:
    """A prediction of which half has been sent."""

    connection: socket.socket
    rest: bytes

    @classmethod
    def of(cls, port: int, picture: bytes, key: str) -> "SlowUpload":
        fields = f"Host: x\r\nX-API-Key: {key}\r\nContent-Length: {len(picture)}"
        head = f"POST /model/predict HTTP/1.1\r\n{fields}\r\n\r\n".encode()
        connection = socket.create_connection(("127.0.0.1", port), timeout=START_S)
        connection.sendall(head + picture[: len(picture) // 2])
        return cls(connection, picture[len(picture) // 2 :])

    def finish(self) -> dict[str, object]:
        """Send the other half and return the answer's body. Fails without an answer of 200."""
        self.connection.sendall(self.rest)
        with self.connection, self.connection.makefile("rb") as file:
            status = file.readline()
            assert status.startswith(b"HTTP/1.1 200 "), status
            length = 0
            while (line := file.readline().strip()) != b"":
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            answer: dict[str, object] = json.loads(file.read(length))
            return answer


async def stop_under_load(running: Service, fitted: Fitted, stop: Callable[[], None], key: str = "none") -> None:
    """Call `stop` while requests are under way, and assert that each is answered, and that later ones are refused.

    The requests carry `key`, of which a service without keys takes no notice.
    """
    folder = folder_of(running.port)
    label, picture = "thing 7", fitted.pictures["thing 7"]
    large = picture + bytes(LARGE_BYTES - len(picture))
    limits = httpx.Limits(max_connections=WHOLE, max_keepalive_connections=WHOLE)
    headers = {"X-API-Key": key}
    left_behind = count_passed_on(folder)  # by replicas that were killed
    async with (
        httpx.AsyncClient(base_url=running.url, timeout=START_S, limits=limits, headers=headers) as whole,
        httpx.AsyncClient(base_url=running.url, timeout=START_S, headers=headers) as kept,
    ):
        assert (await kept.get("/user/1")).status_code == 200
        slow = [SlowUpload.of(running.port, data, key) for data in [*[picture] * HELD, *[large] * PASSED_ON]]
        sent = [asyncio.create_task(whole.post("/model/predict", content=picture)) for _ in range(WHOLE)]

        def have_come() -> bool:
            known = count_in_ingress(folder) + sum(task.done() for task in sent)
            return known >= HELD + PASSED_ON + WHOLE and count_passed_on(folder) >= left_behind + PASSED_ON

        await asyncio.to_thread(running.wait_for, have_come, "all requests")
        stop()
        await asyncio.to_thread(running.wait_for, lambda: "answering" in running.printed(), "the end of new requests")
        await expect_refusals(kept, running.port)
        answers = await asyncio.gather(*(asyncio.to_thread(upload.finish) for upload in slow))
        answers += [response.raise_for_status().json() for response in await asyncio.gather(*sent)]
    assert [answer["prediction"] for answer in answers] == [label] * (HELD + PASSED_ON + WHOLE)
    assert running.process.wait(START_S) == 0
    assert "were not answered" not in running.printed()
    assert "stopped" in running.printed()
    expect_nothing_left(running, folder)


def count_passed_on(folder: Path) -> int:
    """Return how many requests the replicas say that they work on, whatever process numbers they have in their pod."""
    counts = [file.read_bytes() for file in (folder / "requests").glob("*")]
    return sum(int.from_bytes(count, sys.byteorder, signed=True) for count in counts)


async def expect_refusals(kept: httpx.AsyncClient, port: int) -> None:
    """Assert that a request on a connection from before gets 503, and that no new connection is taken."""
    refused = await kept.get("/user/1")
    assert (refused.status_code, refused.json()["code"]) == (503, "stopping")
    assert refused.headers["Connection"] == "close"
    assert int(refused.headers["Retry-After"]) > 0
    with socket.socket() as later:
        assert later.connect_ex(("127.0.0.1", port)) != 0


def expect_nothing_left(running: Service, folder: Path) -> None:
    deadline = time.monotonic() + START_S
    while left := processes_of(running.environment):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    assert not folder.exists()


def press_ctrl_c(running: Service) -> None:
    """Send SIGINT as a terminal does: to every process of the group."""
    os.killpg(running.process.pid, signal.SIGINT)


def terminate_only_child(running: Service) -> None:
    [child] = psutil.Process(running.process.pid).children()
    child.terminate()
