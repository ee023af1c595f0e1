"""What is shown of an evaluation, on a terminal, as JSON and on a page: one typed report for all three."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from serve_app.agreement import Best, Share
from serve_app.client.plain_text import without_login
from serve_app.client.service import About
from serve_app.client.table import print_rows

MOST_CARDS = 100
"""Pictures that a page shows."""
MOST_LINES = 20
_SHOWN_CLASSES = 5
_RANDOM = "RANDOM: the predictions mean nothing, and neither do these figures"


@dataclass(frozen=True)
class Gate:
    """The least share that the user asks for."""

    option: str
    least: float
    share: Share

    @property
    def is_met(self) -> bool:
        """Whether the observed share reaches it."""
        return self.share.value >= self.least

    def describe(self) -> str:
        """Return one line that says whether it is met, and whether more pictures could change that."""
        low, high = self.share.interval
        unsure = (
            f"; {self.least:g} is within the interval: more pictures would decide" if low < self.least < high else ""
        )
        return f"{'met' if self.is_met else 'MISSED'}: {self.share.value:.4f} of at least {self.least:g}{unsure}"


@dataclass(frozen=True)
class Subject:
    """A service that was asked: its address, what it says of itself, and the labels of its classes."""

    server: str
    about: About
    labels: Sequence[str]

    @property
    def fingerprint(self) -> str | None:
        """What names everything that decides its answers; None if the service does not tell it."""
        told = self.about.model["fingerprint"]
        return told if isinstance(told, str) else None

    def name(self, index: int) -> str:
        """Return the label of a class; a class of another service has none here."""
        return self.labels[index] if index < len(self.labels) else f"class {index - len(self.labels)} of --against"


@dataclass(frozen=True)
class Table:
    """Rows below a heading; a column whose name begins with `>` has numbers."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Card:
    """One picture, and what is said about it: groups of lines with a heading, side by side."""

    file: str
    groups: Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True)
class Report:
    """The result of an evaluation."""

    title: str
    facts: Sequence[tuple[str, str]]
    tables: Sequence[Table]
    cards: Sequence[Card]
    of_cards: int
    """How many pictures there are of the kind that the cards show."""
    values: Mapping[str, Any]
    """The same as JSON."""


def print_report(report: Report, file: TextIO) -> None:
    """Print a report for people."""
    print_rows(file, report.facts)
    for table in report.tables:
        if table.rows:
            print(f"\n{table.heading}", file=file)
            print_rows(file, table.rows, table.columns)


def print_values(report: Report, file: TextIO) -> None:
    """Print a report as JSON."""
    print(json.dumps(report.values, indent=1), file=file)


def describe_share(share: Share) -> str:
    """Return a share with its interval and counts."""
    low, high = share.interval
    return (
        f"{100 * share.value:.2f} % (95 % interval {100 * low:.2f}–{100 * high:.2f} %); {share.count:,} of {share.of:,}"
    )


def heading_of(text: str, count: int) -> str:
    """Return a heading that says how many of `count` rows follow it."""
    return f"{text} ({MOST_LINES} of {count:,})" if count > MOST_LINES else text


def describe_pictures(share: Share, failed: int) -> str:
    """Return how many pictures were classified, and how many failed."""
    return f"{share.of:,}" + (f"; {failed:,} failed and are not counted" if failed else "")


def describe_subject(subject: Subject, which: str) -> list[tuple[str, str]]:
    """Return what a service says of itself, as facts whose names begin with `which`."""
    model = subject.about.model
    weights = _RANDOM if subject.about.weights == "random" else subject.about.weights
    return [
        (
            f"{which}service",
            (
                f"{without_login(subject.server)}: {model['name']} ({model['engine']}, {model['precision']}), "
                f"{len(subject.labels):,} classes, labels {model['labels']}"
            ),
        ),
        (f"{which}weights", weights),
        *([(f"{which}input", subject.about.preparation)] if subject.about.preparation else []),
    ]


def class_lines(best: Best, subject: Subject) -> Sequence[str]:
    """Return the best classes with their probabilities, for a card."""
    return [f"{score:.3f} {subject.name(index)}" for index, score in best[:_SHOWN_CLASSES]]


def subject_values(subject: Subject) -> Mapping[str, Any]:
    """Return a service as JSON."""
    about = subject.about
    return {
        "server": without_login(subject.server),
        "model": dict(about.model),
        "input": about.preparation,
        "classes_of_service": len(subject.labels),
        "weights_are_random": about.weights == "random",
    }


def share_values(share: Share) -> Mapping[str, float]:
    """Return a share with its interval as JSON."""
    low, high = share.interval
    return {"count": share.count, "of": share.of, "share": share.value, "low": low, "high": high}


def gate_values(gate: Gate | None) -> Mapping[str, Any] | None:
    """Return a gate as JSON; None without one."""
    return {"least": gate.least, "is_met": gate.is_met} if gate else None


def best_values(best: Best, subject: Subject) -> list[Mapping[str, Any]]:
    """Return classes with their probabilities as JSON."""
    return [{"class_id": index, "label": subject.name(index), "score": score} for index, score in best]
