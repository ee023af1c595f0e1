"""`loadtest overload`: one live test of a target that refuses in a known way, and the figures of rows that are known.

How near the rates of a live test come to those of the target: `python -m tests.benchmarks.known_answers`.
"""

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtest.figures.figures import NO_FIGURE
from loadtest.overload.figures import (
    LevelFigures,
    LightFigures,
    OverloadFigures,
    compute_overload,
    judge,
    lacks_capacity,
)
from loadtest.overload.page import render_markdown, tell_verdict
from loadtest.overload.question import Asked, LevelRecord, OverloadFolder, Promises, Question
from loadtest.plan.plan import load_plan
from loadtest.plan.targets import Role
from loadtest.rows.columns import AnyRow, GeneratorRow, RequestRow, ResourceRow, RowWriter, read_rows
from loadtest.rows.run_folder import ArrivalCounts, Moments, write_json
from tests.failures import keep_on_failure
from tests.kit import RUN_S, Ended, ask, known_target, run_command, workload, write_plan
from tests.ports import free_port

pytestmark = pytest.mark.timeout(3 * RUN_S)

CAPACITY_RPS = 40
TIMES = 5
LATE_MS = 300.0
ENDPOINTS = ("--heavy", "serial", "--light", "fixed")
BRIEF = ("--times", TIMES, "--seconds", 2, "--idle-s", 3, "--tail-s", 1, "--saturating-s", 5)
RIGHT = "every request is answered right"
STILL_DUE = "answers were still due 65.0 s after the sending ended"


@pytest.fixture(scope="module")
def overloaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    """A target that refuses, slowly, what would wait for more than 0.5 s.

    The folder holds a level that was begun and never ended; the capacity is still to be measured.
    """
    folder = tmp_path_factory.mktemp("overload")
    options = f"--serial-rate {CAPACITY_RPS} --delay-ms 5 --most-wait-s 0.5 --refusal-ms {LATE_MS:g}"
    plan = write_plan(
        folder / "plan.yaml",
        [known_target("bounded", free_port(), options)],
        workload=workload("serial", "fixed", wait_s=[0, 0]),
        roles=[{"name": "known", "command": "tests.known_target"}],
    )
    out = folder / "out"
    begun = OverloadFolder(out)
    begun.neighbour(TIMES).mkdir(parents=True)
    question = Question(heavy="serial", light="fixed", times=[TIMES], seconds=2, idle_s=3, tail_s=1, saturating_s=5)
    write_json(begun.plan, Asked(plan=load_plan(plan), question=question))
    write_rows(begun.neighbour(TIMES) / "requests.csv", RequestRow, [row(0, IDLE_MS, endpoint="fixed")])
    (begun.level(TIMES) / "left over").touch()
    command = ["overload", plan, "--out", out, *ENDPOINTS, *BRIEF]
    ended = run_command(command, out, folder)
    with keep_on_failure("overload", lambda: [out]):
        yield ended


def figures_of(ended: Ended) -> tuple[OverloadFigures, LevelFigures]:
    figures = compute_overload(OverloadFolder(ended.folder.path))
    (level,) = figures.levels
    return figures, level


def broken(figures: OverloadFigures) -> list[str]:
    return [promise.promise for promise in figures.promises if not promise.kept]


def test_every_request_of_a_live_overload_is_answered_or_refused(overloaded: Ended) -> None:
    figures, found = figures_of(overloaded)
    folder = OverloadFolder(overloaded.folder.path)
    rows = list(read_rows(folder.level(TIMES) / "requests.csv", RequestRow))
    beside = list(read_rows(folder.neighbour(TIMES) / "requests.csv", RequestRow))
    assert {(row.endpoint, row.status) for row in rows} == {("serial", 200), ("serial", 503)}
    assert found.refused == sum(row.status == 503 for row in (*rows, *beside)) > 0
    assert (found.unanswered, found.unsent, found.other_failures) == (0, 0, {})
    assert found.asked_rps == pytest.approx(TIMES * figures.capacity_rps, abs=0.01)
    assert not [promise for promise in broken(figures) if promise.startswith(RIGHT)]


