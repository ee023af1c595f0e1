"""What a round measured of each candidate, and which is better. Reads run folders through `loadtest.verdict`."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loadtest.figures.figures import (
    CellFigures,
    Difference,
    Figures,
    LimitResult,
    PointFigures,
    Reason,
    name_metric,
    show_count,
)
from loadtest.rows.run_folder import RunFolder
from loadtest.statistics.percentiles import LEAST_SAMPLES, PERCENTILES
from loadtest.tune.candidates import Candidate
from loadtest.tune.tune_file import Objective, TuneFile
from loadtest.verdict.objectives import check_limit, find_value


@dataclass(frozen=True)
class Measured:
    """One candidate in one round."""

    candidate: Candidate
    round_number: int
    folder: RunFolder
    """Where its raw rows are."""
    differences: list[Difference]
    """Between all candidates of the round."""
    point: PointFigures
    """Its valid cells, their requests pooled."""
    cells: list[CellFigures]
    value: float | None
    """Of the figure to optimise."""
    lacking: Reason | None
    """Why valid cells do not have it."""
    limits: list[LimitResult]

    @property
    def valid(self) -> bool:
        """Return whether any cell of it is valid and has the figure to optimise."""
        return self.point.steady is not None and self.value is not None

    @property
    def meets_limits(self) -> bool:
        """Return whether all limits hold."""
        return all(limit.met for limit in self.limits)

    @property
    def unmeasured(self) -> int:
        """Return how many of its cells there was no time for."""
        return sum(any(reason.code == "not_measured" for reason in cell.reasons) for cell in self.cells)

    @property
    def reasons(self) -> list[Reason]:
        """Return why it or cells of it are not valid, each reason once; one that there was no time for is not told."""
        of_cells = [reason for cell in self.cells for reason in cell.reasons if reason.code != "not_measured"]
        return list(dict.fromkeys([*([self.lacking] if self.lacking else []), *of_cells]))

    @property
    def worth_repeating(self) -> bool:
        """Return whether the same load may give a valid measurement the next time: not if it was only too short."""
        return not self.valid and any(reason.code != "few_samples" for reason in self.reasons)


def collect(
    figures: Figures, file: TuneFile, candidates: Iterable[Candidate], round_number: int, folder: RunFolder
) -> dict[str, Measured]:
    """Return what the figures of a round's run folder say of each candidate, by its name."""
    return {one.name: _measured(figures, file, one, round_number, folder) for one in candidates}


def rank(measured: Iterable[Measured], file: TuneFile) -> list[Measured]:
    """Return the valid ones, best first.

    Those that meet all limits come first, in order of the figure to optimise; then the others, by how far they miss
    them (the feasibility rules of Deb 2000).
    """
    sign = -1 if file.objective.maximise else 1
    return sorted(
        (one for one in measured if one.valid),
        key=lambda one: (_violation(one.limits), sign * (one.value or 0.0)),
    )


def _measured(figures: Figures, file: TuneFile, candidate: Candidate, number: int, folder: RunFolder) -> Measured:
    (point,) = [point for point in figures.points if point.target == candidate.name]
    traffic = point.scheduled or point.steady
    value = find_value(file.objective.endpoint, file.objective.metric, traffic, point.endpoints)
    return Measured(
        candidate=candidate,
        round_number=number,
        folder=folder,
        differences=[difference for level in figures.comparisons for difference in level.differences],
        point=point,
        cells=[cell for cell in figures.cells if cell.target == candidate.name],
        value=value,
        lacking=None if traffic is None or value is not None else _tell_lacking(point, file.objective),
        limits=[check_limit(limit, traffic, point.endpoints) for limit in file.limits],
    )


def _tell_lacking(point: PointFigures, objective: Objective) -> Reason:
    """Return why there is no figure to optimise: of all figures, only percentiles can be missing."""
    answers = sum(part.judged.timed for part in point.endpoints if part.endpoint == objective.endpoint)
    needed = LEAST_SAMPLES[PERCENTILES[objective.metric]]
    return Reason(
        f"too few samples: only {show_count(answers)} right answers of {objective.endpoint}, and "
        f"{name_metric(objective.figure)} needs {needed}; make duration_s of the plan longer",
        "few_samples",
    )


def _violation(results: Sequence[LimitResult]) -> float:
    """Return by how much limits are missed, each in parts of its bound (of 1 if the bound is less), added up."""
    total = 0.0
    for result in results:
        if not result.met:
            missed = math.inf if result.value is None else abs(result.value - result.limit.value)
            total += missed / max(abs(result.limit.value), 1.0)
    return total
