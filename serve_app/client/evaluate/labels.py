"""Where the true classes of pictures come from: the folders that they are in, a val.txt, or a CSV."""

import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from serve_app.client.errors import UsageError
from serve_app.client.items import Item, Skipped, display_name, find_items
from serve_app.client.plain_text import printable

LIST_NAME = "val.txt"
"""The list that is read without being named, where the folder has it."""
NO_LABEL = "no label"
NOT_THERE = "listed, but not in the folder"

_FILE_COLUMNS = ("file", "path", "image", "filename")
_CLASS_COLUMNS = ("label", "class", "synset")


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures and the names of their classes, by the pictures' names; `origin` says where the classes come from."""

    items: Sequence[Item]
    classes: Mapping[str, str]
    origin: str


def find_labelled(folder: str, labels: Path | None, skipped: Skipped) -> LabelledPictures:
    """Return the pictures below `folder` that have a class: of the list `labels`, of val.txt, or their folder's name.

    Pictures without one, and what is listed but not there, are counted in `skipped`. Raises UsageError.
    """
    paths = {PurePath(os.path.relpath(item.source, folder)).as_posix(): item for item in find_items([folder], skipped)}
    if labels is None and os.path.isfile(Path(folder) / LIST_NAME):  # noqa: PTH113 Path's raises where nobody may look
        labels = Path(folder) / LIST_NAME
    if labels is None:
        return _of_folders(folder, paths, skipped)
    listed = _read_list(labels)
    for path in listed.keys() - paths.keys():
        skipped.add(NOT_THERE, display_name(path))
    classes = {item.name: listed[path] for path, item in paths.items() if path in listed}
    if not classes:
        raise UsageError(f"{labels}: names none of the {len(paths):,} pictures of {folder}, relative to that folder")
    return _labelled(paths.values(), classes, display_name(str(labels)), skipped)


def _of_folders(folder: str, paths: Mapping[str, Item], skipped: Skipped) -> LabelledPictures:
    classes = {item.name: path.partition("/")[0] for path, item in paths.items() if "/" in path}
    if not classes:
        raise UsageError(
            f"{folder}: no picture is in a folder named for its class, and there is no {LIST_NAME}; "
            "name a list with --labels FILE"
        )
    return _labelled(paths.values(), classes, f"the folders of {display_name(folder)}", skipped)


def _labelled(items: Iterable[Item], classes: Mapping[str, str], origin: str, skipped: Skipped) -> LabelledPictures:
    found = []
    for item in items:
        if item.name in classes:
            found.append(item)
        else:
            skipped.add(NO_LABEL, item.name)
    return LabelledPictures(found, classes, origin)


def _read_list(path: Path) -> Mapping[str, str]:
    """Return the class of each picture of a list, by its path relative to the folder. Raises UsageError."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = _csv_rows(file, path) if path.suffix.lower() == ".csv" else _lines(file, path)
            return _collect(rows, path)
    except OSError as exc:
        raise UsageError(f"--labels {path}: cannot be read: {exc.strerror}") from exc
    except (UnicodeDecodeError, csv.Error) as exc:
        raise UsageError(f"--labels {path}: is not a UTF-8 text: {exc}") from exc


def _collect(rows: Iterator[tuple[int, str, str]], path: Path) -> Mapping[str, str]:
    listed: dict[str, str] = {}
    for number, name, label in rows:
        where = f"--labels {path}, line {number}"
        if not name or not label:
            raise UsageError(f"{where}: needs a picture and its class")
        picture = PurePath(name).as_posix()
        if listed.setdefault(picture, label) != label:
            raise UsageError(f"{where}: {printable(picture)} was {printable(listed[picture])} before; keep one of them")
    if not listed:
        raise UsageError(f"--labels {path}: names no picture; write a picture and its class in each line")
    return listed


def _lines(file: Iterator[str], path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield number, picture and class of each line: the class is the last word, or what follows the last tab.

    Empty lines, and those whose first word is `#`, are left out.
    """
    for number, line in enumerate(file, start=1):
        text = line.strip()
        if not text or text.split(maxsplit=1)[0] == "#":  # `#1.jpg` is a picture
            continue
        *name, label = text.rsplit("\t" if "\t" in text else None, 1)
        if not name:
            raise UsageError(
                f"--labels {path}, line {number}: {printable(text[:80])!r} needs a picture and its class, "
                "such as `cat.jpg 281`"
            )
        yield number, name[0].strip(), label.strip()


def _csv_rows(file: Iterator[str], path: Path) -> Iterator[tuple[int, str, str]]:
    rows = csv.DictReader(file)
    header = [(name or "").strip() for name in rows.fieldnames or ()]
    picture = next((name for name in header if name.lower() in _FILE_COLUMNS), None)
    label = next((name for name in header if name.lower() in _CLASS_COLUMNS), None)
    if picture is None or label is None:
        raise UsageError(
            f"--labels {path}: the first line must name the columns `file` and `label`; "
            f"it has {printable(', '.join(header))[:80] or 'none'}"
        )
    rows.fieldnames = header
    for row in rows:
        yield rows.line_num, (row[picture] or "").strip(), (row[label] or "").strip()
