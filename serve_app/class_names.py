"""Which class of a network a name means: a label, however it is written, or an index. Imports nothing."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence


class ClassNames:
    """The classes of a network by their labels and indexes."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = labels
        self._exact = _by_name(labels)
        self._folded = _by_name([fold(label) for label in labels])

    def with_label(self, name: str) -> Sequence[int]:
        """Return the classes whose label is `name` to the letter."""
        return self._exact.get(name, ())

    def like(self, name: str) -> Sequence[int]:
        """Return the classes whose label is `name` in another spelling, or the one that has it as its index."""
        if folded := self._folded.get(fold(name)):
            return folded
        digits = name.lstrip("0") or name[-1:]
        # Python converts no more than 4,300 digits: it raises ValueError.
        is_short = digits.isascii() and digits.isdigit() and len(digits) <= len(str(len(self.labels)))
        return [int(digits)] if is_short and int(digits) < len(self.labels) else []

    def find(self, name: str) -> Sequence[int]:
        """Return the classes that `name` means: none, one, or several with the same label."""
        return self.with_label(name) or self.like(name)

    @property
    def spellings(self) -> Mapping[str, Sequence[int]]:
        """The classes of each label as `fold` returns it."""
        return self._folded


def fold(name: str) -> str:
    """Return a name without what people write differently: capitals, and what stands between its words."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _by_name(names: Sequence[str]) -> dict[str, list[int]]:
    indexes: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        indexes[name].append(index)
    return dict(indexes)
