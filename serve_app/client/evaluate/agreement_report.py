"""The report of an agreement."""

from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.agreement import Agreement, Pair
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


def report_agreement(subjects: tuple[Subject, Subject], agreement: Agreement, gate: Gate | None, failed: int) -> Report:
    """Return the report of an agreement."""
    different = [pair for pair in agreement.worst if not pair.agrees or pair.difference > 0]
    shown = [
        (f"≤ {bound:g}", str(count), f"{100 * count / agreement.top1.of:.2f} %") for bound, count in agreement.groups
    ]
    first, second = subjects
    return Report(
        title="Agreement",
        facts=[
            ("pictures", describe_pictures(agreement.top1, failed)),
            *describe_subject(first, "first "),
            *describe_subject(second, "second "),
            ("top-1 agreement", describe_share(agreement.top1)),
            (
                "difference of probability",
                ", ".join(f"{name} {value:.4f}" for name, value in agreement.percentiles.items()),
            ),
            *([("gate", f"{gate.option} {gate.describe()}")] if gate else []),
        ],
        tables=[
            Table(
                "Largest difference of probability of any class, per picture",
                ("difference", ">pictures", ">share"),
                shown,
            ),
            Table(
                heading_of("Worst pictures", len(different)),
                ("file", "first", ">probability", "second", ">probability", ">difference"),
                [_pair_row(pair, first) for pair in different[:MOST_LINES]],
            ),
        ],
        cards=[_pair_card(pair, first) for pair in different[:MOST_CARDS]],
        of_cards=len(different),
        values=_agreement_values(subjects, agreement, gate, failed),
    )


def _pair_row(pair: Pair, first: Subject) -> Sequence[str]:
    sides = [(first.name(best[0][0]), f"{best[0][1]:.3f}") for best in (pair.first, pair.second)]
    return (pair.file, *sides[0], *sides[1], f"{pair.difference:.4f}")


def _pair_card(pair: Pair, first: Subject) -> Card:
    return Card(pair.file, [("first", class_lines(pair.first, first)), ("second", class_lines(pair.second, first))])


def _agreement_values(
    subjects: tuple[Subject, Subject], agreement: Agreement, gate: Gate | None, failed: int
) -> Mapping[str, Any]:
    first, second = subjects
    return {
        "kind": "agreement",
        "first": subject_values(first),
        "second": subject_values(second),
        "pictures": agreement.top1.of,
        "failed": failed,
        "top1": share_values(agreement.top1),
        "difference_percentiles": dict(agreement.percentiles),
        "difference_groups": [{"at_most": bound, "pictures": count} for bound, count in agreement.groups],
        "gate": gate_values(gate),
        "disagreeing": [
            {
                "file": pair.file,
                "difference": pair.difference,
                "first": best_values(pair.first, first),
                "second": best_values(pair.second, first),
            }
            for pair in agreement.worst
            if not pair.agrees
        ],
    }
