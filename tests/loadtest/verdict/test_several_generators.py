"""The validity rules hold for each of several load generators, and name the one that breaks them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtest.capacity.judgement import judge
from loadtest.figures.figures import UNITS, CellFigures, ReasonCode
from loadtest.rows.columns import GeneratorRow
from loadtest.rows.run_folder import ClockRecord, RunFolder
from loadtest.verdict.summary import summarize
from tests.loadtest.page.test_report import number_keys
from tests.made_run import MadeCell, made_plan, made_target, write_made_run

COUNT = 4


def divide(made: MadeCell) -> None:
    """Have COUNT generators make the load, in turn; each uses a tenth of a core."""
    assert made.record.moments
    made.record.moments.clocks = [
        ClockRecord(
            generator=number, ahead_s=0.002 * number, ahead_at_end_s=0.002 * number + 0.0001, uncertainty_s=0.0005
        )
        for number in range(1, COUNT + 1)
    ]
    made.requests = [replace(row, generator=place % COUNT + 1) for place, row in enumerate(made.requests)]
    made.generator = [
        replace(
            row, users=-(-row.users // COUNT), requests=row.requests // COUNT, generator=number, own_cpu_percent=10.0
        )
        for row in made.generator
        for number in range(1, COUNT + 1)
    ]


def of_third(change: Callable[[GeneratorRow], GeneratorRow]) -> Callable[[MadeCell], None]:
    """Return what divides the load and then changes the third generator's rows of itself."""

    def divide_and_change(made: MadeCell) -> None:
        divide(made)
        made.generator = [change(row) if row.generator == 3 else row for row in made.generator]

    return divide_and_change


def cell_with(folder: Path, change: Callable[[MadeCell], object], **changes: Any) -> CellFigures:
    plan = made_plan(
        targets=[made_target("two_replicas", 2)], users=[40], baseline=None, generators=COUNT, limits=[], **changes
    )
    (cell,) = summarize(RunFolder(write_made_run(folder, plan, change))).cells
    return cell


def only_reason(cell: CellFigures) -> tuple[ReasonCode, str]:
    (reason,) = cell.reasons
    return reason.code, str(reason)


def test_a_divided_load_is_valid_and_has_the_figures_of_the_same_rows_from_one(tmp_path: Path) -> None:
    divided, whole = cell_with(tmp_path / "several", divide), cell_with(tmp_path / "one", lambda _: None)
    assert divided.valid
    assert whole.valid
    assert (divided.steady, divided.endpoints) == (whole.steady, whole.endpoints)
    assert [generator.name for generator in divided.generators] == ["1 of 4", "2 of 4", "3 of 4", "4 of 4"]
    assert divided.steady
    assert sum(generator.requests for generator in divided.generators) == divided.steady.requests
    assert whole.generators == []


def test_the_reader_is_told_how_far_the_clocks_were_corrected(tmp_path: Path) -> None:
    cell = cell_with(tmp_path, divide)
    assert "times of 4 load generators were corrected by 8.00 ms at most, which may be wrong by 0.50 ms" in cell.notes


def test_one_late_generator_of_several(tmp_path: Path) -> None:
    code, told = only_reason(cell_with(tmp_path, of_third(lambda row: replace(row, lag_ms=80.0))))
    assert code == "generator_late"
    assert told.startswith("load generator 3 of 4 was late: its event loop for 8 % of the time (by 80.0 ms at most)")


def test_one_generator_of_several_that_is_short_of_cpu_though_together_they_use_little(tmp_path: Path) -> None:
    code, told = only_reason(cell_with(tmp_path, of_third(lambda row: replace(row, own_cpu_percent=95.0))))
    assert (code, told) == (
        "generator_cpu",
        "load generator 3 of 4 was short of CPU: it used 95 % of one core, 90 % are allowed",
    )


def test_several_generators_may_use_more_than_a_core_together(tmp_path: Path) -> None:
    def use_half_a_core_each(made: MadeCell) -> None:
        divide(made)
        made.generator = [replace(row, own_cpu_percent=50.0) for row in made.generator]
        made.resources = [
            replace(row, cpu_percent=200.0) if row.role == "load_generator" else row for row in made.resources
        ]

    cell = cell_with(tmp_path, use_half_a_core_each, most_other_cpu_percent=10_000)
    assert cell.valid, cell.reasons
    assert cell.bottleneck
    assert cell.bottleneck.limit != "load_generator"


