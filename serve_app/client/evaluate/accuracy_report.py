"""The report of an accuracy."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from serve_app.client.evaluate.accuracy import Accuracy, ClassAccuracy, Verdict
from serve_app.client.evaluate.published import Published, find_published
from serve_app.client.evaluate.report import (
    MOST_CARDS,
    MOST_LINES,
    Card,
    Gate,
    Report,
    Subject,
    Table,
    best_values,
    class_lines,
    describe_pictures,
    describe_share,
    describe_subject,
    gate_values,
    heading_of,
    share_values,
    subject_values,
)

MOST_CLASSES = 10


def report_accuracy(subject: Subject, origin: str, accuracy: Accuracy, gate: Gate | None, failed: int) -> Report:
    """Return the report of an accuracy; `origin` is where the true classes come from."""
    return Report(
        title="Accuracy",
        facts=[
            ("pictures", describe_pictures(accuracy.top1, failed)),
            ("labels", origin),
            *describe_subject(subject, ""),
            ("top-1", describe_share(accuracy.top1)),
            ("top-5", describe_share(accuracy.top5) if accuracy.top5 else "always right: at most 5 classes"),
            *_describe_published(subject, accuracy),
            *([("gate", f"{gate.option} {gate.describe()}")] if gate else []),
        ],
        tables=[
            Table(
                "Worst classes",
                ("class", ">right", ">of", ">top-1", ">95 % interval", "most often taken for"),
                [_class_row(each, subject) for each in accuracy.by_class[:MOST_CLASSES] if each.taken_for],
            ),
            Table(
                heading_of("Wrong pictures, the most certain first", len(accuracy.wrong)),
                ("file", "label", "prediction", ">probability"),
                [
                    (wrong.file, subject.name(wrong.truth), subject.name(wrong.best[0][0]), f"{wrong.best[0][1]:.3f}")
                    for wrong in accuracy.wrong[:MOST_LINES]
                ],
            ),
        ],
        cards=[_wrong_card(wrong, subject) for wrong in accuracy.wrong[:MOST_CARDS]],
        of_cards=len(accuracy.wrong),
        values=_accuracy_values(subject, origin, accuracy, gate, failed),
    )


def _describe_published(subject: Subject, accuracy: Accuracy) -> list[tuple[str, str]]:
    published = find_published(subject.about.model)
    if published is None:
        return []
    low, high = accuracy.top1.interval
    share = published.top1 / 100
    place = "lies below it" if high < share else "lies above it" if low > share else "contains it"
    return [("published", f"{published.describe()}; the interval of this top-1 {place}")]


def _class_row(each: ClassAccuracy, subject: Subject) -> Sequence[str]:
    low, high = each.right.interval
    taken = f"{subject.name(each.taken_for[0])} ({each.taken_for[1]:,})" if each.taken_for else ""
    return (
        subject.name(each.index), f"{each.right.count:,}", f"{each.right.of:,}", f"{100 * each.right.value:.1f} %",
        f"{100 * low:.1f}–{100 * high:.1f} %", taken,
    )  # fmt: skip


def _wrong_card(wrong: Verdict, subject: Subject) -> Card:
    return Card(wrong.file, [("label", [subject.name(wrong.truth)]), ("prediction", class_lines(wrong.best, subject))])


def _accuracy_values(
    subject: Subject, origin: str, accuracy: Accuracy, gate: Gate | None, failed: int
) -> Mapping[str, Any]:
    published = find_published(subject.about.model)
    return {
        "kind": "accuracy",
        "date": datetime.now(UTC).date().isoformat(),
        **subject_values(subject),
        "labels_from": origin,
        "pictures": accuracy.top1.of,
        "failed": failed,
        "top1": share_values(accuracy.top1),
        "top5": share_values(accuracy.top5) if accuracy.top5 else None,
        "published": _published_values(published) if published else None,
        "gate": gate_values(gate),
        "classes": [
            {"class_id": each.index, "label": subject.name(each.index), **share_values(each.right)}
            for each in accuracy.by_class
        ],
        "wrong": [
            {
                "file": wrong.file,
                "class_id": wrong.truth,
                "label": subject.name(wrong.truth),
                "predictions": best_values(wrong.best, subject),
            }
            for wrong in accuracy.wrong
        ],
    }


def _published_values(published: Published) -> Mapping[str, Any]:
    return {
        "top1": published.top1 / 100,
        "top5": published.top5 / 100 if published.top5 is not None else None,
        "side": published.side,
        "preprocessing": published.preprocessing,
        "source": published.source,
    }
