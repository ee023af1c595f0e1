"""Finds what to classify: files, the pictures of folders, URLs. Names are held in memory, contents never are."""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from serve_app.client.errors import UsageError
from serve_app.client.plain_text import refused, without_login

SUFFIXES = frozenset({".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".webp"})
NO_PICTURE = "no picture"
HIDDEN = "hidden"
NO_FILE = "no regular file"
UNREADABLE = "unreadable"

_SCHEMES = ("http://", "https://")
_HEAD_BYTES = 16
_MOST_EXAMPLES = 5
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True, slots=True)
class Item:
    """Something to classify: `source` is a path or a URL, `name` what it is called in the output."""

    name: str
    source: str
    is_url: bool = False


@dataclass
class Skipped:
    """What folders hold that is not sent, by reason: how many, and some of their names."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, path: str) -> None:
        """Take in one more."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < _MOST_EXAMPLES:
            examples.append(path)


def find_items(arguments: Sequence[str], skipped: Skipped) -> Iterator[Item]:
    """Yield the items that the arguments name, in order; of a folder its pictures, sorted. Raises UsageError."""
    for argument in arguments:
        if argument.lower().startswith(_SCHEMES):
            yield _url_item(argument, refused(argument))
        elif os.path.isdir(argument):  # noqa: PTH112 names stay as they were given
            yield from _folder_items(argument, skipped)
        elif os.path.isfile(argument):  # noqa: PTH113
            yield Item(display_name(argument), argument)
        else:
            named = refused(argument) if "://" in argument else argument
            raise UsageError(f"{named}: no such file or folder; a URL begins with http:// or https://")


def url_items(lines: Iterable[str], origin: str) -> Iterator[Item]:
    """Yield an item for each line but empty ones and comments (#). Raises UsageError with the number of a bad line."""
    for number, line in enumerate(lines, start=1):
        url = line.strip()
        if url and not url.startswith("#"):
            yield _url_item(url, f"--urls {origin}, line {number}: {refused(url)[:200]}")


def display_name(path: str) -> str:
    """Return what `path` is called in the output: always text, and never what a spreadsheet takes for a formula."""
    name = os.fsencode(path).decode("utf-8", "backslashreplace")
    return f"./{name}" if name.startswith(_FORMULA) else name


def looks_like_picture(path: str) -> bool:
    """Tell by the name, or else by the first bytes, whether the service may know what the file is. Raises OSError."""
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
        raise UsageError(f"{where}: is no URL such as http://host/picture.jpg (http and https only)")
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