def test_no_more_is_counted_than_a_target_can_serve(overloaded: Ended) -> None:
    folder = OverloadFolder(overloaded.folder.path)
    for path in (folder.capacity, folder.level(TIMES)):
        right = [row for row in read_rows(path / "requests.csv", RequestRow) if not row.error]
        began_s = min(row.start_unix_s for row in right)
        ended_s = max(row.start_unix_s + row.latency_ms / 1000 for row in right)
        assert 0 < len(right) <= CAPACITY_RPS * (ended_s - began_s) + 1
    figures, found = figures_of(overloaded)
    assert min(figures.capacity_rps, found.goodput_rps) > 0


def test_an_overload_test_says_how_long_it_takes_at_most_and_what_is_left(overloaded: Ended) -> None:
    lines = [line for line in overloaded.stderr.splitlines() if "at most" in line]
    assert overloaded.stderr.startswith("1 level(s) of overload: at most ")
    assert [line.endswith(" left)") for line in lines[1:]] == [True, True]


def test_slow_refusals_are_told(overloaded: Ended) -> None:
    figures, found = figures_of(overloaded)
    assert found.refusal_max_ms is not None
    assert found.refusal_max_ms >= LATE_MS
    assert "every refusal within 200 ms" in broken(figures)
    assert overloaded.exit_code == 1


def test_the_target_is_warmed_up_before_anything_is_measured(overloaded: Ended) -> None:
    folder = OverloadFolder(overloaded.folder.path)
    warmup = list(read_rows(folder.path / "warmup.csv", RequestRow))
    measured = list(read_rows(folder.capacity / "requests.csv", RequestRow))
    assert {row.endpoint for row in warmup} == {"serial", "fixed"}
    assert max(row.ended_unix_s for row in warmup) < min(row.start_unix_s for row in measured)


def test_the_light_load_goes_on_before_during_and_after(overloaded: Ended) -> None:
    folder = OverloadFolder(overloaded.folder.path)
    record = LevelRecord.model_validate_json(folder.level_record(TIMES).read_text())
    rows = list(read_rows(folder.neighbour(TIMES) / "requests.csv", RequestRow))
    times_s = [row.start_unix_s for row in rows if row.endpoint == "fixed"]
    assert record.idle_from_unix_s < record.idle_to_unix_s < record.moments.started_unix_s
    assert min(times_s) < record.idle_to_unix_s
    assert max(times_s) > record.moments.stopping_unix_s
    _, found = figures_of(overloaded)
    assert (found.light.failures, found.light.lost) == (0, [])
    assert min(found.light.idle_requests, found.light.requests) > 0


def test_the_page_the_picture_and_the_record_are_written(overloaded: Ended) -> None:
    path = overloaded.folder.path
    assert "| 5x |" in (path / "overload.md").read_text()
    assert "<svg" in (path / "overload.svg").read_text()
    assert [level["times"] for level in json.loads((path / "overload.json").read_text())["levels"]] == [5]


def test_the_terminal_shows_the_level_and_how_many_promises_were_kept(overloaded: Ended) -> None:
    assert "promises kept" in overloaded.stdout
    assert "5x" in overloaded.stdout


BEGAN_S = 1_768_471_200.0
SECONDS = 4
IDLE_MS, LOADED_MS = 25.0, 500.0
ROLES = [{"name": "worker", "command": "of no process"}]


