"""Reads one item's bytes, no more of them than the service takes."""

import asyncio
from pathlib import Path

from serve_app.client.downloads import Downloads
from serve_app.client.errors import TOO_LARGE, UNREADABLE_FILE, ItemError
from serve_app.client.items import Item


class Contents:
    """The bytes of files and URLs."""

    def __init__(self, downloads: Downloads, max_bytes: int) -> None:
        self._downloads = downloads
        self._max_bytes = max_bytes

    async def read(self, item: Item) -> bytes:
        """Return the item's bytes. Raises ItemError."""
        if item.is_url:
            return await self._downloads.fetch(item.source, self._max_bytes)
        return await asyncio.to_thread(_read_file, item.source, self._max_bytes)


def _read_file(path: str, max_bytes: int) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as exc:
        raise ItemError(UNREADABLE_FILE, f"cannot be read: {exc.strerror}") from exc
    if len(data) > max_bytes:
        raise ItemError(TOO_LARGE, f"more than {max_bytes:,} bytes, the most that the service takes")
    return data
