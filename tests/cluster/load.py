"""`python -m tests.cluster.load ADDRESS… --for-s S` asks every node's HAProxy, and prints one JSON line per request.

Own load, not the kit's: it must ask several addresses at once, each as if it were the only one, and go on while one of
them is gone. Each address gets its own clients, which send at fixed moments, whether answers come or not. After SIGTERM
it sends nothing more and ends with exit code 0 once every request has its line, with status 0 if it had no answer
within ANSWER_S.
"""

import argparse
import asyncio
import io
import json
import signal
import time

import httpx
import numpy as np
from PIL import Image

LOOKUP, PREDICT = "lookup", "predict"
ANSWER_S = 30.0
RATE = 4.0
"""Requests per second to each address."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("addresses", nargs="+")
    parser.add_argument("--key", required=True)
    parser.add_argument("--for-s", type=float, required=True)
    parser.add_argument("--rate", type=float, default=RATE, help="requests per second to each address")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--answer-s", type=float, default=ANSWER_S, help="longest wait for an answer")
    asyncio.run(_load(parser.parse_args()))


async def _load(arguments: argparse.Namespace) -> None:
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=20)
    headers = {"X-API-Key": arguments.key}
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    asyncio.get_running_loop().call_later(arguments.for_s, stop.set)
    async with (
        httpx.AsyncClient(headers=headers, timeout=arguments.answer_s, limits=limits) as http,
        asyncio.TaskGroup() as asking,
    ):
        for address in arguments.addresses:
            asking.create_task(_ask_steadily(_Client(http, address, arguments), 1 / arguments.rate, stop))


async def _ask_steadily(client: "_Client", every_s: float, stop: asyncio.Event) -> None:
    random = np.random.default_rng(int(client.address.rpartition(".")[2]))
    number, due = 0, time.monotonic()
    async with asyncio.TaskGroup() as asking:
        while not stop.is_set():
            kind = PREDICT if number % 2 else LOOKUP
            asking.create_task(client.ask(kind, _picture(random)))
            number, due = number + 1, due + every_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))


class _Client:
    """Asks one address, and prints what came of it."""

    def __init__(self, http: httpx.AsyncClient, address: str, arguments: argparse.Namespace) -> None:
        self.address = address
        self._http = http
        self._url = f"http://{address}:{arguments.port}"
        self._answer_s = arguments.answer_s

    async def ask(self, kind: str, picture: bytes) -> None:
        begun = time.time()
        try:
            async with asyncio.timeout(self._answer_s):  # httpx counts connecting, sending and reading each for itself
                status, fault = await self._status(kind, picture), ""
        except (httpx.HTTPError, TimeoutError) as exc:
            status, fault = 0, type(exc).__name__
        row = {"at": begun, "address": self.address, "kind": kind, "status": status, "fault": fault}
        print(json.dumps(row | {"s": time.time() - begun}), flush=True)

    async def _status(self, kind: str, picture: bytes) -> int:
        if kind == LOOKUP:
            return (await self._http.get(f"{self._url}/user/1")).status_code
        return (await self._http.post(f"{self._url}/model/predict", content=picture)).status_code


def _picture(random: np.random.Generator) -> bytes:
    """Return a picture that no cache knows."""
    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    main()
