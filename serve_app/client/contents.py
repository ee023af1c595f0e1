"""Reads the bytes of one item, no more than the service accepts."""

import asyncio
import os
import threading
from concurrent.futures import Future
from pathlib import Path

from serve_app.client.downloads import Downloads
from serve_app.client.errors import TOO_LARGE, UNREADABLE_FILE, ItemError
from serve_app.client.items import STANDARD_INPUT, Item


class Contents:
    """The bytes of files, pipes and URLs; `downloads` may be None where no item is a URL."""

    def __init__(self, downloads: Downloads | None, max_bytes: int) -> None:
        self._downloads = downloads
        self._max_bytes = max_bytes

    async def read(self, item: Item) -> bytes:
        """Return the item's bytes. Raises ItemError."""
        if item.is_url:
            assert self._downloads is not None
            return await self._downloads.fetch(item.source, self._max_bytes)
        return await _read_in_thread(item.source, self._max_bytes)


async def _read_in_thread(path: str, max_bytes: int) -> bytes:
    """Return the file's bytes. Raises ItemError.

    A daemon thread: those of asyncio would keep the process after Ctrl-C while a pipe has no writer.
    """
    outcome: Future[bytes | ItemError] = Future()
    outcome.set_running_or_notify_cancel()  # so that it cannot be cancelled, and takes the thread's result at any time

    def read() -> None:
        data: bytes | ItemError = ItemError(UNREADABLE_FILE, "cannot be read")
        try:
            data = _read_file(path, max_bytes)
        finally:
            outcome.set_result(data)

    threading.Thread(target=read, daemon=True).start()
    data = await asyncio.wrap_future(outcome)
    if isinstance(data, ItemError):
        raise data
    return data


def _read_file(path: str, max_bytes: int) -> bytes | ItemError:
    try:
        with os.fdopen(os.dup(0), "rb") if path == STANDARD_INPUT else Path(path).open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as exc:
        return ItemError(UNREADABLE_FILE, f"cannot be read: {exc.strerror}")
    if len(data) > max_bytes:
        return ItemError(TOO_LARGE, f"more than {max_bytes:,} bytes, the limit of the service")
    return data
