"""Downloads pictures: http and https only, limited in bytes, time and redirects. Imports httpx, as `service` does."""

import asyncio

import httpx

from serve_app.client.errors import FETCH_FAILED, TOO_LARGE, ItemError
from serve_app.client.patience import Patience, read_retry_after
from serve_app.client.service import TRANSIENT, describe, open_client

MAX_REDIRECTS = 5
FETCH_S = 30.0
"""Time limit of one attempt, redirects included."""

_CONNECT_S = 5.0
_SILENT_S = 10.0
_HEADERS = {
    "Accept": "image/*",
    # A compressed body could expand to any size.
    "Accept-Encoding": "identity",
    "User-Agent": "serve-app-client",
}


class Downloads:
    """Fetches URLs; close it with `aclose`. It does not know the API key."""

    def __init__(self, patience: Patience) -> None:
        """Prepare to download. Raises UsageError as `open_client` does."""
        self._patience = patience
        self._http = open_client(
            uses_tls=True,
            headers=_HEADERS,
            follow_redirects=True,
            max_redirects=MAX_REDIRECTS,
            timeout=httpx.Timeout(_SILENT_S, connect=_CONNECT_S, pool=None),
        )

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def fetch(self, url: str, max_bytes: int) -> bytes:
        """Return the body at `url`. Raises ItemError, also where a limit is exceeded."""
        return await self._patience.insist(lambda: self._attempt(url, max_bytes))

    async def _attempt(self, url: str, max_bytes: int) -> bytes:
        try:
            async with asyncio.timeout(FETCH_S), self._http.stream("GET", url) as answer:
                _check(answer)
                return await _read_bounded(answer, max_bytes)
        except TimeoutError as exc:
            raise ItemError(FETCH_FAILED, f"not complete within {FETCH_S:g} s", is_transient=True) from exc
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects, ValueError) as exc:
            # Without the message of httpx, which quotes parts of the URL.
            reason = f"{type(exc).__name__} (http and https, {MAX_REDIRECTS} redirects)"
            raise ItemError(FETCH_FAILED, f"cannot be fetched: {reason}") from exc
        except httpx.RequestError as exc:
            raise ItemError(FETCH_FAILED, f"cannot be fetched: {describe(exc)}", is_transient=True) from exc


def _check(answer: httpx.Response) -> None:
    if not answer.is_success:
        raise ItemError(
            FETCH_FAILED,
            f"cannot be fetched: status {answer.status_code} {answer.reason_phrase}".strip(),
            status=answer.status_code,
            is_transient=answer.status_code in TRANSIENT,
            retry_after_s=read_retry_after(answer.headers.get("Retry-After")),
        )
    encoding = answer.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity":
        raise ItemError(FETCH_FAILED, f"is compressed ({encoding[:40]}) although the request did not allow it")


async def _read_bounded(answer: httpx.Response, max_bytes: int) -> bytes:
    picture = bytearray()
    async for chunk in answer.aiter_raw():
        picture += chunk
        if len(picture) > max_bytes:
            raise ItemError(TOO_LARGE, f"more than {max_bytes:,} bytes, the limit of the service")
    return bytes(picture)