def write_made_overload(folder: Path, refusals_ms: float | None, slow_for_s: float, **asked: Any) -> OverloadFigures:
    """Write rows of a target that serves CAPACITY_RPS and is overloaded for SECONDS; return their figures.

    What it cannot serve it refuses after `refusals_ms`; with None it all waits. Heavy requests after the load are slow
    for `slow_for_s`. `asked` are further fields of the question.
    """
    made = OverloadFolder(folder)
    plan = write_plan(
        folder.with_suffix(".yaml"),
        [known_target("made", 1)],
        workload=workload("serial", "fixed", wait_s=[0, 0]),
        roles=ROLES,
    )
    question = Question(heavy="serial", light="fixed", times=[TIMES], seconds=SECONDS, **asked)
    made.neighbour(TIMES).mkdir(parents=True)
    made.capacity.mkdir()
    made.plan.write_text(Asked(plan=load_plan(plan), question=question).model_dump_json())
    # The capacity: one answer after the other from the first second on, though none counts before 3 s have passed.
    saturated = [row(number / CAPACITY_RPS, IDLE_MS) for number in range(10 * CAPACITY_RPS)]
    write_rows(made.capacity / "requests.csv", RequestRow, saturated)
    (made.capacity / "moments.json").write_text(moments_of(0, 10).model_dump_json())
    begin_s = 20.0
    arrivals = TIMES * CAPACITY_RPS * SECONDS
    served = [row(begin_s + number / CAPACITY_RPS, LOADED_MS) for number in range(SECONDS * CAPACITY_RPS)]
    others_s = [begin_s + number * SECONDS / arrivals for number in range(arrivals - len(served))]
    late = SECONDS * 1000 + LOADED_MS  # an answer that comes long after the load
    others = [row(at_s, refusals_ms or late, error="" if refusals_ms is None else "status 503") for at_s in others_s]
    write_rows(made.level(TIMES) / "requests.csv", RequestRow, served + others)
    write_rows(made.level(TIMES) / "generator.csv", GeneratorRow, [])
    memory = [ResourceRow(BEGAN_S + begin_s + number, "worker", 1, 50.0, 10**8, 1) for number in range(SECONDS)]
    write_rows(made.level(TIMES) / "resources.csv", ResourceRow, memory)
    end_s = begin_s + SECONDS
    heavy = [row(number, LOADED_MS if begin_s <= number < end_s + slow_for_s else IDLE_MS) for number in range(10, 40)]
    light = [row(10 + number / 50, 6.0, endpoint="fixed") for number in range(1500)]
    write_rows(made.neighbour(TIMES) / "requests.csv", RequestRow, heavy + light)
    record = LevelRecord(
        times=TIMES,
        asked_rps=TIMES * CAPACITY_RPS,
        idle_from_unix_s=BEGAN_S + 10,
        idle_to_unix_s=BEGAN_S + begin_s - 1,
        moments=moments_of(begin_s, end_s),
        ended_unix_s=BEGAN_S + 40,
    )
    made.level_record(TIMES).write_text(record.model_dump_json())
    return compute_overload(made)


def row(at_s: float, latency_ms: float, endpoint: str = "serial", error: str = "") -> RequestRow:
    return RequestRow(BEGAN_S + at_s, endpoint, 503 if error else 200, latency_ms, 0, error, "")


@pytest.mark.parametrize(
    ("status", "error", "is_refusal"),
    [
        (503, "status 503", True),
        (429, "status 429", True),
        (429, "status 429, without Retry-After", False),
        (500, "status 500", False),
        (404, "status 404", False),
        (200, "", False),
    ],
)
def test_a_refusal_says_that_somebody_sends_too_much(status: int, error: str, *, is_refusal: bool) -> None:
    assert RequestRow(BEGAN_S, "serial", status, 1.0, 0, error, "").is_refusal is is_refusal


def moments_of(begin_s: float, end_s: float) -> Moments:
    return Moments(
        started_unix_s=BEGAN_S + begin_s,
        spawned_unix_s=BEGAN_S + begin_s,
        stopping_unix_s=BEGAN_S + end_s,
        stopped_unix_s=BEGAN_S + end_s,
    )


def write_rows(path: Path, kind: type[RequestRow | GeneratorRow | ResourceRow], rows: Sequence[AnyRow]) -> None:
    writer = RowWriter(path, kind)
    for each in rows:
        writer.write(each)
    writer.close()


