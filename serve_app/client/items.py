"""Finds the items to classify: files, the pictures in folders, URLs. Names are kept in memory, contents are not."""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from serve_app.client.errors import UsageError
from serve_app.client.plain_text import refused, without_login

SUFFIXES = frozenset({".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".webp"})
STANDARD_INPUT = "-"
NO_PICTURE = "no picture"
HIDDEN = "hidden"
NO_FILE = "not a regular file"
UNREADABLE = "unreadable"

_SCHEMES = ("http://", "https://")
_BYTE_ORDER_MARK = "\ufeff"
"""How editors of Windows begin a UTF-8 file."""
_HEAD_BYTES = 16
_MOST_EXAMPLES = 5
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True, slots=True)
class Item:
    """A picture to classify: `source` is its path or URL, or `-`; `name` is its name in the output."""

    name: str
    source: str
    is_url: bool = False


@dataclass
class Skipped:
    """The files in folders that are not sent: their number and some of their names, by reason."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, path: str) -> None:
        """Count one more file."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < _MOST_EXAMPLES:
            examples.append(path)


def find_items(arguments: Sequence[str], skipped: Skipped) -> Iterator[Item]:
    """Yield the items of the arguments in order; of a folder, its pictures sorted by name. Raises UsageError."""
    for argument in arguments:
        if argument.lower().startswith(_SCHEMES):
            yield _url_item(argument, refused(argument))
        elif argument == STANDARD_INPUT:
            yield Item("stdin", argument)
        elif os.path.isdir(argument):  # noqa: PTH112 names stay as they were given
            yield from _folder_items(argument, skipped)
        elif os.path.exists(argument):  # noqa: PTH110 a pipe too
            yield Item(display_name(argument), argument)
        else:
            raise UsageError(f"{refused(argument)}: no such file or folder; a URL begins with http:// or https://")


def url_items(lines: Iterable[str], origin: str) -> Iterator[Item]:
    """Yield an item for each line except empty ones and comments (#). Raises UsageError with the line's number."""
    for number, line in enumerate(lines, start=1):
        url = line.removeprefix(_BYTE_ORDER_MARK).strip()
        if url and not url.startswith("#"):
            yield _url_item(url, f"--urls {origin}, line {number}: {refused(url)[:200]}")


def display_name(path: str) -> str:
    """Return the name of `path` in the output: always text, and never a formula for a spreadsheet."""
    name = os.fsencode(path).decode("utf-8", "backslashreplace")
    return f"./{name}" if name.startswith(_FORMULA) else name


def media_type(data: bytes) -> str | None:
    """Return the media type of a picture by its first bytes; None if they are no picture's."""
    kinds = {b"\xff\xd8\xff": "jpeg", b"\x89PNG\r\n\x1a\n": "png", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp"}
    if not _is_picture(data[:_HEAD_BYTES]):
        return None
    return next(f"image/{kind}" for head, kind in kinds.items() if data.startswith(head))


def looks_like_picture(path: str) -> bool:
    """Return whether the suffix, or else the first bytes, indicate a picture. Raises OSError."""
    if os.path.splitext(path)[1].lower() in SUFFIXES:  # noqa: PTH122
        return True
    with Path(path).open("rb", buffering=0) as file:
        return _is_picture(file.read(_HEAD_BYTES))


def _is_picture(head: bytes) -> bool:
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")):
        return True
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    is_bmp = head[:2] == b"BM" and head[6:10] == bytes(4)  # reserved: text that begins with BM has letters there
    return is_webp or is_bmp


def _url_item(url: str, where: str) -> Item:
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_url = False
    if not is_url or not url.isprintable() or " " in url:
        raise UsageError(f"{where}: is not a URL such as http://host/picture.jpg (http and https only)")
    return Item(without_login(url), url, is_url=True)


def _folder_items(folder: str, skipped: Skipped) -> Iterator[Item]:
    def tell_unreadable(error: OSError) -> None:
        skipped.add(UNREADABLE, str(error.filename))

    for parent, folders, files in os.walk(folder, onerror=tell_unreadable):
        for name in sorted(folders):
            if name.startswith("."):
                skipped.add(HIDDEN, os.path.join(parent, name))  # noqa: PTH118
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = os.path.join(parent, name)  # noqa: PTH118
            reason = _reason_to_skip(name, path)
            if reason is None:
                yield Item(display_name(path), path)
            else:
                skipped.add(reason, path)


def _reason_to_skip(name: str, path: str) -> str | None:
    if name.startswith("."):
        return HIDDEN
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 opening a pipe would wait for its writer
            return NO_FILE
        return None if looks_like_picture(path) else NO_PICTURE
    except OSError:
        return UNREADABLE
