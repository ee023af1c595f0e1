"""The kit measures right: one whole run of it, real Locust against targets that state what they saw of each request.

What is claimed is counted, or is an order of events, so that it holds on any machine. That latencies and rates are
right to some percent on a quiet one is shown by `python -m tests.benchmarks.known_answers`.
"""

import io
import itertools
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import mean

import pytest
import yaml
from rich.console import Console

from loadtest.figures.traffic import read_stages_ms
from loadtest.measure.cell_run import CellRun
from loadtest.measure.progress import Progress
from loadtest.measure.runner import cell_order
from loadtest.plan.plan import Plan
from loadtest.rows.columns import RequestRow
from loadtest.rows.run_folder import Cell, Moments, RunFolder
from tests.failures import keep_on_failure
from tests.kit import (
    RUN_S,
    START_S,
    Ended,
    arrived,
    ask,
    faults_of,
    known_target,
    make_report,
    run_kit,
    target_metrics,
    workload,
    write_plan,
)
from tests.known_target import Seen, read_seen
from tests.made_run import made_plan, write_made_run
from tests.ports import free_port

pytestmark = pytest.mark.timeout(3 * RUN_S)

USERS = 5
DELAY_MS = 20.0
SERIAL_RPS = 100
FAIL_EVERY = 10
SEED = 7
CLOCK_MS = 1.0
"""By so much the clocks of two processes may differ: rows are by that of Locust, what was seen by the target's."""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target that fails every tenth request, one that lacks a replica, and one whose time goes by in a database."""
    port, replicas = free_port(), {"role": "replica", "count": 2, "wait_s": 0}
    known = f"--delay-ms {DELAY_MS:g} --serial-rate {SERIAL_RPS} --fail-every {FAIL_EVERY} --workers 2"
    database = "{python} -m tests.bottleneck_target database --port"
    return write_plan(
        tmp_path_factory.mktemp("live") / "plan.yaml",
        [
            known_target("short", port, "--workers 1", replicas=replicas),
            known_target("known", port, known, replicas=replicas, about=["/about"]),
            known_target("database", port, start=f"{database} {port} --behind {free_port()}"),
        ],
        seed=SEED,
        users=[USERS],
        workload=workload("fixed", "serial", wait_s=[0, 0]),
        warmup={"users": 1, "duration_s": 1},
        metrics=target_metrics(port),
        limits=["failures_percent <= 0", f"fixed.median_ms <= {1000 * START_S}"],
        roles=[
            {"name": "replica", "command": r"known_target --replica$"},
            {"name": "worker", "command": "--role worker"},
            {"name": "behind", "command": "--role database"},
        ],
    )


@pytest.fixture(scope="module")
def live(plan: Path) -> Iterator[Ended]:
    ended = run_kit(plan, plan.parent / "run")
    with keep_on_failure("live run", lambda: [ended.folder.path]):
        yield ended


def test_all_cells_are_measured_but_the_one_that_lacks_a_replica(live: Ended) -> None:
    assert {target: live.record(target).status for target in ("short", "known", "database")} == {
        "short": "failed",
        "known": "finished",
        "database": "finished",
    }
    assert [faults_of(live.cell(target)) for target in ("known", "database")] == [[], []]
    assert [live.record(target).notes for target in ("short", "known")] == [[], []]
    assert live.exit_code == 1
    assert "Traceback" not in live.output


def test_every_request_that_reached_the_target_has_one_row(live: Ended) -> None:
    rows, counts = live.rows("known"), arrived(live.cell("known"))
    assert len(rows) >= 2 * FAIL_EVERY
    assert Counter(row.status for row in rows) == counts
    for of_client in by_client(rows).values():
        assert [seen.number for seen, _ in of_client] == [*range(1, len(of_client) + 1)]


def test_a_latency_is_the_time_from_the_sending_to_the_whole_answer(live: Ended) -> None:
    """A row begins before its request arrived, ends after it was answered, and before the same user's next arrived."""
    clients = by_client(live.rows("known"))
    assert len(clients) == USERS
    in_order: list[bool] = []
    for of_client in clients.values():
        for seen, row in of_client:
            in_order += [
                sent_ms(row) <= 1000 * seen.unix_s + CLOCK_MS,
                answered_ms(row) >= 1000 * seen.unix_s + stated_ms(row) - CLOCK_MS,
            ]
        for (_, row), (following, _) in pairwise(of_client):
            in_order.append(answered_ms(row) <= 1000 * following.unix_s + CLOCK_MS)
    # A process that is interrupted between two readings of a clock is wrong by as long, in that row.
    assert sum(in_order) >= 0.9 * len(in_order)


