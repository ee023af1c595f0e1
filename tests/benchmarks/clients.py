"""Clients of httpx with kept connections, and what becomes of each of their requests.

httpx never sends a request again by itself: unlike Locust's and browsers' clients, it shows each connection that closes
under a request.
"""

import asyncio
import random
import time
from dataclasses import dataclass

import httpx

from serve_app.errors import ReplicaLost

TIMEOUT_S = 30
ANSWERED, LOST = "200", "lost"


@dataclass(frozen=True)
class Outcome:
    """What became of one request; times are seconds since 1970."""

    sent_unix_s: float
    ended_unix_s: float
    told: str
    """ANSWERED; status and code of a refusal in the error shape, as `503 not_ready`; LOST where there is neither.

    LOST, too, where the ingress says that it was lost with its replica.
    """


async def look_up(url: str, outcomes: list[Outcome], finished: asyncio.Event, *, most_pause_s: float) -> None:
    """Look a user up again and again, after a random pause of at most `most_pause_s`."""
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, trust_env=False) as http:
        while not finished.is_set():
            outcomes.append(await send(http.build_request("GET", f"/user/{random.randint(1, 1000)}"), http))
            await asyncio.sleep(random.uniform(0, most_pause_s))


async def predict(
    url: str, picture: bytes, outcomes: list[Outcome], finished: asyncio.Event, *, most_pause_s: float
) -> None:
    """Send a picture again and again. As `look_up`."""
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, trust_env=False) as http:
        while not finished.is_set():
            outcomes.append(await send(http.build_request("POST", "/model/predict", files={"file": picture}), http))
            await asyncio.sleep(random.uniform(0, most_pause_s))


async def send(request: httpx.Request, http: httpx.AsyncClient) -> Outcome:
    """Send a request once and return what becomes of it."""
    sent_unix_s = time.time()
    try:
        told = describe(await http.send(request))
    except httpx.HTTPError:
        told = LOST
    return Outcome(sent_unix_s, time.time(), told)


def describe(response: httpx.Response) -> str:
    """Return `told` of an Outcome."""
    if response.status_code == httpx.codes.OK:
        return ANSWERED
    try:
        code = response.json()["code"]
    except (ValueError, KeyError, TypeError):
        return LOST
    return LOST if code == ReplicaLost.code else f"{response.status_code} {code}"
