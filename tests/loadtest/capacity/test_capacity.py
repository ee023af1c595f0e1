"""Open loop and capacity: real Locust and a real search, on targets whose stall and whose capacity are counted.

How long latencies are, and a capacity that time decides: `python -m tests.benchmarks.known_answers`.
"""

import json
import math
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtest.capacity.bisection import MOST_INVALID
from loadtest.plan.plan import Plan
from loadtest.rows.columns import RequestRow
from loadtest.rows.run_folder import RunFolder
from tests.failures import keep_on_failure
from tests.kit import (
    RUN_S,
    Ended,
    ask,
    assert_nothing_left,
    faults_of,
    known_target,
    run_command,
    run_kit,
    started,
    workload,
    write_plan,
)
from tests.ports import free_port

pytestmark = pytest.mark.timeout(3 * RUN_S)

OPEN_RPS = 50
IN_FLIGHT = 5
STALL_S = 0.6
# With more clients every answer takes SLOW_MS longer, so that the users decide which side of the objective it is on.
CAPACITY_USERS, TOO_MANY_USERS = 4, 8
DELAY_MS, SLOW_MS = 5, 300
OBJECTIVE = "fixed.median_ms<=150"
# Long beside the time that the generator itself takes between two requests of a user, which no law explains.
THINK_S = 0.25
NO_WARM_UP = {"duration_s": 0}


@pytest.fixture(scope="module")
def open_loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    """A run at 80 % of what a target can serve, which stops for a while at its 30th request."""
    folder = tmp_path_factory.mktemp("open_loop")
    options = f"--serial-rate {OPEN_RPS / 0.8:g} --stall-at 30 --stall-s {STALL_S:g}"
    plan = write_plan(
        folder / "plan.yaml",
        [known_target("stalling", free_port(), options)],
        settle_s=0.2,
        warmup=NO_WARM_UP,
        workload=workload("serial", wait_s=[0, 0]),
    )
    rate = ("--rate", str(OPEN_RPS), "--arrivals", "constant", "--in-flight", str(IN_FLIGHT))
    ended = run_kit(plan, folder / "run", *rate)
    with keep_on_failure("open loop", lambda: [ended.folder.path]):
        yield ended


def test_an_open_loop_sends_every_arrival_whatever_the_target_does(open_loop: Ended) -> None:
    cell, rows = open_loop.cell("stalling"), open_loop.rows("stalling")
    assert faults_of(cell) == []
    scheduled_s = sorted(scheduled_unix_s(row) for row in rows)
    moments = open_loop.record("stalling").moments
    assert moments
    assert moments.waited_s is not None
    assert 0 < moments.waited_s <= moments.stopped_unix_s - moments.stopping_unix_s
    duration_s = open_loop.folder.read_plan().duration_s
    due = math.ceil(min(duration_s, moments.stopping_unix_s - scheduled_s[0]) * OPEN_RPS)  # it may stop late
    assert abs(len(rows) - due) <= 1
    assert cell.arrivals_due == len(rows) > STALL_S * OPEN_RPS
    assert cell.arrivals_unsent == 0
    gaps_s = [later - earlier for earlier, later in pairwise(scheduled_s)]
    assert gaps_s == [pytest.approx(1 / OPEN_RPS, abs=1e-5)] * (len(rows) - 1)
    assert all(row.start_unix_s - scheduled_unix_s(row) > -0.01 for row in rows)


def test_what_waits_for_a_free_user_is_counted_as_queued(open_loop: Ended) -> None:
    """At most five requests are under way in the stall; all others that are due in it wait to be sent."""
    cell = open_loop.cell("stalling")
    assert cell.arrivals_queued
    assert cell.arrivals_queued >= STALL_S * OPEN_RPS - IN_FLIGHT - 1
    assert any(f"{cell.arrivals_queued} were sent late" in note for note in cell.notes)


def test_a_stall_is_in_the_latency_from_the_scheduled_time(open_loop: Ended) -> None:
    rows, cell = open_loop.rows("stalling"), open_loop.cell("stalling")
    record = open_loop.record("stalling")
    assert record.moments
    assert record.moments.spawned_unix_s
    begin_s, end_s = record.moments.spawned_unix_s + 0.2, record.moments.stopping_unix_s
    due = [row for row in rows if begin_s <= scheduled_unix_s(row) <= end_s]
    from_schedule_ms = [row.latency_ms + 1000 * (row.start_unix_s - scheduled_unix_s(row)) for row in due]
    assert cell.scheduled
    assert cell.scheduled.requests == len(due)
    p95_ms = float(np.percentile(from_schedule_ms, 95, method="inverted_cdf"))
    assert cell.scheduled.p95_ms == pytest.approx(p95_ms, abs=0.01)
    # Those due in the first half of the stall wait for the other half at least, sent or not.
    assert sum(latency_ms >= 1000 * STALL_S / 2 for latency_ms in from_schedule_ms) >= STALL_S / 2 * OPEN_RPS - 1
    report = (open_loop.folder.path / "report.md").read_text()
    assert "p95 ms, scheduled" in report
    assert "open loop: 50 requests per second, evenly" in report


def scheduled_unix_s(row: RequestRow) -> float:
    assert row.scheduled_unix_s is not None
    return row.scheduled_unix_s


@pytest.fixture
def search_plan(tmp_path: Path) -> Path:
    return write_plan(
        tmp_path / "plan.yaml",
        [
            known_target("crowded", free_port(), f"--delay-ms {DELAY_MS} --crowd {CAPACITY_USERS} --slow-ms {SLOW_MS}"),
            known_target("other", free_port()),
        ],
        users=[CAPACITY_USERS],
        settle_s=0.2,
        warmup=NO_WARM_UP,
        workload=workload("fixed", wait_s=[THINK_S, THINK_S]),
    )


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "capacity.json").read_text())
    return found


