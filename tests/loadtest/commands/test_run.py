"""`loadtest run` says how long it takes at most before it starts."""

from pathlib import Path

import pytest

from loadtest.commands import run
from loadtest.measure.progress import show_clock
from loadtest.plan.longest import longest_cell_s
from loadtest.rows.run_folder import RunFolder
from tests.made_run import made_plan, write_made_run


def test_run_tells_how_long_the_cells_that_are_left_take_at_most(tmp_path: Path) -> None:
    plan = made_plan(baseline=None)
    folder = RunFolder(tmp_path)
    each_s = longest_cell_s(plan, plan.targets[0])
    assert run.tell_time(plan, folder) == f"8 of 8 cells to measure, in at most {show_clock(8 * each_s)}"
    write_made_run(tmp_path, plan.model_copy(update={"users": [10, 25]}))
    assert run.tell_time(plan, folder) == f"4 of 8 cells to measure, in at most {show_clock(4 * each_s)}"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-5, "0:00 min"), (0.4, "0:00 min"), (65, "1:05 min"), (3599.6, "1:00:00 h"), (90_000, "25:00:00 h")],
)
def test_a_duration_has_one_notation(seconds: float, shown: str) -> None:
    assert show_clock(seconds) == shown
