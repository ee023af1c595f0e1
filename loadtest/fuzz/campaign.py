"""Sends the requests of one campaign, several at a time, and keeps those that the service failed on."""

import asyncio
import itertools
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from loadtest.errors import BadInputError
from loadtest.fuzz.memory import MemoryWatch
from loadtest.fuzz.request import FuzzRequest
from loadtest.fuzz.tally import Answer, Outcome, Tally
from loadtest.plan.target_key import VARIABLE, key_headers

ANSWER_TIMEOUT_S = 60.0
"""For a whole request, from connecting to the end of the answer."""

LEAST_FOR_MEMORY = 1000
"""Inputs before growth means anything: caches and pools fill up at first."""

_READ_EVERY_S = 0.25
_CHUNK_BYTES = 7_000


@dataclass(frozen=True)
class NamedRequest:
    """A request and the name of the file in which it is kept if the service fails on it."""

    name: str
    request: FuzzRequest


@dataclass(frozen=True)
class Campaign:
    """What to send where."""

    url: str
    valid: Iterable[FuzzRequest]
    """Sent first, up to one that is accepted; none in a replay."""
    requests: Iterable[NamedRequest]
    inputs: int
    seed: int
    at_a_time: int
    most_s: float
    watched: Sequence[psutil.Process]
    """Whose memory is to stay flat."""
    folder: Path
    """For the requests that the service failed on."""

    @property
    def longest_s(self) -> float:
        """Return how long the inputs take at most, s: no request begins after `most_s` or lasts ANSWER_TIMEOUT_S."""
        return ANSWER_TIMEOUT_S + min(self.most_s, (math.ceil(self.inputs / self.at_a_time) - 1) * ANSWER_TIMEOUT_S)


async def run_campaign(campaign: Campaign, tell: Callable[[Tally], None], tally: Tally) -> Outcome:
    """Send everything and return the outcome; `tell` gets the `tally` several times a second.

    Raises BadInputError when no service answers at the URL, or it refuses all valid files: nothing would be tested.
    """
    started_s = time.monotonic()
    memory = MemoryWatch(campaign.watched)
    limits = httpx.Limits(max_connections=campaign.at_a_time, max_keepalive_connections=campaign.at_a_time)
    headers = key_headers()  # of the client, so that no saved input holds the key
    async with httpx.AsyncClient(
        base_url=campaign.url, limits=limits, timeout=ANSWER_TIMEOUT_S, headers=headers
    ) as client:
        await _expect_someone(client)
        await _expect_one_accepted(client, campaign.valid)
        deadline_s = started_s + campaign.most_s
        supply = itertools.takewhile(lambda _: time.monotonic() < deadline_s, campaign.requests)
        async with asyncio.TaskGroup() as group:  # Ctrl-C cancels them
            senders = {group.create_task(_send_all(client, supply, tally, campaign)) for _ in range(campaign.at_a_time)}
            while senders:
                _, senders = await asyncio.wait(senders, timeout=_READ_EVERY_S)
                spent_s = time.monotonic() - started_s
                memory.read(min(1.0, max(tally.inputs / campaign.inputs, spent_s / campaign.most_s)))
                tell(tally)
    is_judging = tally.inputs >= LEAST_FOR_MEMORY
    return Outcome(campaign.url, campaign.seed, time.monotonic() - started_s, tally, memory.figures(), is_judging)


async def send_request(client: httpx.AsyncClient, request: FuzzRequest) -> Answer:
    """Return the answer to one request, or how it failed."""
    url = client.base_url.copy_with(raw_path=request.target)
    content = _in_chunks(request.body) if request.is_chunked else request.body
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            response = await client.post(url, content=content, headers=list(request.headers))
    except (TimeoutError, httpx.TimeoutException):
        return Answer(None, fault="timeout")
    except httpx.DecodingError:
        return Answer(None, fault="undecodable")
    except httpx.TransportError:
        return Answer(None, fault="reset")
    return Answer(response.status_code, _code_of(response))


async def _expect_someone(client: httpx.AsyncClient) -> None:
    try:
        async with client.stream("GET", "/"):
            return
    except httpx.TransportError as exc:
        raise BadInputError(f"{client.base_url}: no service answers there ({exc}); start the service first") from exc


async def _expect_one_accepted(client: httpx.AsyncClient, valid: Iterable[FuzzRequest]) -> None:
    """Return when a valid request is accepted, or fails in a way that the campaign is to show."""
    refused = None
    for request in valid:
        answer = await send_request(client, request)
        if answer.is_offence or answer.is_success:
            return
        refused = refused or (request, answer)
    if refused is not None:
        request, answer = refused
        raise BadInputError(
            f"{client.base_url.copy_with(raw_path=request.target)}: refuses a valid file with {answer.status} "
            f"{answer.code}, so nothing would be tested; {_remedy(answer)}"
        )


def _remedy(answer: Answer) -> str:
    if answer.status in {401, 403}:
        return f"put a key of the service into {VARIABLE}"
    if answer.status in {404, 405}:
        return "name the path that takes files with --path"
    return "see --path and --files"


async def _send_all(
    client: httpx.AsyncClient, supply: Iterable[NamedRequest], tally: Tally, campaign: Campaign
) -> None:
    for named in supply:  # shared by all senders: each takes the next one
        answer = await send_request(client, named.request)
        tally.add(answer)
        if answer.is_offence:
            path = campaign.folder / f"{named.name}-{answer.status or answer.fault}.http"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(named.request.encode())
            except OSError as exc:  # a full disk, for one: the campaign still has its counts
                tally.unsaved[path] = exc.strerror or str(exc)
            else:
                tally.saved.append(path)


async def _in_chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _CHUNK_BYTES):
        yield body[start : start + _CHUNK_BYTES]


def _code_of(response: httpx.Response) -> str:
    try:
        code = response.json().get("code", "")
    except (ValueError, AttributeError):
        return "" if response.is_success else "not in the error shape"
    return code if isinstance(code, str) else ""
