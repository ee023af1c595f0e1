"""How often the service is right: shares with intervals, by class, and the wrong pictures. Arithmetic only."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve_app.agreement import Best, Share
from serve_app.client.errors import RunStopped

TOP = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the service said about a picture whose class is known."""

    file: str
    truth: int
    best: Best

    @property
    def is_right(self) -> bool:
        """Whether the best class is the true one."""
        return self.best[0][0] == self.truth

    @property
    def is_among_best(self) -> bool:
        """Whether the true class is one of the TOP best."""
        return any(index == self.truth for index, _ in self.best[:TOP])


@dataclass(frozen=True)
class ClassAccuracy:
    """The pictures of one class."""

    index: int
    right: Share
    taken_for: tuple[int, int] | None
    """The class that its wrong pictures are most often taken for, and how many are; None without wrong ones."""


@dataclass(frozen=True)
class Accuracy:
    """The accuracy over all pictures; None where no picture was classified."""

    top1: Share
    top5: Share | None
    """None where the service has no more than TOP classes: the true one is always among them."""
    by_class: Sequence[ClassAccuracy]
    """Worst first: by the upper bound of the interval, so that one wrong picture of one does not come first."""
    wrong: Sequence[Verdict]
    """Those with the most probable wrong class first: where the label is wrong, the network is often sure."""


def measure_accuracy(verdicts: Sequence[Verdict], classes: int) -> Accuracy:
    """Return the accuracy of one or more `verdicts` of a service with so many `classes`."""
    by_class: Mapping[int, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        by_class[verdict.truth].append(verdict)
    wrong = [verdict for verdict in verdicts if not verdict.is_right]
    return Accuracy(
        top1=_share(verdict.is_right for verdict in verdicts),
        top5=_share(verdict.is_among_best for verdict in verdicts) if classes > TOP else None,
        by_class=sorted(
            (_measure_class(index, found) for index, found in by_class.items()),
            key=lambda each: (each.right.interval[1], each.index),
        ),
        wrong=sorted(wrong, key=lambda verdict: (-verdict.best[0][1], verdict.file)),
    )


def read_best(prediction: Mapping[str, Any], classes: int) -> Best:
    """Return the classes of an answer of POST /model/predict. Raises RunStopped if it has none of 0 to `classes`."""
    try:
        best = tuple((int(found["class_id"]), float(found["score"])) for found in prediction["predictions"])
    except (KeyError, TypeError, ValueError, OverflowError) as exc:
        raise RunStopped("a prediction has no class_id and score: this is not an answer of the service") from exc
    if not best or not all(0 <= index < classes for index, _ in best):
        raise RunStopped(f"a prediction names no class, or one beyond the {classes:,} labels of the service")
    return best


def _measure_class(index: int, verdicts: Sequence[Verdict]) -> ClassAccuracy:
    taken_for = Counter(verdict.best[0][0] for verdict in verdicts if not verdict.is_right).most_common(1)
    return ClassAccuracy(index, _share(verdict.is_right for verdict in verdicts), taken_for[0] if taken_for else None)


def _share(hits: Iterable[bool]) -> Share:
    found = list(hits)
    return Share(sum(found), len(found))
