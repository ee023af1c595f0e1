"""Runs a search: rounds of ordinary runs, each in its own folder, until one candidate is left to recommend.

search.json          what is searched, and the candidates that are tried; to resume, only `minutes` may be another
candidates/c01.yaml  the service's YAML of each candidate
round-1/ …           run folders, see loadtest/rows/run_folder.py; `python -m loadtest report` makes a report of each
round-1-again/ …     candidates without a valid cell in the round before, again
tune.json            the results so far; winner.yaml when there is a winner
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import fsum
from pathlib import Path
from typing import Any

from pydantic import RootModel

from loadtest.errors import BadInputError
from loadtest.figures.figures import Figures
from loadtest.measure.experiment import files_of, opened
from loadtest.measure.progress import show_clock
from loadtest.measure.runner import cell_order, run_plan
from loadtest.plan.keys import check_keys
from loadtest.plan.plan import Plan
from loadtest.rows.run_folder import Cell, CellRecord, RunFolder, write_whole
from loadtest.tune.candidates import (
    Candidate,
    Grid,
    base_values,
    choose_spread,
    make_grid,
    make_target,
    render_config,
)
from loadtest.tune.halving import Costs, Round, count_affordable, halve, plan_rounds, promote
from loadtest.tune.ranking import Measured, collect, rank
from loadtest.tune.tune_file import Tuning
from loadtest.verdict.summary import summarize

FEWEST_FINALISTS = 2

_Inputs = RootModel[dict[str, Any]]


@dataclass(frozen=True)
class RoundResult:
    """What a round was and what it gave."""

    number: int
    plan: Plan
    figures: Figures
    """Of the round's own run folder."""
    measured: dict[str, Measured]
    """By candidate; of those measured again, the second time if that was valid."""
    took_s: float