def test_the_capacity_is_the_right_answers_of_the_saturated_loop_per_second(tmp_path: Path) -> None:
    figures = write_made_overload(tmp_path / "made", refusals_ms=20, slow_for_s=0)
    assert figures.capacity_rps == pytest.approx(CAPACITY_RPS, rel=0.01)


def test_a_capacity_of_0_is_measured_again_and_one_that_is_given_or_known_is_not(tmp_path: Path) -> None:
    write_made_overload(tmp_path / "made", refusals_ms=20, slow_for_s=0)
    folder = OverloadFolder(tmp_path / "made")
    question = Asked.model_validate_json(folder.plan.read_text()).question
    assert not lacks_capacity(question, folder)
    write_rows(folder.capacity / "requests.csv", RequestRow, [row(5, IDLE_MS, error="status 500")])
    assert lacks_capacity(question, folder)
    assert not lacks_capacity(question.model_copy(update={"capacity_rps": 12.0}), folder)
    folder.capacity_moments.unlink()
    assert lacks_capacity(question, folder)


def test_a_target_with_a_bounded_queue_keeps_its_goodput_and_refuses_the_rest(tmp_path: Path) -> None:
    figures = write_made_overload(tmp_path / "made", refusals_ms=20, slow_for_s=0)
    (found,) = figures.levels
    # Those sent in the last half second were answered after the load; the light load sends one heavy request a second.
    assert found.goodput_rps == pytest.approx(CAPACITY_RPS * (1 - 0.5 / SECONDS) + 1, abs=0.5)
    assert found.refused == (TIMES - 1) * CAPACITY_RPS * SECONDS
    assert (found.refusal_p95_ms, found.refusal_max_ms) == (20, 20)
    assert (found.unanswered, found.unsent, found.other_failures) == (0, 0, {})
    assert found.recovered_after_s == pytest.approx(1)
    assert (found.light.failures, found.light.idle_p95_ms, found.light.p95_ms) == (0, 6, 6)
    assert broken(figures) == []


def add_requests(folder: Path, rows: Sequence[RequestRow]) -> None:
    path = folder / "requests.csv"
    write_rows(path, RequestRow, [*read_rows(path, RequestRow), *rows])


def test_failures_of_the_light_load_count_before_during_and_after_the_overload(tmp_path: Path) -> None:
    write_made_overload(tmp_path / "made", refusals_ms=20, slow_for_s=0)
    folder = OverloadFolder(tmp_path / "made")
    refusals = (TIMES - 1) * CAPACITY_RPS * SECONDS
    begin_s, end_s = 20, 20 + SECONDS
    times_s = (begin_s - 3, begin_s + 1, end_s + 0.1)
    light = [row(at_s, 6, endpoint="fixed", error="status 500") for at_s in times_s]
    unanswered = [replace(row(at_s, 300, error="no whole answer"), status=0) for at_s in times_s]
    refused = [row(at_s, 250, error="status 503") for at_s in times_s]
    wrong = [row(at_s, 30, error="the answer is not JSON") for at_s in times_s]
    add_requests(folder.neighbour(TIMES), [*light, *unanswered, *refused, *wrong])
    figures = compute_overload(folder)
    (found,) = figures.levels
    assert (found.light.failures, found.light.requests) == (3, 1503)
    assert (found.unanswered, found.other_failures) == (3, {"the answer is not JSON": 3})
    assert (found.refused, found.refusal_max_ms) == (refusals + 3, 250)
    for promise in (RIGHT, "every refusal within", "p95 of the light endpoint"):
        assert any(one.startswith(promise) for one in broken(figures))