def test_failures_are_those_of_the_target(live: Ended) -> None:
    rows = live.rows("known")
    assert {(row.status, row.error) for row in rows} == {(200, ""), (503, "status 503")}
    # The load is an unbroken part of the target's count, in which every tenth request fails.
    assert abs(sum(row.status == 503 for row in rows) - len(rows) / FAIL_EVERY) < 1
    assert {(row.status, row.error) for row in live.rows("database")} == {(200, "")}


def test_figures_are_of_the_requests_that_were_sent_in_their_window(live: Ended) -> None:
    for target in ("known", "database"):
        cell, steady, load = live.cell(target), steady_rows(live, target), moments(live, target)
        assert cell.steady
        assert cell.whole_run
        # Users whose task ends just then send once more after the end.
        sent = [row for row in live.rows(target) if row.start_unix_s <= load.stopping_unix_s]
        assert 0 < cell.steady.requests == len(steady) < cell.whole_run.requests == len(sent)
        assert cell.steady.failures == sum(bool(row.error) for row in steady)
        assert cell.steady.rps == pytest.approx(len(steady) / window(live, target)[2], rel=1e-3)


def test_requests_of_the_warm_up_are_in_no_figure(live: Ended) -> None:
    before = live.rows("known", "warmup.csv")
    began_unix_s = moments(live, "known").started_unix_s
    assert before
    assert max(row.start_unix_s for row in before) < began_unix_s
    assert min(row.start_unix_s for row in live.rows("known")) >= began_unix_s


def test_failures_are_not_in_the_latencies(live: Ended) -> None:
    steady = live.cell("known").steady
    assert steady
    right = [row.latency_ms for row in steady_rows(live, "known") if not row.error]
    assert steady.avg_ms == pytest.approx(mean(right), abs=0.001)
    assert steady.max_ms == pytest.approx(max(right), abs=0.001)


def test_stages_are_what_the_target_stated_and_the_rest_is_unexplained(live: Ended) -> None:
    for endpoint in live.cell("known").endpoints:
        right = [row for row in steady_rows(live, "known") if row.endpoint == endpoint.endpoint and not row.error]
        stated = [read_stages_ms(row.server_timing) for row in right]
        stages = {stage.name: stage.avg_ms for stage in endpoint.stages}
        assert stages == {name: pytest.approx(mean(stage[name] for stage in stated), abs=0.001) for name in stated[0]}
        assert stages["work"] == (DELAY_MS if endpoint.endpoint == "fixed" else 1000 / SERIAL_RPS)
        assert endpoint.steady.avg_ms is not None
        assert endpoint.unexplained_ms == pytest.approx(endpoint.steady.avg_ms - sum(stages.values()), abs=0.01)


def test_the_load_lasts_as_long_as_the_plan_says(live: Ended) -> None:
    duration_s = live.folder.read_plan().duration_s
    for target in ("known", "database"):
        found = moments(live, target)
        assert duration_s - 0.05 <= found.stopping_unix_s - found.started_unix_s < duration_s + START_S


def test_order_seed_and_times_of_the_cells_are_recorded(live: Ended) -> None:
    record = live.folder.read_record()
    assert record.order == cell_order(live.folder.read_plan())
    cells = [live.record(cell.target) for cell in record.order]
    times_s = [time_s for cell in cells for time_s in (cell.began_unix_s, cell.ended_unix_s)]
    assert times_s == sorted(times_s)
    assert record.seed == live.figures().test["seed"] == SEED
    assert len({cell.seed for cell in cells}) == 1


def test_users_behave_alike_for_all_targets_and_otherwise_in_each_repetition(live: Ended) -> None:
    seeds = {
        (target, number): seed_of(live.folder, target, number) for target in ("short", "known") for number in (1, 2)
    }
    assert seeds["short", 1] == seeds["known", 1] != seeds["short", 2] == seeds["known", 2]
    assert seeds["known", 1] == live.record("known").seed


def test_what_the_target_says_of_itself_is_recorded(live: Ended) -> None:
    assert live.record("known").about["/about"]["delay_ms"] == DELAY_MS


def test_a_missing_replica_fails_its_cell_alone(live: Ended) -> None:
    short, known = live.cell("short"), live.cell("known")
    assert (short.valid, short.replicas_found, short.replicas_asked) == (False, 1, 2)
    assert short.reasons == [
        "1 processes of the role replica run, the plan asks for 2; see replicas and roles in the plan"
    ]
    assert (known.replicas_found, known.replicas_asked) == (2, 2)


