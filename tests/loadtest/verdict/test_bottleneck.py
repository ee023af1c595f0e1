"""What limits a level, by made rows: each verdict by the load that makes it, and what does not make it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from loadtest.figures.figures import Bottleneck, CellFigures, Figures
from loadtest.figures.level import Cores, Level
from loadtest.page.report import write_report
from loadtest.rows.columns import RequestRow, ResourceRow
from loadtest.rows.run_folder import RunFolder
from loadtest.verdict.bottleneck import find_bottleneck
from loadtest.verdict.summary import summarize
from tests.made_run import MIB, MadeCell, made_plan, made_target, write_made_run

USERS = 20
THINK_S = 0.1
CORES = 2  # of the made machine


@dataclass(frozen=True)
class Use:
    """What a role uses in every second; the thread figures are those of one process that does all in one thread."""

    cpu_percent: float
    processes: int = 1
    busy_threads: int | None = None
    busiest_percent: float | None = None
    wait_percent: float = 0.0
    crowd_threads: int | None = None
    crowd_cores: float | None = None

    def row(self, unix_s: float, role: str) -> ResourceRow:
        busy = self.busy_threads if self.busy_threads is not None else int(self.cpu_percent >= 25)
        busiest = self.cpu_percent if self.busiest_percent is None else self.busiest_percent
        return ResourceRow(
            unix_s, role, self.processes, self.cpu_percent, 50 * MIB, 9, busy, busiest, self.wait_percent,
            self.crowd_threads, self.crowd_cores,
        )  # fmt: skip


@dataclass(frozen=True)
class Made:
    """One level: latency, Server-Timing, and what the roles and the generator do."""

    latency_ms: float = 20.0
    timing: str = "work;dur=19"
    roles: Mapping[str, Use] = field(default_factory=dict)
    machine_percent: float | None = None
    """By default what the roles use together."""
    stolen_percent: float = 0.0
    lag_ms: float = 1.0
    error: str = ""


def figures_of(folder: Path, levels: Mapping[int, Made], **changes: Any) -> Figures:
    """Return the figures of a run whose users send, wait for the answer, and think, in step."""
    workload = {
        "locustfile": "x.py",
        "endpoints": {"ask": {"request": "GET /"}},
        "wait_s": [THINK_S, THINK_S],
        **changes.pop("workload", {}),
    }
    plan = made_plan(
        targets=[*changes.pop("beside", ()), {**made_target("one", None), "start": changes.pop("start", "run one")}],
        users=list(levels),
        workload=workload,
        duration_s=12,
        settle_s=1,
        spawn_rate_per_s=1000,
        roles=[{"name": name, "command": name} for name in ("classifier", "ingress", "database")],
        limits=[],
        metrics=None,
        baseline=None,
        **changes,
    )

    def make(made: MadeCell) -> None:
        level = levels[made.record.cell.users]
        pace_s = 1 / plan.workload.rate_per_user_rps if plan.workload.rate_per_user_rps else 0.0
        cycle_s = max(pace_s, level.latency_ms / 1000 + (plan.workload.mean_wait_s or 0.0))
        assert made.record.moments
        began_s = made.record.moments.started_unix_s
        made.requests = [
            RequestRow(
                began_s + (user / made.record.cell.users + turn) * cycle_s,
                "ask", 200, level.latency_ms, 2, level.error, level.timing,
            )
            for turn in range(int(plan.duration_s / cycle_s))
            for user in range(made.record.cell.users)
        ]  # fmt: skip
        made.generator = [replace(row, lag_ms=level.lag_ms) for row in made.generator]
        made.resources = [row for second in range(13) for row in resources(level, began_s + second)]

    return summarize(RunFolder(write_made_run(folder, plan, make)))


def resources(level: Made, unix_s: float) -> list[ResourceRow]:
    uses = {"load_generator": Use(9.0), "kit": Use(2.0), **level.roles}
    whole = level.machine_percent
    if whole is None:
        whole = sum(use.cpu_percent for use in uses.values())
    return [
        *(use.row(unix_s, role) for role, use in uses.items()),
        ResourceRow(unix_s, "machine", 90, whole, 0, 0),
        ResourceRow(unix_s, "stolen", 0, level.stolen_percent, 0, 0),
    ]


def cell_of(folder: Path, level: Made, **changes: Any) -> CellFigures:
    (cell,) = figures_of(folder, {USERS: level}, **changes).cells
    return cell


def bottleneck_of(folder: Path, level: Made, **changes: Any) -> Bottleneck:
    found = cell_of(folder, level, **changes).bottleneck
    assert found
    return found


def last_of(folder: Path, levels: Mapping[int, Made]) -> Bottleneck:
    found = figures_of(folder, levels).points[-1].bottleneck
    assert found
    return found


# The machine of the test itself


def test_a_generator_that_uses_its_core_is_the_limit_and_its_cell_invalid(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, Made(300, roles={"load_generator": Use(96.0), "classifier": Use(99.0)}))
    assert cell.bottleneck
    assert (cell.valid, cell.bottleneck.limit) == (False, "load_generator")
    assert cell.bottleneck.evidence[0].startswith("The load generator used 96 % of one core")


def test_a_generator_is_at_its_limit_with_less_when_the_host_takes_a_part_of_each_core(tmp_path: Path) -> None:
    level = Made(300, roles={"load_generator": Use(78.0)}, stolen_percent=40)
    assert bottleneck_of(tmp_path, level).limit == "load_generator"


def test_a_late_generator_is_the_limit_if_it_had_much_to_do(tmp_path: Path) -> None:
    late = Made(2, roles={"load_generator": Use(60.0), "classifier": Use(10.0)}, lag_ms=80)
    assert bottleneck_of(tmp_path / "busy", late).limit == "load_generator"
    held_up = replace(late, roles={**late.roles, "load_generator": Use(12.0)})
    assert bottleneck_of(tmp_path / "held_up", held_up).limit != "load_generator"


def test_a_machine_that_works_more_for_others_is_other_load(tmp_path: Path) -> None:
    level = Made(300, roles={"classifier": Use(60.0)}, machine_percent=170, stolen_percent=20)
    found = bottleneck_of(tmp_path, level)
    assert found.limit == "other_load"
    assert "programs that are no part of the test 99 %; its host took 20 %" in found.evidence[0]


def test_other_programs_beside_a_target_that_uses_more_are_not_the_limit(tmp_path: Path) -> None:
    level = Made(300, roles={"classifier": Use(120.0, 2, 2, 62.0)}, machine_percent=165, stolen_percent=25)
    found = bottleneck_of(tmp_path, level)
    assert (found.limit, found.where) == ("role_cpu", "classifier")


def test_the_cpu_of_a_target_that_the_kit_did_not_start_is_not_called_other_load(tmp_path: Path) -> None:
    level = Made(300, machine_percent=190)
    assert bottleneck_of(tmp_path / "started", level).limit == "other_load"
    found = bottleneck_of(tmp_path / "url_only", level, start=None)
    assert (found.limit, found.where) == ("unknown", None)
    assert "programs that the kit did not start use 179 % CPU, the target among them if it runs here" in found.sentence
    assert "Give the plan its `start`, or name its processes by a role with `anywhere: true`" in found.sentence
    assert found.evidence[0] == (
        "The machine used 190 of 200 % CPU: the load generator 9 %, other programs (the target among them if it runs "
        "here) 179 %; its host took 0 %."
    )


def test_a_target_that_the_kit_did_not_start_is_known_where_the_role_of_the_plan_s_replicas_is_seen(
    tmp_path: Path,
) -> None:
    plan: dict[str, Any] = {"start": None, "beside": [made_target("two", 1)]}
    level = Made(300, roles={"classifier": Use(20.0)}, machine_percent=190)
    found, without = (
        figures_of(tmp_path / name, {USERS: one}, **plan).cells[-1].bottleneck
        for name, one in (("seen", level), ("unseen", Made(300, machine_percent=190)))
    )
    assert found
    assert without
    assert found.limit == "other_load"
    assert "the target 20 %, the load generator 9 %, programs that are no part of the test 159 %" in found.evidence[0]
    assert without.limit == "unknown"


def test_a_host_that_takes_most_is_other_load_whoever_started_the_target(tmp_path: Path) -> None:
    level = Made(300, machine_percent=30, stolen_percent=165)
    assert bottleneck_of(tmp_path, level, start=None).limit == "other_load"


def test_a_role_that_is_seen_of_a_target_that_the_kit_did_not_start_is_named(tmp_path: Path) -> None:
    level = Made(300, roles={"classifier": Use(150.0, 2, 2, 75.0)}, machine_percent=190)
    found = bottleneck_of(tmp_path, level, start=None)
    assert (found.limit, found.where) == ("role_cpu", "classifier")


# CPU


def test_more_busy_threads_than_cores_are_oversubscription(tmp_path: Path) -> None:
    threads = Use(185.0, 2, busy_threads=4, busiest_percent=50.0, wait_percent=170.0)
    found = bottleneck_of(tmp_path, Made(300, roles={"classifier": threads}))
    assert (found.limit, found.where) == ("thread_oversubscription", "classifier")
    assert "4.0 busy threads on 2 cores" in found.sentence
    assert "waited for a core for 48 % of the time in which they could have run" in found.evidence[0]


@pytest.mark.parametrize(("busy_threads", "wait_percent"), [(2, 170.0), (4, 40.0)])
def test_as_many_busy_threads_as_cores_or_little_waiting_is_no_oversubscription(
    tmp_path: Path, busy_threads: int, wait_percent: float
) -> None:
    threads = Use(185.0, 2, busy_threads, 93.0, wait_percent)
    found = bottleneck_of(tmp_path, Made(300, roles={"classifier": threads}))
    assert (found.limit, found.where) == ("role_cpu", "classifier")
    assert "all 2 cores are in use, 185 of 200 % by it" in found.sentence


def test_a_worker_whose_only_thread_uses_a_core_is_limited_by_it(tmp_path: Path) -> None:
    found = bottleneck_of(tmp_path, Made(400, roles={"classifier": Use(97.0), "ingress": Use(6.0)}))
    assert (found.limit, found.where) == ("role_cpu", "classifier")
    assert "its busiest thread uses a whole core (97 %) while others are free" in found.sentence
    assert (
        "24.3 ms of CPU for a request (utilisation law, U ÷ X), with which 2 cores alone would do 82.4"
        in (found.evidence[0])
    )


def test_the_stages_of_a_service_that_queues_out_of_sight_leave_latency_unexplained(tmp_path: Path) -> None:
    """A single thread reads a request when it has answered those before it: no stage of it sees the wait."""
    blind = bottleneck_of(tmp_path / "blind", Made(400, "work;dur=20", {"classifier": Use(97.0)}))
    assert (blind.limit, blind.where) == ("role_cpu", "classifier")
    assert blind.queue_percent == 0
    assert blind.unexplained_percent == pytest.approx(95)
    seeing = bottleneck_of(tmp_path / "seeing", Made(400, "queue;dur=360, work;dur=20", {"classifier": Use(97.0)}))
    assert seeing.queue_percent == pytest.approx(90)
    assert seeing.unexplained_percent == pytest.approx(5)


def test_an_ingress_at_one_core_in_front_of_a_worker_that_has_time(tmp_path: Path) -> None:
    roles = {"classifier": Use(30.0), "ingress": Use(108.0, 1, 1, 96.0)}
    found = bottleneck_of(tmp_path, Made(400, roles=roles))
    assert (found.limit, found.where) == ("role_cpu", "ingress")


def test_threads_that_take_turns_at_a_lock_use_one_core_together(tmp_path: Path) -> None:
    found = bottleneck_of(tmp_path, Made(400, roles={"classifier": Use(103.0, 1, 0, 9.0)}))
    assert (found.limit, found.where) == ("role_cpu", "classifier")
    assert "several that take turns do, at Python's interpreter lock" in found.sentence


def test_threads_that_happen_to_use_one_core_together_are_no_lock_when_nobody_waits(tmp_path: Path) -> None:
    engine = Use(100.0, 1, 2, 51.0)
    found = bottleneck_of(tmp_path, Made(20, "work;dur=19", {"classifier": engine}), workload={"wait_s": [1, 1]})
    assert found.limit == "think_time"
    assert "nothing of the target is busy (role classifier uses 51 % of a core by one thread)" in found.sentence


def test_a_role_that_is_busy_but_not_full_is_called_nearest_to_its_limit(tmp_path: Path) -> None:
    found = bottleneck_of(tmp_path, Made(200, "queue;dur=120, work;dur=79", {"classifier": Use(75.0)}))
    assert (found.limit, found.where) == ("role_cpu", "classifier")
    assert "nearest to its limit: role classifier uses 75 % of a core by one thread" in found.sentence


def test_where_the_system_tells_nothing_of_threads_a_process_at_one_core_is_seen(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, Made(400, roles={"classifier": Use(97.0)}))
    roles = [
        role.model_copy(update={"busy_threads": None, "busiest_thread_percent": None, "runqueue_wait_percent": None})
        for role in cell.roles
    ]
    level = Level(cell.model_copy(update={"roles": roles}), made_plan().workload, Cores(CORES))
    found = find_bottleneck(level)
    assert found
    assert (found.limit, found.where) == ("role_cpu", "classifier")
    assert "busy threads" not in " ".join(found.evidence)


def test_one_level_alone_does_not_take_its_own_latency_for_one_without_waiting(tmp_path: Path) -> None:
    """A proxy that is nearly full: requests wait before its stage begins, so their time is in no stage."""
    found = bottleneck_of(tmp_path, Made(360, "worker;dur=190", {"ingress": Use(88.0), "classifier": Use(2.0)}))
    assert (found.limit, found.where) == ("role_cpu", "ingress")


# Users


def test_users_who_think_more_than_they_wait_set_the_pace(tmp_path: Path) -> None:
    level = Made(2, "work;dur=1.5", {"classifier": Use(20.0)})
    found = bottleneck_of(tmp_path, level, workload={"wait_s": [1, 1]})
    assert (found.limit, found.where) == ("think_time", None)
    assert found.sentence == (
        "The users' think time: nothing of the target is busy (role classifier uses 20 % of a core by one thread); "
        "more users are needed to find the target's limit."
    )
    assert "(N ÷ (Z + R0)); their latency lets them send 100 % of that" in found.evidence[0]


def test_think_time_with_a_busy_target_says_how_busy(tmp_path: Path) -> None:
    level = Made(4, "work;dur=3.5", {"classifier": Use(80.0)})
    found = bottleneck_of(tmp_path, level, workload={"wait_s": [1, 1]})
    assert found.limit == "think_time"
    assert "role classifier uses 80 % of a core by one thread; more users" in found.sentence


def test_users_who_keep_their_rate_set_the_pace(tmp_path: Path) -> None:
    level = Made(4, "work;dur=3.5", {"classifier": Use(20.0)})
    found = bottleneck_of(tmp_path, level, workload={"wait_s": None, "rate_per_user_rps": 2})
    assert found.limit == "think_time"


def test_few_users_who_wait_for_answers_but_not_for_each_other(tmp_path: Path) -> None:
    idle = {"classifier": Use(5.0)}
    found = last_of(tmp_path, {2: Made(400, "", idle), 8: Made(404, "", idle)})
    assert found.limit == "think_time"
    assert found.sentence.startswith("The number of users: they wait for answers, not for each other")
    assert (found.queue_percent, found.unexplained_percent) == (None, None)


# Waiting


def test_a_stage_that_takes_the_time_of_an_idle_service_is_the_limit(tmp_path: Path) -> None:
    found = bottleneck_of(tmp_path, Made(400, "app;dur=4, db;dur=380", {"classifier": Use(12.0)}))
    assert (found.limit, found.where) == ("stage", "db")
    assert found.sentence.startswith("The stage db: 95 % of the mean latency pass in it")
    assert found.evidence[0] == "Of the mean latency: db 95 %, app 1 %; 4 % in no stage of the target."
    assert found.unexplained_percent == pytest.approx(4)


def test_a_busy_database_is_named_by_its_cpu(tmp_path: Path) -> None:
    roles = {"classifier": Use(12.0), "database": Use(98.0)}
    found = bottleneck_of(tmp_path, Made(400, "app;dur=4, db;dur=380", roles))
    assert (found.limit, found.where) == ("role_cpu", "database")


@pytest.mark.parametrize("queue", ["queue", "lock_wait"])
def test_requests_that_queue_in_an_idle_service_pass_a_serial_section(tmp_path: Path, queue: str) -> None:
    found = bottleneck_of(tmp_path, Made(400, f"{queue};dur=360, work;dur=20", {"classifier": Use(4.0)}))
    assert (found.limit, found.where) == ("serial_section", None)
    assert "requests wait in a queue for 90 % of the mean latency" in found.sentence
    assert found.queue_percent == pytest.approx(90)
    assert found.unexplained_percent == pytest.approx(5)


def test_without_stages_a_throughput_that_no_longer_grows_tells_a_serial_section(tmp_path: Path) -> None:
    idle = {"classifier": Use(5.0)}
    # 50 answers a second at most, whatever the number of users.
    found = last_of(tmp_path, {4: Made(20, "", idle), 10: Made(100, "", idle), 20: Made(300, "", idle)})
    assert found.limit == "serial_section"
    assert "more users bring no more throughput" in found.sentence
    assert found.evidence[0].startswith("From 10 to 20 users throughput went from ")


def test_one_level_of_an_idle_service_without_stages_is_not_known(tmp_path: Path) -> None:
    found = bottleneck_of(tmp_path, Made(400, "", {"classifier": Use(5.0)}))
    assert found.limit == "unknown"
    assert "Measure fewer users too" in found.sentence


def test_a_target_that_runs_elsewhere_is_not_called_idle(tmp_path: Path) -> None:
    found = bottleneck_of(tmp_path, Made(400, "queue;dur=380"))
    assert found.limit == "serial_section"
    assert "its CPU was not seen" in found.sentence


# In the report


def test_a_cell_without_a_right_answer_has_no_bottleneck(tmp_path: Path) -> None:
    assert cell_of(tmp_path, Made(error="status 503")).bottleneck is None


def test_the_report_prints_each_level_and_each_invalid_cell(tmp_path: Path) -> None:
    slow = Made(400, "queue;dur=360, work;dur=20", {"classifier": Use(4.0)})
    spoiled = Made(300, roles={"load_generator": Use(96.0)})
    figures = figures_of(tmp_path / "run", {10: slow, 20: spoiled})
    write_report(figures, tmp_path)
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
        told = text.split("What limits each level")[-1].split("Where the time goes")[0]
        assert "A lock or another serial section" in told
        assert "one, 20 users (INVALID)" in told
        assert "The load generator: it has no time to send more" in told
    kept = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [cell["bottleneck"]["limit"] for cell in kept["cells"]] == ["serial_section", "load_generator"]
    assert [point["bottleneck"] and point["bottleneck"]["limit"] for point in kept["points"]] == [
        "serial_section",
        None,
    ]


def test_thread_figures_are_means_over_time(tmp_path: Path) -> None:
    (cell,) = figures_of(tmp_path, {USERS: Made(300, roles={"classifier": Use(60.0, 2, 3, 44.0, 12.5)})}).cells
    (role,) = [role for role in cell.roles if role.role == "classifier"]
    assert (role.busy_threads, role.busiest_thread_percent, role.runqueue_wait_percent) == (3, 44, 12.5)
    (machine,) = [role for role in cell.roles if role.role == "machine"]
    assert (machine.busy_threads, machine.runqueue_wait_percent) == (None, None)
