"""Which class of the service a name means: a label, a synset of ImageNet, or an index."""

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from serve_app.class_names import ClassNames, fold
from serve_app.client.errors import UsageError
from serve_app.client.plain_text import examples, printable

INDEX_URL = "https://storage.googleapis.com/download.tensorflow.org/data/imagenet_class_index.json"
"""Keras' list of ImageNet's classes, where Keras itself fetches it."""

_SYNSET = re.compile(r"n\d{8}")
_MOST_NAMED = 5
_MOST_NEAREST = 3
_MOST_CHARACTERS = 80
_LIKE = 0.5
"""Of 1: from this likeness on (difflib's ratio) a label is named as one that may have been meant."""

Synsets = Mapping[str, int]
"""The index of each synset."""


class Classes:
    """The classes of a service, by all names that they have."""

    def __init__(self, labels: Sequence[str], synsets: Synsets | None) -> None:
        self.labels = labels
        self._synsets = synsets
        self._names = ClassNames(labels)

    def find_all(self, names: Iterable[str], where: str) -> dict[str, int]:
        """Return the index of the class that each of `names` means.

        Raises UsageError that begins with `where` and lists the names that mean none, or more than one.
        """
        wanted = list(dict.fromkeys(names))
        found = {name: self._find(name) for name in wanted}
        unknown = [name for name in wanted if not found[name]]
        if self._synsets is None and (synsets := [name for name in unknown if _SYNSET.fullmatch(name)]):
            raise UsageError(
                f"{where}: {examples(synsets[:1], len(synsets))}: synsets of ImageNet; the service knows labels only: "
                f"add --synsets FILE, Keras' imagenet_class_index.json ({INDEX_URL})"
            )
        if unknown:
            raise UsageError(f"{where}: unknown classes: {self._describe(unknown)}; a class is {self._forms()}")
        for name, indexes in found.items():
            if len(indexes) > 1:
                raise UsageError(
                    f"{where}: {printable(name)} is the label of the classes {', '.join(map(str, indexes))}; "
                    "name each by its index, or by its synset with --synsets FILE"
                )
        return {name: indexes[0] for name, indexes in found.items()}

    def _find(self, name: str) -> Sequence[int]:
        """Return the classes that `name` means: none, one, or several with the same label."""
        if exact := self._names.with_label(name):
            return exact
        if self._synsets is not None and self._synsets.get(name, len(self.labels)) < len(self.labels):
            return [self._synsets[name]]
        return self._names.like(name)

    def _describe(self, unknown: Sequence[str]) -> str:
        told = [f"{_shortened(name)}{self._nearest(name)}" for name in unknown[:_MOST_NAMED]]
        more = [f"{len(unknown) - _MOST_NAMED:,} more"] * (len(unknown) > _MOST_NAMED)
        return ", ".join(told + more)

    def _nearest(self, name: str) -> str:
        spellings = self._names.spellings
        near = difflib.get_close_matches(fold(name), list(spellings), _MOST_NEAREST, _LIKE)
        labels = [self.labels[spellings[each][0]] for each in near]
        return f" (nearest: {', '.join(map(printable, labels))})" if labels else ""

    def _forms(self) -> str:
        last = len(self.labels) - 1
        synset = "a synset with --synsets FILE" if self._synsets is None else "a synset of --synsets"
        return f"a label of the service such as {printable(self.labels[0])}, an index from 0 to {last}, or {synset}"


def _shortened(name: str) -> str:
    return printable(name[:_MOST_CHARACTERS]) + "…" * (len(name) > _MOST_CHARACTERS)


def match_classes(first: Sequence[str], second: Sequence[str], *, by_index: bool) -> Sequence[int]:
    """Return for each class of the second service the index that its answers have in a Pair.

    `by_index` where labels are placeholders on one side. Otherwise classes with the same label are the same; where a
    label occurs more than once, the first with it are the same, the second, and so on. A class that the first service
    does not have gets an index behind its classes. Raises UsageError without a class in common.
    """
    if list(first) == list(second) or (by_index and len(first) == len(second)):
        return range(len(second))
    if by_index or not set(first) & set(second):
        raise UsageError(
            f"--against: its {len(second):,} classes and the {len(first):,} of --server have no label in common: "
            "their answers cannot be compared; serve both with the same `labels:`"
        )
    indexes = {name: index for index, name in enumerate(_numbered(first))}
    return [indexes.get(name, len(first) + place) for place, name in enumerate(_numbered(second))]


def _numbered(labels: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Yield each label with how often it has occurred before."""
    before = Counter[str]()
    for label in labels:
        yield label, before[label]
        before[label] += 1


def read_synsets(path: Path) -> Synsets:
    """Return the synsets of a file like Keras' index: {"0": ["n01440764", "tench"], …}. Raises UsageError."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
        synsets = {str(names[0]): int(index) for index, names in entries.items() if isinstance(names, list)}
    except OSError as exc:
        raise UsageError(f"--synsets {path}: cannot be read: {exc.strerror}") from exc
    except (ValueError, AttributeError, IndexError, RecursionError):
        synsets = {}
    if not synsets or not all(_SYNSET.fullmatch(synset) and index >= 0 for synset, index in synsets.items()):
        raise UsageError(
            f'--synsets {path}: is not like Keras\' imagenet_class_index.json, {{"0": ["n01440764", "tench"], …}} '
            f"({INDEX_URL})"
        )
    return synsets