def test_the_processes_of_a_role_are_sampled(live: Ended) -> None:
    """A cell of two seconds may be without a sample where the machine stood still."""
    sampled = 0
    for target, roles in {"known": {"replica": 2}, "database": {"worker": 1, "behind": 1}}.items():
        rows = live.resources(target)
        for role, count in {**roles, "load_generator": 1}.items():
            assert {row.processes for row in rows if row.role == role} <= {count}
        sampled += roles.keys() <= {row.role for row in rows}
        used = [row.cpu_percent for row in rows if row.role == "load_generator"]
        assert sum(used) > 0 or not used
    assert sampled > 0


def test_what_limits_a_target_is_read_from_its_stages(live: Ended) -> None:
    """Nearly all of a latency passes in the database, unless the machine was filled by others in that time."""
    cell = live.cell("database")
    assert cell.bottleneck
    assert (cell.bottleneck.limit, cell.bottleneck.where) in [
        ("stage", "db"),
        ("other_load", None),
        ("load_generator", "load_generator"),
    ]
    rows = steady_rows(live, "database")
    explained = sum(stated_ms(row) for row in rows) / sum(row.latency_ms for row in rows)
    assert cell.bottleneck.unexplained_percent == pytest.approx(100 * (1 - explained), abs=0.1)


def test_a_missed_limit_is_named_with_its_value(live: Ended) -> None:
    cell = live.cell("known")
    (missed,) = [limit for limit in cell.limits if not limit.met]
    assert cell.steady
    assert missed.value == cell.steady.failures_percent
    assert f"MISSED failures_percent <= 0: {missed.value:g} (known, {USERS} users, repetition 1)" in live.stdout
    assert "MISSED fixed.median_ms" not in live.output


def test_another_plan_in_the_same_folder_is_refused(live: Ended, plan: Path) -> None:
    ended = ask("run", plan, "--out", live.folder.path, "--duration", "5")
    assert ended.exit_code == 2
    assert "duration_s" in ended.stderr
    assert "--out" in ended.stderr


def test_a_report_made_again_from_raw_data_is_the_same_to_the_byte(live: Ended, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(live.folder.path, copy, ignore=shutil.ignore_patterns("report.*", "plots"))
    assert make_report(copy).exit_code == live.exit_code
    first, second = report_files(live.folder.path), report_files(copy)
    assert {"report.md", "report.html", "report.json"} <= set(first)
    # There is nothing to draw of cells that a busy machine made invalid.
    assert any(name.startswith("plots/") for name in first) == any(cell.valid for cell in live.figures().cells)
    assert [name for name in first if first[name] != second.get(name)] == []
    assert first.keys() == second.keys()


def test_a_run_whose_cells_are_valid_and_meet_their_limits_ends_with_0(tmp_path: Path) -> None:
    plan = write_made(tmp_path / "run", made_plan(users=[10], baseline=None))
    ended = ask("run", plan, "--out", tmp_path / "run", folder=tmp_path / "run")
    assert ended.exit_code == 0, ended.output
    assert "2 of 2 cells" in ended.stderr
    figures = ended.figures()
    assert (figures.all_valid, figures.all_limits_met) == (True, True)
    assert "MISSED" not in ended.stdout


def test_a_run_whose_cells_are_valid_and_miss_a_limit_ends_with_1(tmp_path: Path) -> None:
    write_made(tmp_path / "run", made_plan(users=[10], limits=["lookup.median_ms <= 0.1"], baseline=None))
    ended = make_report(tmp_path / "run")
    assert ended.exit_code == 1
    assert ended.stdout.count("MISSED lookup.median_ms <= 0.1") == 2
    assert ended.figures().all_valid


@pytest.mark.long
def test_a_rate_beyond_the_generator_makes_the_cell_invalid(tmp_path: Path) -> None:
    target = known_target("boundless", free_port())
    plan = write_plan(tmp_path / "plan.yaml", [target], users=[50], workload=workload("fixed", rate_per_user_rps=400))
    ended = run_kit(plan, tmp_path / "run")
    assert ended.exit_code == 1
    cell = ended.cell("boundless")
    assert not cell.valid
    assert cell.steady
    assert cell.steady.rps is not None
    reason = next(reason for reason in cell.reasons if "20000" in re.sub(r"[ ,](?=\d{3})", "", reason))
    assert "generator" in reason
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", re.sub(r"[ ,](?=\d{3})", "", reason))]
    assert any(number == pytest.approx(cell.steady.rps, rel=0.02) for number in numbers), reason
    assert "INVALID" in ended.output


@pytest.mark.long
def test_other_work_on_the_machine_makes_the_cell_invalid(tmp_path: Path) -> None:
    target = known_target("beside", free_port())
    plan = write_plan(tmp_path / "plan.yaml", [target], most_other_cpu_percent=20)
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            ended = run_kit(plan, tmp_path / "run")
        finally:
            other.kill()
    assert ended.exit_code == 1
    reasons = ended.cell("beside").reasons
    assert any(re.match(r"other work on this machine used \d+ % of one core, 20 % are allowed", one) for one in reasons)


def test_all_faults_of_a_plan_are_told_at_once(tmp_path: Path) -> None:
    target = known_target("one", free_port(), retries=3, url="localhost")
    plan = write_plan(tmp_path / "plan.yaml", [target], users=[5, 5], durations_s=3, limits=["p90_ms < 3"])
    ended = ask("run", plan, "--out", tmp_path / "run")
    assert ended.exit_code == 2
    lines = [line.removeprefix("error: ") for line in ended.stderr.splitlines()]
    assert all(line.startswith(f"{plan}: ") for line in lines), ended.stderr
    faults = dict(line.removeprefix(f"{plan}: ").split(": ", 1) for line in lines)
    assert faults.keys() == {"targets.0.retries", "targets.0.url", "users", "durations_s", "limits.0"}
    assert "ready_timeout_s" in faults["targets.0.retries"]
    assert "duration_s" in faults["durations_s"]
    assert "p95_ms" in faults["limits.0"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--targets", "one,two"], ["two", "it has one"]),
        (["--users", "ten"], ["--users", "ten"]),
        (["--duration", "0"], ["duration_s"]),
    ],
)
def test_bad_options_end_with_2_before_anything_is_made(tmp_path: Path, options: list[str], told: list[str]) -> None:
    plan = write_plan(tmp_path / "plan.yaml", [known_target("one", free_port())])
    ended = ask("run", plan, "--out", tmp_path / "run", *options)
    assert ended.exit_code == 2
    assert [text for text in told if text not in ended.stderr] == []
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "run").exists()