def test_a_generator_without_rows_of_itself(tmp_path: Path) -> None:
    def forget(made: MadeCell) -> None:
        divide(made)
        made.generator = [row for row in made.generator if row.generator != 3]

    code, told = only_reason(cell_with(tmp_path, forget))
    assert code == "generator_unseen"
    assert "no row of load generator 3 of 4 in the steady window" in told


def test_a_generator_that_sent_nothing_while_the_others_did(tmp_path: Path) -> None:
    def let_the_others_send(made: MadeCell) -> None:
        divide(made)
        made.requests = [replace(row, generator=1 if row.generator == 3 else row.generator) for row in made.requests]

    code, told = only_reason(cell_with(tmp_path, let_the_others_send))
    assert code == "generator_lost"
    assert told.startswith("load generator 3 of 4 sent none of ")


def test_a_lost_generator_makes_its_cell_invalid_with_the_reason_and_not_the_target_s_limit(tmp_path: Path) -> None:
    def lose(made: MadeCell) -> None:
        made.record.status, made.record.failure = "failed", "generator_lost"
        made.record.reason = "load generator 3 of 4 ended with code -9 before the load was over"

    cell = cell_with(tmp_path, lose)
    assert only_reason(cell) == ("generator_lost", "load generator 3 of 4 ended with code -9 before the load was over")
    outcome, _, because = judge(cell, made_plan())
    assert outcome == "invalid"
    assert because.startswith("a generator was lost: load generator 3 of 4")


def test_lost_rows_make_their_cell_invalid_and_are_not_the_target_s_limit(tmp_path: Path) -> None:
    told = "load generator 3 of 4 sent 900 rows, but 700 of them were written"

    def lose(made: MadeCell) -> None:
        made.record.status, made.record.failure, made.record.reason = "failed", "rows_lost", told

    cell = cell_with(tmp_path, lose)
    assert only_reason(cell) == ("rows_lost", told)
    assert judge(cell, made_plan())[::2] == ("invalid", f"rows of a generator were lost: {told}")


def test_a_clock_that_is_not_known_well_enough(tmp_path: Path) -> None:
    def doubt(made: MadeCell) -> None:
        divide(made)
        assert made.record.moments
        known = made.record.moments.clocks
        known[2] = known[2].model_copy(update={"uncertainty_s": 0.3})

    code, told = only_reason(cell_with(tmp_path, doubt))
    assert code == "clock_unknown"
    assert told.startswith("the clock of load generator 3 of 4 is known to ± 0.30 s only, ± 0.1 s are allowed")


def test_a_clock_that_drifts_too_far(tmp_path: Path) -> None:
    def drift(made: MadeCell) -> None:
        divide(made)
        assert made.record.moments
        known = made.record.moments.clocks
        known[2] = known[2].model_copy(update={"ahead_at_end_s": known[2].ahead_s - 0.2, "uncertainty_s": 0.2005})

    code, told = only_reason(cell_with(tmp_path, drift))
    assert code == "clock_unknown"
    assert told.endswith("is known to ± 0.20 s only, ± 0.1 s are allowed: it drifted by -0.20 s during the load")


def test_a_clock_that_jumps_is_the_generator_s_whose_it_is(tmp_path: Path) -> None:
    code, told = only_reason(
        cell_with(tmp_path, of_third(lambda row: replace(row, unix_s=row.unix_s + 2 * (row.users >= COUNT))))
    )
    assert code == "clock_jumped"
    assert told.startswith("the clock of load generator 3 of 4 jumped by +2.00 s")


def test_users_that_did_not_come_are_counted_over_all_generators(tmp_path: Path) -> None:
    def come_short(made: MadeCell) -> None:
        divide(made)
        assert made.record.moments
        made.record.moments.spawned_unix_s = None
        made.generator = [replace(row, users=min(row.users, 9)) for row in made.generator]

    cell = cell_with(tmp_path, come_short)
    assert [str(reason) for reason in cell.reasons] == ["not all 40 users came: 36 at most"]


def test_every_number_of_several_generators_in_the_json_has_a_unit(tmp_path: Path) -> None:
    plan = made_plan(users=[40], generators=COUNT)
    figures = summarize(RunFolder(write_made_run(tmp_path, plan, divide)))
    assert all(point.generators for point in figures.points)
    numbers = set(number_keys(json.loads(figures.model_dump_json())))
    assert {key for key in numbers if not any(key.endswith(end) for end in UNITS)} == set()


@pytest.mark.parametrize("users", [[40], [40, 4]])
def test_a_plan_may_have_as_many_generators_as_its_smallest_level_has_users(users: list[int]) -> None:
    made_plan(users=users, generators=4)
