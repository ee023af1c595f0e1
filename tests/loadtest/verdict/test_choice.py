"""The headline decides what the data decide: else it says Undecided, what would decide, and what a choice rests on."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtest.errors import FailureCode
from loadtest.figures.figures import CellFigures, Facts, Figures, LimitResult, PointFigures, RoleFigures
from loadtest.figures.traffic import compute_traffic
from loadtest.page.text import render_markdown
from loadtest.plan.limits import read_limit
from loadtest.plan.plan import load_plan
from loadtest.plan.yaml_file import read_yaml_file
from loadtest.rows.run_folder import RunFolder
from loadtest.verdict.choice import Data, choose, decides
from loadtest.verdict.comparison import compare_levels
from loadtest.verdict.differences import Repetition
from loadtest.verdict.findings import ENOUGH_REPETITIONS, answer, conclude
from loadtest.verdict.summary import summarize
from tests.loadtest.verdict.test_comparison import facts, measured
from tests.loadtest.verdict.test_run_comparison import fail, fail_with_all_users
from tests.made_run import MadeCell, made_plan, made_target, write_made_run
from tests.service import CONFIGS, ROOT

Change = Callable[[MadeCell], None]
PUBLISHED = ROOT / "docs/reports/published/report.json"
MEMORY = "Until then nothing but memory speaks for 1 replica: it needs 2.1 GiB resident, 2 replicas 3.1 GiB."


def summary(folder: Path, change: Change | None = None, **plan: Any) -> Figures:
    return summarize(RunFolder(write_made_run(folder / "run", made_plan(**plan), change)))


def latency(one_ms: float, two_ms: float, predict_ms: tuple[float, float] | None = None) -> Change:
    """Have all answers of a target take as long, those of predict perhaps another time; all are right."""

    def change(made: MadeCell) -> None:
        number = int(made.record.cell.target == "two_replicas")
        own_ms, heavy_ms = (one_ms, two_ms)[number], (predict_ms or (one_ms, two_ms))[number]
        made.requests = [
            replace(row, latency_ms=heavy_ms if row.endpoint == "predict" else own_ms, error="", status=200)
            for row in made.requests
        ]

    return change


def test_a_quick_run_without_enough_data_is_undecided_and_says_what_would_decide(tmp_path: Path) -> None:
    quick = {"duration_s": 18, "spawn_rate_per_s": 100, "settle_s": 1}
    figures = summary(tmp_path, latency(50, 49), **quick)
    assert all("8 of 8 figures have not enough data" in level.because for level in figures.comparisons)
    assert figures.all_valid
    assert figures.bottom_line.startswith(
        "Undecided: 1 replica and 2 replicas meet every objective up to 100 users and "
    )
    assert "as 1 repetition does not show how much two runs of one target differ; 5 repetitions of 120 s " in (
        figures.bottom_line
    )
    assert re.search(r"\(about 1\d\d minutes; `--repetitions 5 --duration 120`\)", figures.bottom_line)
    assert MEMORY in figures.bottom_line
    assert "no other wins" not in figures.bottom_line
    # Both are shown, the one that measured better too.
    assert "At 100 users 1 replica had" in figures.bottom_line
    assert "; 2 replicas had" in figures.bottom_line
    assert figures.recommendations[:2] == [
        "To decide, measure again: 5 repetitions of 120 s show a difference of 15 % "
        + figures.bottom_line[figures.bottom_line.index("(about") : figures.bottom_line.index(" Until")],
        MEMORY,
    ]
    assert not any(sentence.startswith("Run ") for sentence in figures.recommendations)


def test_a_single_figure_of_one_repetition_is_ahead_and_no_win(tmp_path: Path) -> None:
    figures = summary(tmp_path, latency(4, 4, predict_ms=(60, 90)), users=[25, 50], duration_s=120)
    levels = figures.comparisons
    assert [level.winner for level in levels] == ["one_replica", "one_replica"]
    assert not any(decides(Data(figures), level) for level in levels)
    assert figures.bottom_line.startswith("Undecided: ")
    assert "1 replica is ahead at 25 and 50 users, in " in figures.bottom_line
    assert "it wins" not in figures.bottom_line
    told = [sentence for sentence in figures.takeaways if sentence.startswith("1 replica: ")]
    assert told[0].startswith("1 replica: ahead, with too few repetitions to decide, at 2 of 2 user levels.")


def test_the_same_difference_in_three_repetitions_is_a_win(tmp_path: Path) -> None:
    figures = summary(tmp_path, latency(4, 4, predict_ms=(60, 90)), users=[25, 50], repetitions=3)
    assert figures.bottom_line.startswith(
        "Run 1 replica: like 2 replicas it meets every objective up to 50 users, and it wins at 2 of 2 user levels, 2 "
        "replicas at 0; at 50 users it had "
    )


def test_one_repetition_decides_what_is_clear_in_most_figures(tmp_path: Path) -> None:
    figures = summary(tmp_path, latency(4, 40), users=[100], duration_s=120)
    assert figures.comparisons[0].because.startswith("better in 6 of 7 figures")
    assert figures.bottom_line.startswith("Run 1 replica: ")


def test_one_repetition_decides_by_failures_that_are_many(tmp_path: Path) -> None:
    def fail(made: MadeCell) -> None:
        latency(4, 4)(made)
        if made.record.cell.target == "two_replicas":
            made.requests = [
                replace(row, error="status 503", status=503) if number % 5 == 0 else row
                for number, row in enumerate(made.requests)
            ]

    figures = summary(tmp_path, fail, users=[100], limits=[])
    assert figures.comparisons[0].because.startswith("fewer failures")
    assert figures.bottom_line.startswith("Run 1 replica: it wins at 1 of 1 user levels")


def test_targets_that_win_at_different_loads_are_told_apart_by_the_load(tmp_path: Path) -> None:
    def cross(made: MadeCell) -> None:
        latency(*((4, 8) if made.record.cell.users == 25 else (8, 4)))(made)

    figures = summary(tmp_path, cross, users=[25, 50], repetitions=3)
    assert figures.bottom_line.startswith(
        "It depends on the number of users: 1 replica wins at 25 users and 2 replicas wins at 50 users. What speaks "
        "for 1 replica at all of them is its memory: it needs 2.1 GiB resident, 2 replicas 3.1 GiB. At 50 users "
    )


def test_a_tie_names_what_else_speaks_for_one(tmp_path: Path) -> None:
    figures = summary(tmp_path, latency(50, 50), users=[25], repetitions=3)
    assert figures.bottom_line.startswith(
        "A tie: no figure tells 1 replica and 2 replicas apart. Run 1 replica for its memory: "
    )
    without_roles = figures.model_copy(
        update={"points": [point.model_copy(update={"roles": []}) for point in figures.points]}
    )
    assert "Run 1 replica for its number of replicas: it has 1, 2 replicas 2." in conclude(without_roles).bottom_line


def concluded(*levels: Mapping[str, Sequence[Repetition]]) -> Figures:
    """Return the report on repetitions by target, at 10 users, 20 and so on. The last target needs least memory."""
    names, users = [*levels[0]], [10 * number for number, _ in enumerate(levels, start=1)]
    points, cells = [], []
    for level, repetitions in zip(users, levels, strict=True):
        for size, (name, found) in enumerate(reversed([*repetitions.items()]), start=1):
            traffic = compute_traffic(found[0].requests, found[0].window.length_s)
            role = RoleFigures(
                role="model", processes=1, cpu_percent=10, cpu_max_percent=10, rss_max_bytes=size * 2**30, threads=1
            )
            points.append(PointFigures(target=name, users=level, repetitions=len(found), steady=traffic, roles=[role]))
            cells += [
                CellFigures(target=name, users=level, repetition=number, valid=True, steady=traffic)
                for number, _ in enumerate(found, start=1)
            ]
    by_level = {
        (name, level): found
        for level, repetitions in zip(users, levels, strict=True)
        for name, found in repetitions.items()
    }
    return conclude(
        Facts(
            title="made",
            source="run folder",
            test={"users": users, "duration_s": 60},
            targets=facts(*names),
            endpoints=["predict"],
            points=points,
            cells=cells,
            comparisons=compare_levels(users, facts(*names), ["predict"], by_level),
        )
    )


def test_a_target_that_lost_to_another_is_not_chosen_for_its_memory() -> None:
    figures = concluded({"a": measured(1), "b": measured(2), "c": measured(3, median_ms=300)})
    assert figures.bottom_line.startswith(
        "A tie: no figure tells A and B apart; A and B are better than C at 10 users. Run B for its memory: it needs "
        "2.0 GiB resident, A 3.0 GiB. "
    )
    assert "No single winner at 10 users: none is better than every other: " in " ".join(figures.takeaways)
    assert not any(sentence.startswith("A tie") for sentence in figures.takeaways)
    report = render_markdown(figures)
    assert "| divided " in report
    assert "A level is divided where" in report


def test_with_one_repetition_three_targets_are_never_a_tie() -> None:
    figures = concluded({"a": measured(1, 1), "b": measured(2, 1, median_ms=160), "c": measured(3, 1, median_ms=125)})
    assert figures.bottom_line.startswith(
        "Undecided: A and C cannot be told apart, as 1 repetition does not show how much two runs of one target "
        "differ; A is better than B at 10 users; "
    )
    assert "Until then nothing but memory speaks for C: it needs 1.0 GiB resident, A 3.0 GiB." in figures.bottom_line


@pytest.mark.parametrize(
    ("count", "tail", "rps", "start"),
    [
        (
            3,
            1.6,
            2.5,
            "No single winner: at 10 users A is better in throughput, B in predict p95. What else speaks for B ",
        ),
        (1, 1.9, 4, "Undecided: A and B cannot be told apart, as 1 repetition does not show how much two runs of one "),
    ],
)
def test_targets_that_are_each_better_in_other_figures_are_no_tie(
    count: int, tail: float, rps: float, start: str
) -> None:
    level = {"a": measured(1, count, rps=30, tail=tail), "b": measured(2, count, rps=rps)}
    told = concluded(level).bottom_line
    assert told.startswith(start)
    assert "at 10 users A is better in throughput, B in predict p95" in told
    if count > 1:
        assert answer(concluded(level)).headline == "No single winner"


def test_a_target_that_is_better_than_each_other_at_some_level_is_the_one_to_run() -> None:
    few, slow = measured(3, 1, median_ms=118), {"median_ms": 140}
    figures = concluded(
        {"a": measured(1), "b": measured(2, **slow), "c": few}, {"a": measured(4), "b": few, "c": measured(5, **slow)}
    )
    assert [level.winner for level in figures.comparisons] == [None, None]
    assert figures.bottom_line.startswith(
        "Run A: it is better than B at 10 users and C at 20 users; at 20 users it had "
    )


def test_a_target_that_no_other_beats_is_the_safer_choice_and_not_decided() -> None:
    """A is better than B, and B than C; nothing is known of A beside C."""
    few = measured(3, 1, median_ms=118)
    figures = concluded(
        {"a": measured(1), "b": measured(2, median_ms=140), "c": few},
        {"a": few, "b": measured(4), "c": measured(5, median_ms=140)},
    )
    assert figures.bottom_line.startswith("Undecided: A and C cannot be told apart, as 1 repetition does not show ")
    assert "Until then A is the safer choice: it is better than B at 10 users." in figures.bottom_line


def test_targets_that_beat_each_other_in_a_circle_have_no_single_winner() -> None:
    few, fast, slow = measured(3, 1, median_ms=118), measured(1), measured(2, median_ms=140)
    figures = concluded(
        {"a": fast, "b": slow, "c": few}, {"a": few, "b": fast, "c": slow}, {"a": slow, "b": few, "c": fast}
    )
    assert figures.bottom_line.startswith(
        "No single winner: at 10 users A is better than B; at 20 users B is better than C; at 30 users C is better "
        "than A. What else speaks for C is its memory: "
    )


def test_of_targets_that_are_known_to_hold_as_far_the_better_one_is_the_safer_choice() -> None:
    """C has no valid cell at 20 users, A and B met the objectives there, and A is better than B."""
    slow = {"median_ms": 140}
    figures = concluded(
        {"a": measured(1), "b": measured(2, **slow), "c": measured(3)}, {"a": measured(4), "b": measured(5, **slow)}
    )
    met = LimitResult(limit=read_limit("failures_percent <= 0"), value=0, met=True)
    cells = [cell.model_copy(update={"limits": [met]}) for cell in figures.cells]
    unknown = PointFigures(target="c", users=20, repetitions=0)
    with_unknown = figures.model_copy(update={"cells": cells, "points": [*figures.points, unknown]})
    told = conclude(with_unknown).bottom_line
    assert told.startswith("Undecided: at 20 users no cell of C is valid, so that it is not known who meets every ")
    assert (
        "Until then A is the safer choice: like B it meets every objective up to 20 users, and it is better than B "
        in (told)
    )


def test_nothing_compared_is_no_tie(tmp_path: Path) -> None:
    figures = summary(tmp_path, latency(50, 50), users=[25], limits=[])
    choice = choose(Data(figures.model_copy(update={"comparisons": []})))
    assert choice is not None
    assert choice.state == "undecided"


RUN = "Run 1 replica: it meets every objective up to 50 users, 2 replicas with no number of users"


@pytest.mark.parametrize(
    ("limit_ms", "repetitions", "start"),
    [
        (
            88,
            1,
            "Undecided: 2 replicas at 50 users misses predict.p95_ms <= 88 with 90.0 ms, once and by so little that ",
        ),
        (70, 1, RUN),
        (88, 2, RUN),
    ],
    ids=["a near miss", "a clear miss", "missed again"],
)
def test_an_objective_missed_once_and_by_little_does_not_decide(
    tmp_path: Path, limit_ms: int, repetitions: int, start: str
) -> None:
    plan = {"users": [50], "repetitions": repetitions, "limits": [f"predict.p95_ms <= {limit_ms}"]}
    figures = summary(tmp_path, latency(4, 4, predict_ms=(60, 90)), **plan)
    assert figures.bottom_line.startswith(start)
    if start != RUN:
        assert f"Until then 1 replica is the safer choice: {RUN.partition(': ')[2]}." in figures.bottom_line


def crash(target: str, *users: int, then: Change | None = None, failure: FailureCode = "failed") -> Change:
    """Have every cell of a target at these numbers of users fail."""

    def change(made: MadeCell) -> None:
        (then or latency(50, 50))(made)
        if made.record.cell.target == target and made.record.cell.users in users:
            made.record.status, made.record.reason, made.record.moments = (
                "failed",
                "the target ended with code 139",
                None,
            )
            made.record.failure = failure

    return change


ONE = {"targets": [made_target("one_replica", 1)]}
AGAIN = "Plan for at most 10 users on such a machine until 1 replica is measured at 25 users: no cell there is valid."


def test_a_level_without_a_valid_cell_ends_what_a_target_is_said_to_meet(tmp_path: Path) -> None:
    between = summary(tmp_path / "between", crash("one_replica", 25), users=[10, 25, 50], **ONE)
    told = "1 replica meets every objective up to 10 users (at 25 users no cell is valid); at "
    assert between.bottom_line.startswith(f"{told}50 users it had ")
    assert AGAIN in between.recommendations
    last = summary(tmp_path / "last", crash("one_replica", 25, 50), users=[10, 25, 50], **ONE)
    assert last.bottom_line.startswith(f"{told}10 users it had ")
    assert not any("measure more than" in sentence for sentence in last.recommendations)
    first = summary(tmp_path / "first", crash("one_replica", 10), users=[10, 25], **ONE)
    assert first.bottom_line.startswith(
        "1 replica meets every objective with no number of users (at 10 users no cell is valid); at 25 users it had "
    )


def test_without_objectives_a_target_that_failed_at_more_users_is_not_asked_for_more(tmp_path: Path) -> None:
    whole = summary(tmp_path / "whole", latency(50, 50), users=[10, 25], limits=[], **ONE)
    assert any("measure more than 25 users" in sentence for sentence in whole.recommendations)
    figures = summary(tmp_path / "failed", crash("one_replica", 25), users=[10, 25], limits=[], **ONE)
    assert not any("measure more than" in sentence for sentence in figures.recommendations)


def test_who_meets_the_objectives_is_open_where_a_target_has_no_valid_cell(tmp_path: Path) -> None:
    figures = summary(tmp_path, crash("one_replica", 25, then=latency(4, 40)), users=[10, 25], repetitions=3)
    assert figures.bottom_line.startswith(
        "Undecided: at 25 users no cell of 1 replica is valid, so that it is not known who meets every objective there"
    )
    assert (
        "Until then 2 replicas is the safer choice: it meets every objective up to 25 users, 1 replica up to 10 users "
        "(at 25 users no cell is valid)."
    ) in figures.bottom_line


def crash_or_fail(made: MadeCell) -> None:
    """Have one repetition of 1 replica at 25 users crash, and the others answer nothing right."""
    latency(4, 40)(made)
    if (made.record.cell.target, made.record.cell.users) == ("one_replica", 25):
        (fail("target_failed") if made.record.cell.repetition == 1 else fail_with_all_users)(made)


losing_25_users = pytest.mark.parametrize(
    ("change", "told"),
    [
        (crash("one_replica", 25, then=latency(4, 40), failure="target_failed"), "fails in every repetition"),
        (crash_or_fail, "answers nothing right"),
    ],
)
"""Ways in which 1 replica loses the level of 25 users, and what is told of it."""


@losing_25_users
def test_a_level_at_which_a_target_answers_nothing_right_or_crashes_is_missed(
    tmp_path: Path, change: Change, told: str
) -> None:
    levels: dict[str, Any] = {"users": [10, 25], "repetitions": 3, "limits": ["failures_percent <= 0"]}
    figures = summary(tmp_path / "two", change, **levels)
    assert figures.bottom_line.startswith(
        "Run 2 replicas: it meets every objective up to 25 users, 1 replica up to 10 users (at 25 users it "
        f"{told}); at 25 users "
    )
    alone = summary(tmp_path / "one", change, **levels, **ONE)
    assert alone.bottom_line.startswith(
        f"1 replica meets every objective up to 10 users (at 25 users it {told}); at 10 users it had "
    )
    assert f"Plan for at most 10 users on such a machine: 1 replica at 25 users {told}." in alone.recommendations


@losing_25_users
def test_without_objectives_a_target_that_lost_a_level_is_not_the_one_to_run(
    tmp_path: Path, change: Change, told: str
) -> None:
    levels: dict[str, Any] = {"users": [10, 25], "repetitions": 3, "limits": []}
    figures = summary(tmp_path / "two", change, **levels)
    assert figures.comparisons[0].winner == "one_replica"
    assert figures.bottom_line.startswith(
        f"Run 2 replicas: it answers up to 25 users, 1 replica up to 10 users (at 25 users it {told}); at 25 users "
    )
    alone = summary(tmp_path / "one", change, **levels, **ONE)
    assert alone.bottom_line.startswith(f"1 replica answers up to 10 users (at 25 users it {told}); at 10 users")
    assert f"Plan for at most 10 users on such a machine: 1 replica at 25 users {told}." in alone.recommendations


@pytest.mark.parametrize("limits", [[], ["predict.p95_ms <= 1000"]])
def test_a_target_that_was_not_ready_at_a_level_has_met_no_load_there(tmp_path: Path, limits: list[str]) -> None:
    def not_ready(made: MadeCell) -> None:
        crash("one_replica", 25, then=latency(4, 40), failure="target_failed")(made)
        if (made.record.cell.target, made.record.cell.users) == ("one_replica", 25):
            made.record.ready_after_s = None

    figures = summary(tmp_path, not_ready, users=[10, 25], repetitions=1, limits=limits)
    assert "fails in every repetition" not in figures.bottom_line
    assert not any(line.startswith("Plan for at most") for line in figures.recommendations)


def test_a_start_that_failed_does_not_undo_what_the_other_repetitions_showed(tmp_path: Path) -> None:
    crashing = crash("one_replica", 25, then=latency(4, 40), failure="target_failed")

    def not_ready_once(made: MadeCell) -> None:
        crashing(made)
        if made.record.cell.repetition == 3 and made.record.status == "failed":
            made.record.ready_after_s = None

    levels: dict[str, Any] = {"users": [10, 25], "repetitions": 3, "limits": []}
    always, once = summary(tmp_path / "a", crashing, **levels), summary(tmp_path / "b", not_ready_once, **levels)
    assert "(at 25 users it fails in every repetition)" in always.bottom_line
    assert once.bottom_line == always.bottom_line


def test_a_target_without_a_valid_cell_does_not_change_the_choice_between_the_others(tmp_path: Path) -> None:
    never = made_target("never", 1)

    def change(made: MadeCell) -> None:
        crash("never", 10, then=crash("never", 25, then=latency(4, 40)))(made)
        if (made.record.cell.target, made.record.cell.users) == ("two_replicas", 25):
            fail("generator_lost")(made)

    levels: dict[str, Any] = {"users": [10, 25], "repetitions": 3, "limits": []}
    others = summary(tmp_path / "two", change, **levels)
    figures = summary(tmp_path / "three", change, **levels, targets=[*made_plan().targets, never])
    assert figures.bottom_line == others.bottom_line


def test_without_objectives_targets_that_lose_the_same_level_are_told_apart_by_figures(tmp_path: Path) -> None:
    def crash_both(made: MadeCell) -> None:
        for target in ("one_replica", "two_replicas"):
            crash(target, 25, then=latency(4, 40), failure="target_failed")(made)

    figures = summary(tmp_path, crash_both, users=[10, 25], repetitions=3, limits=[])
    assert figures.bottom_line.startswith(
        "Run 1 replica: like 2 replicas it answers up to 10 users (at 25 users it fails in every repetition), and it "
        "wins at 1 of 1 user levels, 2 replicas at 0; "
    )


def test_a_level_that_one_of_several_repetitions_measured_is_judged_by_it(tmp_path: Path) -> None:
    def crash_once(made: MadeCell) -> None:
        latency(4, 40)(made)
        if made.record.cell.users == 25 and made.record.cell.repetition == 1:
            fail("target_failed")(made)

    alone = summary(tmp_path, crash_once, users=[10, 25], repetitions=2, limits=["failures_percent <= 0"], **ONE)
    assert alone.bottom_line.startswith("1 replica meets every objective up to 25 users; ")


def test_a_miss_above_a_level_without_a_valid_cell_decides_all_the_same(tmp_path: Path) -> None:
    slow = crash("two_replicas", 10, then=latency(4, 4, predict_ms=(60, 200)))
    figures = summary(tmp_path, slow, users=[10, 25], limits=["predict.p95_ms <= 100"])
    assert figures.bottom_line.startswith(
        "Run 1 replica: it meets every objective up to 25 users, 2 replicas with no number of users (at 10 users no "
        "cell is valid); "
    )


def test_more_than_enough_repetitions_without_an_answer_ask_for_twice_as_many(tmp_path: Path) -> None:
    figures = summary(tmp_path, users=[10], duration_s=30, repetitions=ENOUGH_REPETITIONS, limits=[])
    unknown = {"verdict": "not enough data", "winner": None}
    undecided = [
        level.model_copy(
            update={**unknown, "differences": [one.model_copy(update=unknown) for one in level.differences]}
        )
        for level in figures.comparisons
    ]
    again = conclude(figures.model_copy(update={"comparisons": undecided}))
    assert again.bottom_line.startswith(
        "Undecided: 1 replica and 2 replicas cannot be told apart with the data at hand; 10 "
    )
    assert "`--repetitions 10 --duration 120`" in again.bottom_line


def test_the_committed_report_is_undecided_and_is_what_its_figures_conclude() -> None:
    figures = Figures.model_validate_json(PUBLISHED.read_text(encoding="utf-8"))
    assert figures.bottom_line.startswith("Undecided: 1 replica × 2 threads and 2 replicas × 1 thread meet every ")
    assert "ahead at 10, 25 and 50 users, in 1 of 7 figures each" in figures.bottom_line
    assert "5 repetitions of 150 s" in figures.bottom_line
    assert "nothing but memory speaks for 1 replica × 2 threads" in figures.bottom_line
    assert conclude(figures) == figures


@pytest.mark.parametrize("name", ["quick", "smoke", "published"])
def test_labels_of_shipped_plans_name_the_replicas_and_threads_of_their_configs(name: str) -> None:
    for target in load_plan(CONFIGS / "stress" / f"{name}.yaml").targets:
        (file,) = [file for file in target.files if file.suffix == ".yaml"]
        (model,) = [one for one in read_yaml_file(ROOT / file)["applications"] if one["name"] == "model"]
        replicas, threads = model["deployments"][0]["num_replicas"], model["args"]["threads"]
        assert target.label == f"{replicas} replica{'s' * (replicas > 1)} × {threads} thread{'s' * (threads > 1)}"