def test_a_plan_that_is_not_there_is_named(tmp_path: Path) -> None:
    ended = ask("run", tmp_path / "nowhere.yaml", "--out", tmp_path / "run")
    assert ended.exit_code == 2
    assert f"{tmp_path / 'nowhere.yaml'}: cannot be read: No such file" in ended.stderr


def by_client(rows: list[RequestRow]) -> dict[int, list[tuple[Seen, RequestRow]]]:
    """Return the rows of each connection in the order of their arrival, each with what the target saw of it."""
    found: dict[int, list[tuple[Seen, RequestRow]]] = defaultdict(list)
    for row in rows:
        seen = read_seen(row.server_timing)
        found[seen.client].append((seen, row))
    return {client: sorted(of_client, key=lambda each: each[0].number) for client, of_client in found.items()}


def sent_ms(row: RequestRow) -> float:
    return 1000 * row.start_unix_s


def answered_ms(row: RequestRow) -> float:
    return 1000 * row.start_unix_s + row.latency_ms


def stated_ms(row: RequestRow) -> float:
    """Return how long the target took by its own account."""
    return sum(read_stages_ms(row.server_timing).values())


def moments(ended: Ended, target: str) -> Moments:
    found = ended.record(target).moments
    assert found
    return found


def window(ended: Ended, target: str) -> tuple[float, float, float]:
    """Return begin, end and length of the steady window."""
    found = moments(ended, target)
    assert found.spawned_unix_s
    begin_s = found.spawned_unix_s + ended.folder.read_plan().settle_s
    return begin_s, found.stopping_unix_s, found.stopping_unix_s - begin_s


def steady_rows(ended: Ended, target: str) -> list[RequestRow]:
    begin_s, end_s, _ = window(ended, target)
    return [row for row in ended.rows(target) if begin_s <= row.start_unix_s <= end_s]


def seed_of(folder: RunFolder, target: str, repetition: int) -> int:
    cell = Cell(target=target, users=USERS, repetition=repetition)
    return CellRun(folder.read_plan(), cell, folder.cell_path(cell), Progress(Console(file=io.StringIO()))).record.seed


def write_made(folder: Path, plan: Plan) -> Path:
    """Write a run of `plan` that is over, and return where the plan is."""
    write_made_run(folder, plan)
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(plan.model_dump(mode="json")))
    return path


def report_files(folder: Path) -> dict[str, bytes]:
    files = itertools.chain(folder.glob("report.*"), folder.glob("plots/**/*"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(files) if file.is_file()}