@dataclass
class Search:
    """A search in its folder; `rounds` grows while it runs."""

    tuning: Tuning
    folder: Path
    say: Callable[[str], None]
    """Prints a line of progress."""
    grid: Grid = field(init=False)
    tried: list[Candidate] = field(init=False)
    """All candidates, or as many as the time allows."""
    rounds: list[RoundResult] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Choose what to try. Raises BadInputError when that is nothing, or takes too long."""
        file, self.grid = self.tuning.file, make_grid(self.tuning)
        if not self.grid.candidates:
            raise BadInputError(f"{self.tuning.path}: no combination of values meets the constraints; see vary")
        self._finalists = max(FEWEST_FINALISTS, len({self._group(one) for one in self.grid.candidates}))
        self._costs = Costs(file.overhead_s, self.tuning.plan.duration_s, file.repetitions)
        self._budget_s = file.minutes * 60
        self.tried = self._begun() or self._choose()
        count = len(self.tried)
        self._planned = plan_rounds(halve(count, self._finalists), self._costs, self._budget_s)
        if not self._planned:
            least_s = self._costs.of([Round(count, 1, self._costs.shortest_s)])
            raise BadInputError(
                f"{self.tuning.path}: minutes: {file.minutes:g} are not enough to measure {count} "
                f"candidates once, which takes about {least_s / 60:.1f}; give more with --minutes, or fewer values "
                "with --vary"
            )
        self._make_plan(1, self.tried, self._planned[0])  # so that its faults are told before anything is made

    def run(self, after_round: Callable[[], None]) -> None:
        """Measure until the final is over, calling `after_round` after each round.

        Raises BadInputError when the folder is of another search, and Interrupted after Ctrl-C or SIGTERM.
        """
        with self.opened():
            self._tell_estimate()
            candidates, sizes = self.tried, halve(len(self.tried), self._finalists)
            while plan := self._next_plan(candidates, sizes):
                self._measure(plan)
                after_round()
                if len(plan.targets) <= self._finalists:
                    return
                ranked = rank(self.rounds[-1].measured.values(), self.tuning.file)
                candidates = [one.candidate for one in ranked]
                if not candidates:
                    return
                following = halve(len(plan.targets), self._finalists)[1]
                sizes = halve(min(following, len(candidates)), self._finalists)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Keep the folder open, with the YAML of each candidate in it. Raises as `run` does."""
        needs = files_of(self.tuning.plan.workload, [self.tuning.target])
        with opened(self._inputs_path, _Inputs(self._inputs()), command="tune", needs=needs):
            (self.folder / "candidates").mkdir(exist_ok=True)
            for candidate in self.tried:
                write_whole(self.config_path(candidate), render_config(self.tuning, candidate.knobs))
            yield

    def deciding(self) -> list[Measured]:
        """Return what the last round with a valid cell measured."""
        for one in reversed(self.rounds):
            if any(measured.valid for measured in one.measured.values()):
                return list(one.measured.values())
        return []

    def candidate(self, name: str) -> Candidate:
        """Return the candidate of that name."""
        return next(one for one in self.tried if one.name == name)

    def config_path(self, candidate: Candidate) -> Path:
        """Return where the YAML of a candidate is."""
        return self.folder / "candidates" / f"{candidate.name}.yaml"

    @property
    def _inputs_path(self) -> Path:
        return self.folder / "search.json"

    def _begun(self) -> list[Candidate]:
        """Return the candidates that the search in the folder tries, whatever the minutes are now; none before it."""
        try:
            inputs = _Inputs.model_validate_json(self._inputs_path.read_text(encoding="utf-8")).root
        except (OSError, ValueError):
            return []  # `opened` tells what is wrong with a file that is there
        return [one for one in self.grid.candidates if one.name in inputs.get("candidates", ())]

    def _choose(self) -> list[Candidate]:
        """Return all candidates, or as many as the time allows."""
        count = count_affordable(len(self.grid.candidates), self._finalists, self._costs, self._budget_s)
        return choose_spread(self.grid.candidates, count, base_values(self.tuning))

    def _group(self, candidate: Candidate) -> object:
        knob = self.tuning.file.replicas_knob
        return candidate.knobs[knob] if knob else None

    def _inputs(self) -> dict[str, Any]:
        tuning = self.tuning
        return {
            **tuning.file.model_dump(mode="json", exclude={"minutes"}),  # more of them resume a search
            "what the plan says": tuning.plan.model_dump(mode="json"),
            "what the base says": tuning.base_text,
            "cores": tuning.cores,
            "candidates": {one.name: one.knobs for one in self.tried},
        }

    def _tell_estimate(self) -> None:
        first, rounds = self._planned[0], self._planned
        each_s = self._costs.overhead_s + first.duration_s
        shown = ", ".join(f"{one.candidates} × {one.repetitions} of {one.duration_s} s" for one in rounds)
        self.say(
            f"{len(self.tried)} of {len(self.grid.candidates)} candidates, about {each_s:.0f} s per cell at first; "
            f"rounds (candidates × repetitions of load): {shown}; "
            f"about {round(self._costs.of(rounds) / 60, 1):g} of {self.tuning.file.minutes:g} minutes; {self._left()}, "
            "after which a round only completes its first repetition"
        )

    def _next_plan(self, ranked: Sequence[Candidate], sizes: Sequence[int]) -> Plan | None:
        """Return the plan of the next round: as it was begun, or by the time that is left."""
        number = len(self.rounds) + 1
        folder = self._round_folder(number)
        if folder.plan_path.is_file():
            return folder.read_plan()
        rounds = plan_rounds(sizes, self._measured_costs(), self._left_s())
        if not rounds:
            self.say("the time is up; the result is based on the rounds so far")
            return None
        size = rounds[0]
        if len(rounds) == 1:  # the final: what there is no time for now may be measured later, with more minutes
            size = replace(size, repetitions=max(size.repetitions, self.tuning.file.repetitions))
        return self._make_plan(number, promote(ranked, [self._group(one) for one in ranked], size.candidates), size)

    def _make_plan(self, number: int, candidates: Sequence[Candidate], size: Round) -> Plan:
        file, plan = self.tuning.file, self.tuning.plan
        targets = [make_target(self.tuning, one, self.config_path(one)) for one in candidates]
        raw = {
            **plan.model_dump(),
            "title": f"Round {number} of a search: {file.objective}",
            "targets": [target.model_dump() for target in targets],
            "users": [file.users],
            "duration_s": size.duration_s,
            "repetitions": size.repetitions,
            "seed": plan.seed + number - 1,
            "limits": [str(limit) for limit in file.limits],
            "baseline": None,
        }
        return check_keys(self.tuning.path, raw, Plan)

    def _measure(self, plan: Plan) -> None:
        number = len(self.rounds) + 1
        folder = self._round_folder(number)
        self.say(f"round {number}: {_show_size(plan)}; {self._left()}")
        figures, measured = self._run(plan, folder, number)
        again = [name for name, one in measured.items() if one.worth_repeating and _any_finished(folder, name)]
        if again:
            second = plan.model_copy(update={"targets": [one for one in plan.targets if one.name in again]})
            size = Round(len(again), 1, plan.duration_s)  # further repetitions are made if there is time
            second_folder = RunFolder(self.folder / f"round-{number}-again")
            if second_folder.plan_path.is_file() or self._measured_costs().of([size]) <= self._left_s():
                self.say(f"round {number}, invalid candidates again: {_show_size(second)}; {self._left()}")
                _, others = self._run(second, second_folder, number)
                measured |= {name: one for name, one in others.items() if one.valid}
        took_s = fsum(
            record.ended_unix_s - record.began_unix_s
            for record, _ in self._records(f"round-{number}", f"round-{number}-again")
        )
        self.rounds.append(RoundResult(number, plan, figures, measured, round(took_s, 1)))

    def _run(self, plan: Plan, folder: RunFolder, number: int) -> tuple[Figures, dict[str, Measured]]:
        if any(self._may_begin(cell, plan.duration_s) for cell in _left_cells(plan, folder)):
            run_plan(plan, self.tuning.path, folder, lambda cell: self._may_begin(cell, plan.duration_s))
        figures = summarize(folder)
        candidates = [self.candidate(target.name) for target in plan.targets]
        return figures, collect(figures, self.tuning.file, candidates, number, folder)

    def _may_begin(self, cell: Cell, duration_s: int) -> bool:
        """Return whether there is time for a cell; each candidate of a round is measured once in any case."""
        return cell.repetition == 1 or self._measured_costs().of([Round(1, 1, duration_s)]) <= self._left_s()

    def _round_folder(self, number: int) -> RunFolder:
        return RunFolder(self.folder / f"round-{number}")

    def _records(self, *rounds: str) -> list[tuple[CellRecord, int]]:
        """Return the record of each cell that came to an end (in all rounds by default), and its load's duration."""
        found = []
        for name in rounds or sorted(path.name for path in self.folder.glob("round-*")):
            folder = RunFolder(self.folder / name)
            if folder.record_path.is_file():
                duration_s = folder.read_plan().duration_s
                records = [folder.read_cell(cell) for cell in folder.read_record().order]
                found += [(record, duration_s) for record in records if record]
        return found

    def _left(self) -> str:
        return f"at most {show_clock(self._left_s())} left"

    def _left_s(self) -> float:
        return self._budget_s - fsum(record.ended_unix_s - record.began_unix_s for record, _ in self._records())

    def _measured_costs(self) -> Costs:
        overheads_s = [
            record.ended_unix_s - record.began_unix_s - duration_s
            for record, duration_s in self._records()
            if record.status == "finished"
        ]
        if not overheads_s:
            return self._costs
        return replace(self._costs, overhead_s=max(0.0, fsum(overheads_s) / len(overheads_s)))


def _left_cells(plan: Plan, folder: RunFolder) -> list[Cell]:
    """Return the cells of a round that have not come to an end."""
    order = folder.read_record().order if folder.record_path.is_file() else cell_order(plan)
    return [cell for cell in order if not folder.read_cell(cell)]


def _any_finished(folder: RunFolder, name: str) -> bool:
    records = [folder.read_cell(cell) for cell in folder.read_record().order if cell.target == name]
    return any(record is not None and record.status == "finished" for record in records)


def _show_size(plan: Plan) -> str:
    names = ", ".join(target.name for target in plan.targets)
    return f"{names}; {plan.repetitions} × {plan.duration_s} s of load each"
