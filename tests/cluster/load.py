"""`python -m tests.cluster.load ADDRESS… --for-s S` asks every node's HAProxy, and prints one JSON line per request.

Own load, not the kit's: it must ask several addresses at once, each as if it were the only one, and go on while one of
them is gone. Each address gets its own clients, which send at fixed moments, whether answers come or not.
"""

import argparse
import asyncio
import io
import json
import time

import httpx
import numpy as np
from PIL import Image

LOOKUP, PREDICT = "lookup", "predict"
ANSWER_S = 30.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("addresses", nargs="+")
    parser.add_argument("--key", required=True)
    parser.add_argument("--for-s", type=float, required=True)
    parser.add_argument("--rate", type=float, default=4, help="requests per second to each address")
    asyncio.run(_load(parser.parse_args()))


async def _load(arguments: argparse.Namespace) -> None:
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=20)
    headers = {"X-API-Key": arguments.key}
    end = time.monotonic() + arguments.for_s
    async with (
        httpx.AsyncClient(headers=headers, timeout=ANSWER_S, limits=limits) as http,
        asyncio.TaskGroup() as asking,
    ):
        for address in arguments.addresses:
            asking.create_task(_ask_steadily(http, address, 1 / arguments.rate, end))


async def _ask_steadily(http: httpx.AsyncClient, address: str, every_s: float, end: float) -> None:
    random = np.random.default_rng(int(address.rpartition(".")[2]))
    number, due = 0, time.monotonic()
    async with asyncio.TaskGroup() as asking:
        while time.monotonic() < end:
            kind = PREDICT if number % 2 else LOOKUP
            asking.create_task(_ask(http, address, kind, _picture(random)))
            number, due = number + 1, due + every_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))


async def _ask(http: httpx.AsyncClient, address: str, kind: str, picture: bytes) -> None:
    begun, url = time.time(), f"http://{address}:8000"
    try:
        if kind == LOOKUP:
            status = (await http.get(f"{url}/user/1")).status_code
        else:
            status = (await http.post(f"{url}/model/predict", content=picture)).status_code
        fault = ""
    except httpx.HTTPError as exc:
        status, fault = 0, type(exc).__name__
    row = {"at": begun, "address": address, "kind": kind, "status": status, "fault": fault, "s": time.time() - begun}
    print(json.dumps(row), flush=True)


def _picture(random: np.random.Generator) -> bytes:
    """Return a picture that no cache knows."""
    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    main()
