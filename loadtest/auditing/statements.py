"""Reads what a sentence of a report says in numbers: `28 % faster predictions`, `4x throughput`, `same speed`.

Called by `claims`. What it does not understand it hands back as not understood, never as something else.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from loadtest.auditing.interval import Interval

Quantity = Literal["throughput", "failures", "latency"]
Sense = Literal["more", "less", "same"]
Unit = Literal["percent", "times"]

_NUMBER = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>%|percent\b|x\b|×|times\b|-?fold\b)")
_WORD = re.compile(r"[^\W\d_]+")
_PARTS = re.compile(r"[,;]|\band\b")

# In this order, for `failed requests` are failures and the `speed of requests` is a latency.
_QUANTITIES: tuple[tuple[Quantity, frozenset[str]], ...] = (
    ("throughput", frozenset({"throughput", "rps"})),
    ("failures", frozenset({"failure", "failures", "failed", "error", "errors"})),
    ("latency", frozenset({"speed", "latency", "latencies", "response", "responses", "answers", "median", "mean"})),
    ("throughput", frozenset({"requests"})),
)
_MORE = frozenset({"more", "higher", "greater", "larger", "increased"})
_LESS = frozenset({"less", "lower", "fewer", "smaller", "reduced"})
_SAME = frozenset({"same", "similar", "equal", "identical", "comparable"})
_BETTER = frozenset({"better", "faster", "quicker"})
_WORSE = frozenset({"worse", "slower"})
_DENIALS = frozenset({"not", "no", "never", "without"})
_ALL_LEVELS = re.compile(r"\b(?:all|every|any|each)\b(?:\s+\w+){0,2}?\s+(?:levels?|loads?)\b", re.IGNORECASE)
_NUMERALS = {"one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "eight": "8"}


@dataclass(frozen=True)
class Statement:
    """What the winner is said to have more or less of than the others."""

    text: str
    quantity: Quantity
    endpoint: str | None
    """Of which endpoint; None is all requests, or does not say."""
    sense: Sense
    """Of latency, `less` is the faster one."""
    amount: Interval | None = None
    """By how much; its range is what rounding, or cutting off, leaves of it."""
    half_unit: float = 0.0
    unit: Unit | None = None


def read_statements(text: str, endpoints: Iterable[str]) -> tuple[list[Statement], list[str]]:
    """Return what a sentence says, and its parts that say nothing this reader understands."""
    names = list(endpoints)
    read, unread = [], []
    for part in (part.strip() for part in _PARTS.split(text)):
        if part:
            statement = _read(part, names)
            if statement is None:
                unread.append(part)
            else:
                read.append(statement)
    return read, unread


def covers_all_levels(text: str) -> bool:
    """Return whether a conclusion is for all numbers of users."""
    return _ALL_LEVELS.search(text) is not None


def find_target(text: str, names: Mapping[str, str]) -> str | None:
    """Return the one target that a conclusion names: by its name, or by the number of its instances."""
    words = [_NUMERALS.get(word, word) for word in re.findall(r"\w+", text.lower())]
    counted = {
        word for at, word in enumerate(words) if word in names and any(map(_is_instance, words[at + 1 : at + 3]))
    }
    named = {
        target
        for target, name in names.items()
        if not target.isdigit() and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE)
    }
    found = counted | named
    return found.pop() if len(found) == 1 else None


def _is_instance(word: str) -> bool:
    return word.startswith(("instance", "replica", "worker"))


def _read(part: str, endpoints: list[str]) -> Statement | None:
    number = _NUMBER.search(part)
    words = [word.lower() for word in _WORD.findall(_NUMBER.sub(" ", part))]
    quantity, endpoint = _quantity(words, endpoints)
    sense = _sense(words, quantity, number)
    if quantity is None or sense is None or _DENIALS & set(words):
        return None
    if number is None:
        return Statement(part, quantity, endpoint, sense) if not re.search(r"\d", part) else None
    if sense == "same":
        return None
    unit: Unit = "percent" if number["unit"] in {"%", "percent"} else "times"
    return Statement(part, quantity, endpoint, sense, *_amount(Decimal(number["number"])), unit)


def _amount(number: Decimal) -> tuple[Interval, float]:
    """Return a claimed number, that may be rounded or cut off, and half a unit of its last digit."""
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int), "the pattern lets only digits through"
    half_unit = 10.0**exponent / 2
    value = float(number)
    return Interval(value - half_unit, value, value + 2 * half_unit), half_unit


def _quantity(words: list[str], endpoints: list[str]) -> tuple[Quantity | None, str | None]:
    named = next((name for word in words for name in endpoints if word.startswith(name.lower())), None)
    for quantity, known in _QUANTITIES:
        if known & set(words):
            return quantity, named
    return ("latency", named) if named else (None, None)


def _sense(words: list[str], quantity: Quantity | None, number: re.Match[str] | None) -> Sense | None:
    """Return whether the winner has more or less of a quantity; a bare `4x throughput` is more."""
    found = set(words)
    if found & _SAME:
        return "same"
    is_better_low = quantity in {"latency", "failures"}
    if found & _BETTER:
        return "less" if is_better_low else "more"
    if found & _WORSE:
        return "more" if is_better_low else "less"
    if found & _MORE:
        return "less" if "speed" in found else "more"
    if found & _LESS:
        return "more" if "speed" in found else "less"
    return "more" if number is not None and number["unit"] not in {"%", "percent"} else None