def test_right_rows_without_a_status_are_not_unanswered(tmp_path: Path) -> None:
    write_made_overload(tmp_path / "made", refusals_ms=20, slow_for_s=0)
    folder = OverloadFolder(tmp_path / "made")
    pushed = [replace(row(21, IDLE_MS), status=0), replace(row(21, IDLE_MS, error="gone"), status=0)]
    add_requests(folder.level(TIMES), pushed)
    (found,) = compute_overload(folder).levels
    assert found.unanswered == 1


@pytest.mark.parametrize("is_started", [True, False])
def test_memory_is_that_of_processes_which_the_kit_started(tmp_path: Path, *, is_started: bool) -> None:
    """A role with `anywhere` names processes beside the target, such as a database that others use as well."""
    write_made_overload(tmp_path / "made", refusals_ms=20, slow_for_s=0)
    folder = OverloadFolder(tmp_path / "made")
    asked = Asked.model_validate_json(folder.plan.read_text())
    roles = [*asked.plan.roles, Role(name="database", command="postgres", anywhere=True)]
    folder.plan.write_text(
        asked.model_copy(update={"plan": asked.plan.model_copy(update={"roles": roles})}).model_dump_json()
    )
    growing = [ResourceRow(BEGAN_S + 20 + n, "database", 1, 50.0, (n + 1) * 10**8, 1) for n in range(SECONDS)]
    own = (
        [ResourceRow(BEGAN_S + 20 + n, "target_other", 1, 50.0, 10**7, 1) for n in range(SECONDS)] if is_started else []
    )
    write_rows(folder.level(TIMES) / "resources.csv", ResourceRow, growing + own)
    figures = compute_overload(folder)
    (found,) = figures.levels
    assert (found.memory_begin_bytes, found.memory_peak_bytes) == ((10**7, 10**7) if is_started else (0, 0))
    assert broken(figures) == []


def test_a_queue_without_end_is_seen_in_the_time_to_recover(tmp_path: Path) -> None:
    figures = write_made_overload(tmp_path / "made", refusals_ms=None, slow_for_s=60)
    (found,) = figures.levels
    assert (found.refused, found.recovered_after_s) == (0, None)
    assert broken(figures) == ["normal latency within 5 s after the load"]


def test_the_last_answers_of_the_light_load_are_waited_for(overloaded: Ended) -> None:
    folder = OverloadFolder(overloaded.folder.path)
    light = LevelRecord.model_validate_json(folder.level_record(TIMES).read_text()).light_moments
    assert light
    assert light.arrivals
    rows = list(read_rows(folder.neighbour(TIMES) / "requests.csv", RequestRow))
    assert len(rows) == light.arrivals.due > 0
    assert max(row.start_unix_s for row in rows) < light.stopped_unix_s


def test_a_level_that_is_measured_again_begins_with_its_own_light_load(overloaded: Ended) -> None:
    assert overloaded.exit_code == 1, overloaded.output
    folder = OverloadFolder(overloaded.folder.path)
    record = LevelRecord.model_validate_json(folder.level_record(TIMES).read_text())
    capacity = Moments.model_validate_json(folder.capacity_moments.read_text())
    rows = read_rows(folder.neighbour(TIMES) / "requests.csv", RequestRow)
    assert capacity.stopped_unix_s < min(row.start_unix_s for row in rows) < record.idle_from_unix_s
    assert not (folder.level(TIMES) / "left over").exists()