def test_the_known_capacity_is_found_and_confirmed_after_an_interruption(search_plan: Path, tmp_path: Path) -> None:
    folder = tmp_path / "search"
    options = ("--target", "crowded", "--window", "1.6", "--confirm", "1.6", "--resolution", "100")
    command = ["capacity", search_plan, "--slo", OBJECTIVE, "--out", folder, *options]
    with started(command, folder, tmp_path) as kit:
        kit.wait_until(lambda: (folder / "capacity.json").is_file() and bool(read(folder)["steps"]), "the first step")
        kit.interrupt()
        stopped = kit.wait()
        assert_nothing_left(kit.mark)
        assert stopped.exit_code == 130
        assert "run the same command again" in stopped.stderr
        first, step, *_ = stopped.stderr.splitlines()
        assert re.match(r"up to \d+ level\(s\): at most [\d:]+ h if no step is repeated", first)
        assert re.match(r"\[1\] .* \(at most [\d:]+ h left\)$", step)
        before = read(folder)
        assert before["result"] is None
    ended = run_command(command, folder, tmp_path)
    assert ended.exit_code == 0, ended.output
    after = read(folder)
    assert after["steps"][: len(before["steps"])] == before["steps"]
    assert after["result"] == {
        "status": "confirmed",
        "capacity": CAPACITY_USERS,
        "smallest_failed": TOO_MANY_USERS,
        "because": "4 is far from the objective, and yet 8 failed 3 times",
    }
    assert "crowded: 4 users hold fixed.median_ms <= 150; 8 users do not; confirmed by a longer run" in ended.stdout
    assert (after["steps"][-1]["purpose"], after["steps"][-1]["level"]) == ("confirm", CAPACITY_USERS)
    for step in after["steps"]:
        assert RunFolder(folder / step["folder"]).read_plan().users == [step["level"]]
    differing = ask("capacity", search_plan, "--slo", OBJECTIVE, "--out", folder, *options[:2])
    assert differing.exit_code == 2
    assert "differing: question" in differing.stderr
    hashes = folder / "files.json"
    hashes.write_text(re.sub(r'": "[0-9a-f]{64}"', f'": "{64 * "0"}"', hashes.read_text()))
    changed = ask(*command)
    assert changed.exit_code == 2
    assert "workload.locustfile: " in changed.stderr
    assert f"has changed since {folder} began" in changed.stderr


def test_a_target_that_never_becomes_ready_ends_the_search_without_an_answer(tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "plan.yaml", [known_target("ending", free_port(), "--exit-after-s 0")])
    folder = tmp_path / "search"
    ended = run_command(["capacity", plan, "--slo", OBJECTIVE, "--out", folder], folder, tmp_path)
    assert ended.exit_code == 1, ended.output
    assert [step["outcome"] for step in read(folder)["steps"]] == ["invalid"] * MOST_INVALID
    assert f"not known which load holds {read(folder)['objective'][0]}; NOT CONFIRMED" in ended.stdout
    assert "5 could not be measured, 3 times: the target ended with code 3" in ended.stdout


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], ["--target", "crowded, other"]),
        (["--target", "third"], ["third", "crowded, other"]),
        (["--target", "crowded", "--slo", "p95_ms>=3"], ["<= or <"]),
        (["--target", "crowded", "--slo", "p90_ms<=3"], ["p95_ms"]),
        (["--target", "crowded", "--slo", "serial.p95_ms<=3"], ["'serial' is not one of fixed"]),
        (["--target", "crowded", "--rate", "0"], ["--rate", "above 0"]),
        (["--target", "crowded", "--most", "15.5"], ["--most: 15.5 is no number of users", "--rate"]),
        (
            ["--target", "crowded", "--most", "3"],
            [f"--most: 3 is below the first step, {CAPACITY_USERS}; raise it, or see --start"],
        ),
        (
            ["--target", "crowded", "--rate", "5", "--most", "3"],
            ["--most: 3 is below the first step, 5; raise it, or see --rate"],
        ),
        (["--target", "crowded", "--arrivals", "poisson"], ["--arrivals", "only together with --rate"]),
        (["--target", "crowded", "--rate", "5", "--start", "3"], ["--start: is a number of users"]),
    ],
)
def test_bad_options_of_a_search_end_with_2(search_plan: Path, options: list[str], told: list[str]) -> None:
    out = search_plan.parent / "search"
    ended = ask("capacity", search_plan, "--slo", OBJECTIVE, "--out", out, *options)
    assert ended.exit_code == 2
    assert [text for text in told if text not in ended.stderr] == []
    assert not out.exists()


def test_users_and_a_rate_are_not_given_together(search_plan: Path) -> None:
    out = search_plan.parent / "run"
    ended = ask("run", search_plan, "--rate", "5", "--users", "3", "--out", out)
    assert ended.exit_code == 2
    assert "--in-flight" in ended.stderr
    assert not out.exists()


def test_a_plan_has_one_pace() -> None:
    both = workload("serial", wait_s=[0, 0], rate_rps=3)
    plan = {"title": "", "targets": [known_target("one", 1)], "users": [1], "spawn_rate_per_s": 1, "duration_s": 60}
    with pytest.raises(ValueError, match=r"wait_s .* or rate_per_user_rps or rate_rps"):
        Plan.model_validate({**plan, "workload": both})
