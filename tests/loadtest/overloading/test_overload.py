"""`loadtest overload` on targets that hold too much in a known way, and the figures of rows that are known."""

import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.overloading.figures import LevelFigures, LightFigures, compute_overload, judge
from loadtest.overloading.question import OverloadFolder, Promises
from tests.kit import ROOT, Ended, Kit, assert_nothing_left, known_target, write_plan
from tests.ports import free_port

CAPACITY_RPS = 40
LATE_MS = 300.0
OPTIONS = ("--heavy", "serial", "--light", "fixed", "--times", "5", "--seconds", "4")
BRIEF = ("--idle-s", "2", "--tail-s", "4", "--saturating-s", "5")
BEHAVIOUR = {"bounded": f"--most-wait-s 0.5 --refusal-ms {LATE_MS:g}", "endless": ""}
RIGHT = "every request gets its result"


@pytest.fixture(scope="module")
def overloaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """A target that refuses, slowly, what would wait too long, and one that queues everything; both at once."""
    folder = tmp_path_factory.mktemp("overload")
    kits = {name: start(name, folder) for name in BEHAVIOUR}
    ended = {name: kit.wait() for name, kit in kits.items()}
    for kit in kits.values():
        assert_nothing_left(kit.mark)
    return ended


def start(name: str, folder: Path) -> Kit:
    target = known_target(name, free_port(), f"--serial-rate {CAPACITY_RPS} --delay-ms 5 {BEHAVIOUR[name]}")
    endpoints = {kind: {"request": f"GET /{kind}"} for kind in ("serial", "fixed")}
    work = {"locustfile": str(ROOT / "tests/known_locustfile.py"), "endpoints": endpoints, "wait_s": [0, 0]}
    roles = [{"name": "known", "command": "tests.known_target"}]
    plan = write_plan(folder / f"{name}.yaml", [target], workload=work, roles=roles)
    capacity = () if name == "bounded" else ("--capacity", str(CAPACITY_RPS))
    return Kit(["overload", str(plan), "--out", str(folder / name), *OPTIONS, *BRIEF, *capacity], folder / name, folder)


def level_of(ended: Ended) -> LevelFigures:
    (found,) = compute_overload(OverloadFolder(ended.folder.path)).levels
    return found


def broken(ended: Ended) -> list[str]:
    figures = compute_overload(OverloadFolder(ended.folder.path))
    return [promise.promise for promise in figures.promises if not promise.kept]


def test_the_capacity_is_what_the_target_serves(overloaded: dict[str, Ended]) -> None:
    capacity_rps = compute_overload(OverloadFolder(overloaded["bounded"].folder.path)).capacity_rps
    assert capacity_rps == pytest.approx(CAPACITY_RPS, rel=0.1)


def test_a_target_with_a_bounded_queue_keeps_its_goodput_and_refuses_the_rest(overloaded: dict[str, Ended]) -> None:
    found = level_of(overloaded["bounded"])
    assert found.goodput_rps == pytest.approx(CAPACITY_RPS, rel=0.15)
    assert found.refused == pytest.approx(4 * CAPACITY_RPS * found.window_s, rel=0.25)
    assert (found.unanswered, found.unsent, found.other_failures) == (0, 0, {})
    assert found.recovered_after_s is not None
    assert not [promise for promise in broken(overloaded["bounded"]) if promise.startswith(RIGHT)]


def test_a_queue_without_end_is_seen_in_the_time_to_recover(overloaded: dict[str, Ended]) -> None:
    assert level_of(overloaded["endless"]).refused == 0
    assert any("as quick as before" in promise for promise in broken(overloaded["endless"]))
    assert overloaded["endless"].exit_code == 1


def test_slow_refusals_are_told(overloaded: dict[str, Ended]) -> None:
    slowest_ms = level_of(overloaded["bounded"]).refusal_max_ms
    assert slowest_ms is not None
    assert slowest_ms >= LATE_MS
    assert "every refusal within 200 ms" in broken(overloaded["bounded"])


def test_the_page_the_picture_and_the_record_are_written(overloaded: dict[str, Ended]) -> None:
    path = overloaded["bounded"].folder.path
    assert "| 5x |" in (path / "overload.md").read_text()
    assert "<svg" in (path / "overload.svg").read_text()
    assert [level["times"] for level in json.loads((path / "overload.json").read_text())["levels"]] == [5]


def test_the_terminal_shows_the_level_and_how_many_promises_were_kept(overloaded: dict[str, Ended]) -> None:
    assert "promises kept" in overloaded["bounded"].stdout
    assert "5x" in overloaded["bounded"].stdout


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
    assert all(promise.kept for promise in judge(Promises(), [level(1), level(10)]))


@pytest.mark.parametrize(
    ("changes", "promise"),
    [
        ({"goodput_rps": 18.9}, "goodput"),
        ({"refused": 9, "refusal_max_ms": 201}, "every refusal"),
        ({"unanswered": 1}, RIGHT),
        ({"unsent": 1}, RIGHT),
        ({"other_failures": {"status 503, without Retry-After": 1}}, RIGHT),
        ({"light": level(1).light.model_copy(update={"p95_ms": 4.1})}, "p95 of the light"),
        ({"light": level(1).light.model_copy(update={"failures": 1})}, "p95 of the light"),
        ({"light": level(1).light.model_copy(update={"p95_ms": None})}, "p95 of the light"),
        ({"recovered_after_s": 5.1}, "as quick"),
        ({"recovered_after_s": None}, "as quick"),
        ({"memory_peak_bytes": 1251}, "memory"),
    ],
)
def test_each_promise_can_be_broken_alone(changes: dict[str, Any], promise: str) -> None:
    found = [one.promise for one in judge(Promises(), [level(1), level(10, **changes)]) if not one.kept]
    assert len(found) == 1
    assert found[0].startswith(promise)


def test_endpoints_that_the_plan_does_not_have_are_refused_by_name(tmp_path: Path) -> None:
    ended = Kit(["overload", "--heavy", "none", "--out", str(tmp_path / "out")], tmp_path / "out", tmp_path).wait()
    assert ended.exit_code == 2
    assert "--heavy: 'none' is not one of lookup, predict" in ended.stderr