def test_requests_without_a_row_are_told_and_break_promises(tmp_path: Path) -> None:
    write_made_overload(tmp_path / "made", refusals_ms=20, slow_for_s=0)
    folder = OverloadFolder(tmp_path / "made")
    record = LevelRecord.model_validate_json(folder.level_record(TIMES).read_text())
    drain_s = Asked.model_validate_json(folder.plan.read_text()).plan.drain_s
    cut_off = moments_of(20, 24)
    cut_off.stopped_unix_s += drain_s
    full = cut_off.model_copy(update={"stopped_unix_s": cut_off.stopping_unix_s})
    full.arrivals = ArrivalCounts(due=200, queued=90, unsent=40)
    in_light = ["p95 of the light endpoint", "normal latency"]
    for changes, words, expected in (
        ({"moments": cut_off}, f"answers were still due {drain_s:.1f} s after the sending ended", [RIGHT]),
        ({"light_moments": cut_off}, f"answers were still due {drain_s:.1f} s after the sending ended", in_light),
        ({"light_moments": full}, "40 of 200 arrivals were never sent, because all 60 users were busy", in_light),
    ):
        folder.level_record(TIMES).write_text(record.model_copy(update=changes).model_dump_json())
        promises = [promise for promise in compute_overload(folder).promises if not promise.kept]
        assert all(words in promise.measured for promise in promises)
        assert len(promises) == len(expected)
        for promise, begin in zip(promises, expected, strict=True):
            assert promise.promise.startswith(begin)


def level(times: float, **changes: Any) -> LevelFigures:
    light = LightFigures(idle_requests=100, idle_p95_ms=2, requests=600, failures=0, p95_ms=3, max_ms=5)
    made: dict[str, Any] = {
        "times": times, "window_s": 60, "asked_rps": 20 * times, "sent_rps": 20 * times, "goodput_rps": 20,
        "refusal_p95_ms": None, "refusal_max_ms": None, "unanswered": 0, "other_failures": {},
        "unsent": 0, "refused": 0, "median_ms": 100, "p95_ms": 200, "max_ms": 300, "light": light,
        "recovered_after_s": 1,
        "memory_begin_bytes": 1000, "memory_peak_bytes": 1100, "memory_end_bytes": 1000, "cpu_percent": {},
        "generator_lag_ms": 1,
    }  # fmt: skip
    return LevelFigures.model_validate(made | changes)


def test_a_level_that_keeps_everything_breaks_no_promise() -> None:
    assert all(promise.kept for promise in judge(Promises(), [level(1), level(10)], refusals_checked=True))


def test_memory_that_was_not_measured_is_no_promise_and_is_told() -> None:
    unseen = [level(times, memory_begin_bytes=0, memory_peak_bytes=0, memory_end_bytes=0) for times in (1, 10)]
    seen = [level(times) for times in (1, 10)]
    for levels, is_told in ((seen, True), (unseen, False)):
        figures = figures_with(levels)
        assert any("memory" in promise.promise for promise in figures.promises) is is_told
        assert figures.all_kept
        assert ("memory was not measured" in tell_verdict(figures)) is not is_told
        assert (f"| {NO_FIGURE} |\n" in render_markdown(figures, "command")) is not is_told


NOT_THE_DEFAULTS = (
    ("idle_s", 7), ("tail_s", 4), ("saturating_s", 5), ("goodput_percent", 90), ("refusal_ms", 250),
    ("neighbour_ratio", 3), ("recovery_s", 6.5), ("memory_percent", 30),
)  # fmt: skip


def test_the_command_on_the_page_asks_the_same_again_and_omits_what_is_the_default(tmp_path: Path) -> None:
    chosen = dict(NOT_THE_DEFAULTS)
    promises = Promises(**{name: chosen.pop(name) for name in Promises.model_fields})
    changes: list[dict[str, Any]] = [{}, {"capacity_rps": 39.1234567}, {**chosen, "promises": promises}]
    for number, asked in enumerate(changes):
        out = tmp_path / f"run-{number}"
        figures = write_made_overload(out, 10.0, 0, **asked)
        page = out / "overload.md"
        options = ["--heavy", "serial", "--light", "fixed", "--times", TIMES, "--seconds", SECONDS]
        options += ["--capacity", asked["capacity_rps"]] if "capacity_rps" in asked else []
        if "promises" in asked:
            options += [word for name, value in NOT_THE_DEFAULTS for word in (f"--{name.replace('_', '-')}", value)]
        assert ask("overload", out.with_suffix(".yaml"), *options, "--out", out).exit_code == 1 - figures.all_kept
        (command,) = re.findall("^Generated by `python -m loadtest (.*)`", page.read_text(), re.MULTILINE)
        assert sorted(shlex.split(command)) == sorted(map(str, ("overload", out.with_suffix(".yaml"), *options)))
        before = page.read_text()
        page.unlink()
        assert ask(*shlex.split(command), "--out", out).exit_code == 1 - figures.all_kept
        assert page.read_text() == before


