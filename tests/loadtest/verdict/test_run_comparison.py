"""`loadtest compare`: what is said of two runs whose difference is known, and the exit code."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtest.errors import FailureCode
from loadtest.rows.columns import RequestRow
from tests.kit import ask
from tests.made_run import MadeCell, made_plan, made_target, write_made_run

TARGETS = [made_target("one_replica", 1)]
USERS = 25
FEW_USERS = 1


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("old") / "run")


def write_run(folder: Path, change: Callable[[MadeCell], object] | None = None, **keys: Any) -> Path:
    plan = made_plan(**{"targets": TARGETS, "users": [USERS], "repetitions": 3, "baseline": None, **keys})
    return write_made_run(folder, plan, change)


def slower(times: float) -> Callable[[MadeCell], None]:
    def change(made: MadeCell) -> None:
        made.requests = [replace(row, latency_ms=times * row.latency_ms) for row in made.requests]

    return change


def fail_every_tenth(made: MadeCell) -> None:
    made.requests = [
        replace(row, status=500, error="status 500", server_timing="") if number % 10 == 0 else row
        for number, row in enumerate(made.requests)
    ]


def do_not_start(made: MadeCell) -> None:
    made.record.status, made.record.reason, made.record.moments = "failed", "it did not start", None


def test_an_equal_run_is_a_tie_and_no_regression(old: Path, tmp_path: Path) -> None:
    ended = ask("compare", old, write_run(tmp_path / "run", seed=8))
    assert ended.exit_code == 0, ended.output
    assert "1 levels: 0 worse, 0 better, 0 divided, 1 tie, 0 not enough data" in ended.stdout


def test_a_slower_run_is_a_regression_with_its_figures(old: Path, tmp_path: Path) -> None:
    new = write_run(tmp_path / "run", slower(1.6), seed=8)
    ended = ask("compare", old, new)
    assert ended.exit_code == 1, ended.output
    assert f"WORSE one_replica, {USERS} users: old run: better in" in ended.stdout
    found = json.loads(ask("compare", old, new, "--json").stdout)
    (level,) = found["levels"]
    assert (level["target"], level["change"], level["comparison"]["winner"]) == ("one_replica", "worse", "old")
    (median,) = [one for one in level["comparison"]["differences"] if one["metric"] == "predict.median_ms"]
    low, high = median["interval_percent"]
    assert 0 < low < 60 < high


def test_a_faster_run_is_better_and_no_regression(old: Path, tmp_path: Path) -> None:
    ended = ask("compare", write_run(tmp_path / "run", slower(1.6), seed=8), old)
    assert ended.exit_code == 0, ended.output
    assert "1 better" in ended.stdout


def test_more_failures_are_a_regression_whatever_else_is_better(old: Path, tmp_path: Path) -> None:
    def change(made: MadeCell) -> None:
        slower(0.5)(made)
        fail_every_tenth(made)

    ended = ask("compare", old, write_run(tmp_path / "run", change, seed=8))
    assert ended.exit_code == 1, ended.output
    assert "fewer failures" in ended.stdout


def test_a_level_with_as_many_figures_better_as_worse_is_divided(old: Path, tmp_path: Path) -> None:
    def change(made: MadeCell) -> None:
        lookups = sorted(row.latency_ms for row in made.requests if row.endpoint == "lookup")
        p98_ms = lookups[98 * len(lookups) // 100]

        def changed_ms(row: RequestRow) -> float:
            if row.endpoint == "predict":  # its p99 needs more answers
                return 0.25 * row.latency_ms
            return max(row.latency_ms, min(4 * row.latency_ms, p98_ms))

        made.requests = [replace(row, latency_ms=changed_ms(row)) for row in made.requests]

    ended = ask("compare", old, write_run(tmp_path / "run", change, seed=8))
    assert ended.exit_code == 0, ended.output
    assert "1 levels: 0 worse, 0 better, 1 divided, 0 tie, 0 not enough data" in ended.stdout


def test_a_level_without_enough_data_is_told_and_is_no_regression(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(seed), users=[FEW_USERS, USERS], seed=seed) for seed in (7, 8)]
    ended = ask("compare", *runs)
    assert ended.exit_code == 0, ended.output
    assert "2 levels: 0 worse, 0 better, 0 divided, 1 tie, 1 not enough data" in ended.stdout


def test_runs_of_which_no_level_has_enough_data_do_not_pass(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(seed), users=[FEW_USERS], seed=seed) for seed in (7, 8)]
    ended = ask("compare", *runs)
    assert ended.exit_code == 2
    assert "nothing can be compared" in ended.stderr
    assert f"one_replica, {FEW_USERS} users:" in ended.stderr


def test_cells_that_are_not_valid_are_not_compared(old: Path, tmp_path: Path) -> None:
    ended = ask("compare", old, write_run(tmp_path / "run", do_not_start))
    assert ended.exit_code == 2
    assert "only the old run has valid data" in ended.stderr


def fail_with_all_users(made: MadeCell) -> None:
    if made.record.cell.users == USERS:
        made.requests = [replace(row, status=500, error="status 500", server_timing="") for row in made.requests]


def test_a_level_at_which_nothing_is_answered_any_more_is_a_regression(tmp_path: Path) -> None:
    levels: dict[str, Any] = {"users": [10, USERS], "duration_s": 60}
    old, new = write_run(tmp_path / "old", **levels), write_run(tmp_path / "new", fail_with_all_users, **levels, seed=8)
    ended = ask("compare", old, new)
    assert ended.exit_code == 1, ended.output
    assert f"WORSE one_replica, {USERS} users: old run: no request of the new run was answered right" in ended.stdout
    assert ask("compare", new, old).exit_code == 0


def hang(*, rows: bool = True, right_in_ramp: bool = False) -> Callable[[MadeCell], None]:
    """Let all users wait in the steady window for answers that do not come; without rows, until the kit gives up."""

    def change(made: MadeCell) -> None:
        moments = made.record.moments
        assert moments is not None
        assert moments.spawned_unix_s is not None
        begin_unix_s = moments.spawned_unix_s
        last = replace(made.requests[0], start_unix_s=begin_unix_s, latency_ms=60_000.0, status=0, error="timed out")
        made.requests = [row for row in made.requests if right_in_ramp and row.ended_unix_s < begin_unix_s]
        made.requests += [last] * made.record.cell.users if rows else []
        moments.stopped_unix_s = moments.stopping_unix_s + (45 if rows else made_plan().drain_s)

    return change


def fail(code: FailureCode, reason: str = "the target ended with code 139") -> Callable[[MadeCell], None]:
    def change(made: MadeCell) -> None:
        made.record.status, made.record.failure, made.record.reason = "failed", code, reason
        made.record.moments = None

    return change


def lose_the_replica(made: MadeCell) -> None:
    fail_with_all_users(made)
    made.resources = [row for row in made.resources if row.role != "classifier"]


def crash_or_hang(made: MadeCell) -> None:
    (hang() if made.record.cell.repetition == 2 else fail("target_failed"))(made)


NONE_RIGHT = "no request of the new run was answered right in a steady window"
FAILED = "the target of the new run failed in every repetition"


@pytest.mark.parametrize(
    ("change", "because"),
    [
        (hang(), NONE_RIGHT),
        (hang(right_in_ramp=True), NONE_RIGHT),
        (hang(rows=False), NONE_RIGHT),
        (hang(right_in_ramp=True, rows=False), NONE_RIGHT),
        (lose_the_replica, NONE_RIGHT),
        (crash_or_hang, NONE_RIGHT),
        (fail("target_failed"), FAILED),
    ],
    ids=["hang", "hang after the ramp", "hang for ever", "hang for ever after the ramp", "no replica", "both", "crash"],
)
def test_a_level_at_which_the_new_run_hangs_or_crashes_is_a_regression(
    old: Path, tmp_path: Path, change: Callable[[MadeCell], None], because: str
) -> None:
    new = write_run(tmp_path / "run", change, seed=8)
    ended = ask("compare", old, new)
    assert ended.exit_code == 1, ended.output
    assert f"WORSE one_replica, {USERS} users: old run: {because}" in ended.stdout
    assert "1 better" in ask("compare", new, old).stdout


def send_rarely(made: MadeCell) -> None:
    """Leave a right answer, and a failed one, of each endpoint in the steady window."""
    moments = made.record.moments
    assert moments is not None
    kept = [row for row in made.requests if row.start_unix_s > moments.stopping_unix_s - 10]
    rows = [next(row for row in kept if row.endpoint == name) for name in ("predict", "lookup")]
    made.requests = [rows[0], replace(rows[1], status=500, error="status 500")]


def send_nothing(made: MadeCell) -> None:
    made.requests.clear()


def be_rejected(made: MadeCell) -> None:
    made.requests = [replace(row, status=401, error="status 401", server_timing="") for row in made.requests]


def fail_beside_a_backup(made: MadeCell) -> None:
    fail_with_all_users(made)
    made.resources = [
        replace(row, cpu_percent=row.cpu_percent + 90) if row.role == "machine" else row for row in made.resources
    ]


@pytest.mark.parametrize(
    "change",
    [
        send_rarely,
        send_nothing,
        be_rejected,
        fail_beside_a_backup,
        fail("failed", "the load generator ended with code -9"),
        fail("generator_lost"),
    ],
)
def test_a_level_that_is_not_measured_for_another_reason_is_no_regression(
    old: Path, tmp_path: Path, change: Callable[[MadeCell], None]
) -> None:
    ended = ask("compare", old, write_run(tmp_path / "run", change, seed=8))
    assert ended.exit_code == 2, ended.output
    assert "only the old run has valid data" in ended.stderr


def test_levels_of_one_run_only_are_told(old: Path, tmp_path: Path) -> None:
    ended = ask("compare", old, write_run(tmp_path / "run", users=[USERS, 10], seed=8))
    assert ended.exit_code == 0, ended.output
    assert "only in the new run: one_replica, 10 users" in ended.stdout


def test_another_machine_is_told(old: Path, tmp_path: Path) -> None:
    new = write_run(tmp_path / "run", seed=8)
    record = json.loads((new / "run.json").read_text())
    record["sessions"][0]["environment"]["cores"] = 64
    (new / "run.json").write_text(json.dumps(record))
    assert "the machines differ (cores)" in ask("compare", old, new).stdout


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"users": [10]}, "no target at the same number of users in common"),
        ({"targets": [made_target("other", 1)]}, "no target at the same number of users in common"),
        (
            {"workload": {**made_plan().workload.model_dump(mode="json"), "wait_s": [2, 5]}},
            "different loads (differing: wait_s)",
        ),
    ],
)
def test_runs_that_have_nothing_in_common_do_not_pass(
    old: Path, keys: dict[str, Any], told: str, tmp_path: Path
) -> None:
    ended = ask("compare", old, write_run(tmp_path / "run", **keys))
    assert ended.exit_code == 2
    assert told in ended.stderr


def test_what_is_no_run_folder_and_a_run_beside_itself_are_refused(old: Path, tmp_path: Path) -> None:
    assert "cannot be read" in ask("compare", old, tmp_path).stderr
    ended = ask("compare", old, old.parent / "." / "run")
    assert ended.exit_code == 2
    assert "both the old and the new run" in ended.stderr
