"""Drives predictions from a few connections, each sending its next picture as soon as it has an answer.

One thread and one http.client connection each: a request costs this client some 0.3 ms of CPU time, the service
more than 30 ms. Counts between two moments of full load, so that neither ramp nor drain is in the rate.
"""

import http.client
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

import numpy as np

from tests.benchmarks.service import Service, cpu_by_role

TIMEOUT_S = 60
HEADERS = {"Content-Type": "image/jpeg"}


@dataclass(frozen=True)
class Pace:
    """How many connections send pictures, for how long before it counts, and for how long it counts."""

    connections: int
    warm_up_s: float
    duration_s: float


@dataclass(frozen=True)
class PredictionLoad:
    """What the clients saw in one round, and the CPU use meanwhile as `cpu_by_role` gives it."""

    images_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    images: int
    failures: int
    cpu_percent: dict[str, float]


@dataclass(frozen=True)
class _Exchange:
    ended: float
    latency_ms: float
    status: int  # 0: no answer


def run_predictions(service: Service, path: str, next_picture: Callable[[], bytes], pace: Pace) -> PredictionLoad:
    """Load POST `path` as `pace` says; return once nothing is under way.

    `next_picture` is called from several threads. Raises RuntimeError if no picture was classified.
    """
    began = time.monotonic() + pace.warm_up_s
    deadline = began + pace.duration_s
    stop = threading.Event()
    with ThreadPoolExecutor(pace.connections) as pool:
        try:
            url = f"{service.url}{path}"
            runs = [pool.submit(_send_until, url, next_picture, deadline, stop) for _ in range(pace.connections)]
            time.sleep(max(0.0, began - time.monotonic()))
            with cpu_by_role(service.processes_by_role) as usage:
                time.sleep(max(0.0, deadline - time.monotonic()))
        finally:
            stop.set()
        exchanges = [exchange for run in runs for exchange in run.result()]
    return _summarize(exchanges, began, deadline, usage)


def rate_between(ends: Sequence[float], began: float, deadline: float) -> float:
    """Return how many per second ended between two moments of full load.

    Whole batches end at once. So that a moment which cuts between two batches does not move the rate, time is counted
    from the last end before `began` to the last one before `deadline`.
    """
    first = max((end for end in ends if end <= began), default=min(ends))
    counted = [end for end in ends if first < end <= deadline]
    return len(counted) / (max(counted) - first) if counted else 0.0


def _summarize(exchanges: list[_Exchange], began: float, deadline: float, usage: dict[str, float]) -> PredictionLoad:
    answered = [exchange for exchange in exchanges if exchange.status == HTTPStatus.OK]
    latencies_ms = [exchange.latency_ms for exchange in answered if began < exchange.ended <= deadline]
    failures = len(exchanges) - len(answered)
    if not latencies_ms:
        raise RuntimeError(f"no prediction in {deadline - began:g} s; {failures} failures")
    p50_ms, p95_ms, p99_ms = (float(value) for value in np.percentile(latencies_ms, [50, 95, 99]))
    return PredictionLoad(
        images_per_s=rate_between([exchange.ended for exchange in answered], began, deadline),
        p50_ms=p50_ms,
        p95_ms=p95_ms,
        p99_ms=p99_ms,
        images=len(latencies_ms),
        failures=failures,
        cpu_percent=usage,
    )


def _send_until(url: str, next_picture: Callable[[], bytes], deadline: float, stop: threading.Event) -> list[_Exchange]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_S)
    exchanges = []
    while time.monotonic() < deadline and not stop.is_set():
        picture = next_picture()
        began = time.monotonic()
        status = _post(connection, parts.path, picture)
        ended = time.monotonic()
        exchanges.append(_Exchange(ended, 1000 * (ended - began), status))
    connection.close()
    return exchanges


def _post(connection: http.client.HTTPConnection, path: str, picture: bytes) -> int:
    try:
        connection.request("POST", path, picture, HEADERS)
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        connection.close()  # the next request opens it again
        return 0
    return response.status