def test_the_page_says_where_the_capacity_comes_from() -> None:
    measured = figures_with([level(1)])
    assert "The capacity is the throughput of right answers to 16 users" in render_markdown(measured, "command")
    given = measured.question.model_copy(update={"capacity_rps": 20.0})
    page = render_markdown(measured.model_copy(update={"question": given}), "command")
    assert "The capacity was given with `--capacity`." in page
    assert "throughput of right answers to" not in page


def figures_with(levels: list[LevelFigures], *, refusals_checked: bool = True) -> OverloadFigures:
    return OverloadFigures(
        title="t",
        target="a",
        question=Question(heavy="serial", light="fixed", times=[found.times for found in levels], seconds=SECONDS),
        capacity_rps=20,
        levels=levels,
        promises=list(judge(Promises(), levels, refusals_checked=refusals_checked)),
        refusals_checked=refusals_checked,
    )


@pytest.mark.parametrize("is_checked", [True, False])
def test_a_refusal_is_said_to_have_retry_after_only_where_that_was_checked(*, is_checked: bool) -> None:
    figures = figures_with([level(1)], refusals_checked=is_checked)
    (promise,) = [one.promise for one in figures.promises if one.promise.startswith(RIGHT)]
    assert promise.removeprefix(RIGHT) == f", or refused with {'Retry-After' if is_checked else '503 or 429'}"
    unchecked = "whose body and `Retry-After` were not checked"
    assert (unchecked in render_markdown(figures, "command")) is not is_checked


@pytest.mark.parametrize(
    ("changes", "promise"),
    [
        ({"goodput_rps": 18.9}, "goodput"),
        ({"refused": 9, "refusal_max_ms": 201}, "every refusal"),
        ({"unanswered": 1}, RIGHT),
        ({"unsent": 1}, RIGHT),
        ({"lost": [STILL_DUE]}, RIGHT),
        ({"other_failures": {"status 503, without Retry-After": 1}}, RIGHT),
        ({"light": level(1).light.model_copy(update={"p95_ms": 4.1})}, "p95 of the light"),
        ({"light": level(1).light.model_copy(update={"failures": 1})}, "p95 of the light"),
        ({"light": level(1).light.model_copy(update={"p95_ms": None})}, "p95 of the light"),
        ({"recovered_after_s": 5.1}, "normal latency"),
        ({"recovered_after_s": None}, "normal latency"),
        ({"memory_peak_bytes": 1251}, "memory"),
    ],
)
def test_each_promise_can_be_broken_alone(changes: dict[str, Any], promise: str) -> None:
    found = [
        one.promise
        for one in judge(Promises(), [level(1), level(10, **changes)], refusals_checked=True)
        if not one.kept
    ]
    assert len(found) == 1
    assert found[0].startswith(promise)


@pytest.mark.parametrize("seconds", [1, 3, 4])
def test_a_measurement_of_the_capacity_that_is_too_short_to_count_anything_is_refused(
    seconds: int, tmp_path: Path
) -> None:
    ended = ask("overload", "--saturating-s", seconds, "--out", tmp_path / "out")
    assert ended.exit_code == 2
    assert f"--saturating-s: {seconds}: give at least 5, for the first 3 s are not counted" in ended.stderr


def test_endpoints_that_the_plan_does_not_have_are_refused_by_name(tmp_path: Path) -> None:
    ended = ask("overload", "--heavy", "none", "--out", tmp_path / "out")
    assert ended.exit_code == 2
    assert "--heavy: 'none' is not one of lookup, predict" in ended.stderr
