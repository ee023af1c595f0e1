"""The auditor: silent on honest reports, real and simulated; it finds each planted fault, and the published ones."""

import argparse
import copy
import json
import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

from loadtest.audit.audit import audit_file
from loadtest.audit.cycles import mean_lateness_s
from loadtest.audit.finding import Audit, Finding, show, show_s
from loadtest.audit.interval import Interval, exact, locust_percentile, printed, printed_or_cut, printed_percentile
from loadtest.audit.latencies import highest_mean_ms, highest_median_ms, lowest_mean_ms
from loadtest.audit.locust_stats import RunFacts
from loadtest.audit.markdown import render_markdown
from loadtest.audit.table import Printed
from loadtest.commands.audit import add_command
from loadtest.errors import BadInputError
from loadtest.figures.locust_csv import read_locust_csv
from loadtest.rows.columns import RequestRow
from loadtest.rows.run_folder import RunFolder
from loadtest.verdict.findings import conclude
from loadtest.verdict.summary import summarize
from tests.audits.closed_loop import SHARES, Experiment, Kind, Outcome, locust_csv, simulate, tabulate
from tests.made_run import MadeCell, made_plan, write_made_run

ROOT = Path(__file__).parents[3]
PUBLISHED = Path("tests/audits/published_report.yaml")
COMMITTED = ROOT / "docs/reports"
PAGE = ROOT / "docs/audit_of_the_published_report.md"

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def published() -> Audit:
    return audit_file(ROOT / PUBLISHED, RunFacts())


@pytest.fixture(scope="module")
def clean() -> dict[str, Any]:
    """Return an honest table: two instances beside one, at 10 users, with whom both keep up, and at 100."""
    outcomes = [
        (instances, simulate(Experiment(seed=users + instances, users=users, servers=instances, predict_s=0.15)))
        for users in (10, 100)
        for instances in (1, 2)
    ]
    return tabulate(outcomes, 150.0)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run = RunFolder(write_made_run(tmp_path_factory.mktemp("run"), made_plan(repetitions=2)))
    figures: dict[str, Any] = summarize(run).model_dump(mode="json")
    return figures


def audit_table(folder: Path, table: dict[str, Any]) -> Audit:
    path = folder / "table.yaml"
    path.write_text(json.dumps(table), encoding="utf-8")  # which is YAML, and quicker to write
    return audit_file(path, RunFacts())


def audit_own(folder: Path, figures: dict[str, Any]) -> Audit:
    path = folder / "report.json"
    path.write_text(json.dumps(figures), encoding="utf-8")
    return audit_file(path, RunFacts())


def rules(audit: Audit) -> set[str]:
    return {finding.rule for finding in audit.findings}


def find(audit: Audit, rule: str, row: str) -> Finding:
    found = [one for one in audit.findings if one.rule == rule and row in one.row]
    assert len(found) == 1, [(one.rule, one.row) for one in audit.findings]
    return found[0]


def run_command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_command(parser.add_subparsers(required=True))
    chosen = parser.parse_args(["audit", *arguments])
    code: int = chosen.do(chosen)
    return code


# --- the published report -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "duration_s"),
    [("1 instance, 100 users", 90), ("2 instances, 25 users", 205), ("2 instances, 50 users", 634)],
)
def test_the_published_durations_cannot_be(published: Audit, row: str, duration_s: int) -> None:
    assert find(published, "implied duration", row).numbers["implied_s"] == pytest.approx(duration_s, abs=0.6)


def test_only_those_three_published_durations_are_faulted(published: Audit) -> None:
    assert sum(one.rule == "implied duration" for one in published.findings) == 3


@pytest.mark.parametrize(
    ("claim", "ratio"), [("claim at 50", 1.32), ("recommendation_at_50", 1.32), ("claim at 100", 1.74)]
)
def test_the_published_ratios_are_not_those_of_the_requests(published: Audit, claim: str, ratio: float) -> None:
    finding = find(published, "claimed number", claim)
    assert finding.numbers["by_requests"] == pytest.approx(ratio, abs=0.005)


def test_the_published_4x_is_not_even_that_of_the_rps(published: Audit) -> None:
    assert find(published, "claimed number", "claim at 50").numbers["by_RPS"] == pytest.approx(5.3)


def test_the_sign_flips_at_25_users(published: Audit) -> None:
    ratio = find(published, "throughput ratio", "25 users")
    assert ratio.says.endswith("the sign flips")
    assert ratio.numbers["by_rps"] > 1 > ratio.numbers["by_requests"]
    claim = find(published, "claimed number", "claim at 25")
    assert claim.numbers["by_RPS"] == pytest.approx(14.06, abs=0.01)
    assert claim.numbers["by_requests"] == pytest.approx(-9.33, abs=0.01)


def test_the_10_user_rows_are_capped(published: Audit) -> None:
    finding = find(published, "capped comparison", "claim at 10")
    assert finding.numbers["limit_rps"] == pytest.approx(10 / 3)


def test_the_bottom_line_contradicts_the_25_user_winner(published: Audit) -> None:
    assert "winner at 25 users, 2 instances" in find(published, "contradiction", "bottom_line").says


def test_4x_and_5x_contradict_each_other(published: Audit) -> None:
    find(published, "contradiction", "claim at 50 users and recommendation_at_50")


def test_the_login_outside_the_statistics_shows_as_hidden_time(published: Audit) -> None:
    hidden = {one.row for one in published.findings if one.rule == "hidden time"}
    assert hidden == {
        *("1 instance, 25 users", "1 instance, 50 users", "1 instance, 100 users"),
        *("2 instances, 50 users", "2 instances, 100 users"),
    }
    assert find(published, "hidden time", "1 instance, 50").numbers["hidden_s"] == pytest.approx(
        50 / 5.3 - 3 - 2.1797, abs=1e-3
    )


def test_where_rps_and_duration_disagree_hidden_time_counts_only_if_both_show_it(published: Audit) -> None:
    least_s = {line.by: line.least_s for line in published.cycles if line.row == "2 instances, 25 users"}
    assert least_s["RPS"] > 0 > least_s["requests in 120 s"]


def test_the_published_report_has_no_other_fault(published: Audit) -> None:
    counts = {rule.rule: rule.findings for rule in published.rules if rule.findings}
    assert counts == {
        "implied duration": 3,
        "hidden time": 5,
        "throughput ratio": 3,
        "capped comparison": 1,
        "claimed number": 4,
        "contradiction": 2,
    }


def test_every_finding_has_its_row_its_sum_and_what_must_be_true(published: Audit) -> None:
    for finding in published.findings:
        assert finding.row
        assert finding.sums
        assert finding.instead


def test_the_page_is_what_the_command_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert PAGE.read_text(encoding="utf-8") == render_markdown(audit_file(PUBLISHED, RunFacts()))


def test_the_published_figures_are_those_printed_beside_ours() -> None:
    table = yaml.safe_load((ROOT / PUBLISHED).read_text(encoding="utf-8"))
    baseline = yaml.safe_load((ROOT / "configs/stress/baselines/published_2026.yaml").read_text(encoding="utf-8"))
    rows = [{key: value for key, value in point.items() if key != "endpoints"} for point in baseline["points"]]
    endpoints = [point["endpoints"] for point in baseline["points"]]
    assert [{**row, **parts} for row, parts in zip(rows, endpoints, strict=True)] == table["results"]


# --- honest reports -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("users", [1, 10, 50, 400])
@pytest.mark.parametrize(("predict_ms", "lookup_ms"), [(40, 4), (700, 25), (4000, 3500)])
@pytest.mark.parametrize("duration_s", [60.0, 150.0, 1800.0])
def test_a_table_made_by_the_law_itself_gives_no_finding(
    tmp_path: Path, users: int, predict_ms: int, lookup_ms: int, duration_s: float
) -> None:
    mean_s = (predict_ms + 2 * lookup_ms) / 3000
    rps = users / (3 + mean_s)
    row = {
        "instances": 1,
        "users": users,
        "requests": round(rps * duration_s),
        "rps": round(rps, 2),
        "failures_percent": 0,
        "median_ms": lookup_ms,
        "avg_ms": round(1000 * mean_s, 1),
        "predict": {"median_ms": predict_ms, "avg_ms": predict_ms},
        "lookup": {"median_ms": lookup_ms, "avg_ms": lookup_ms},
    }
    table = {
        **tabulate([(1, simulate(Experiment(seed=1, users=1)))], duration_s),
        "results": [row],
    }
    table["test"]["spawn_rate_per_s"] = 1000
    assert audit_table(tmp_path, table).findings == []


@dataclass
class Simulated:
    """An honest experiment."""

    runs: list[tuple[int, Outcome]]
    """How many instances, and what was counted."""
    stated_s: float | tuple[float, float]


@pytest.fixture(
    scope="module",
    params=[range(60), pytest.param(range(60, 240), marks=pytest.mark.long)],
    ids="{0} experiments".format,
)
def experiments(request: pytest.FixtureRequest) -> list[Simulated]:
    return [draw_experiment(seed) for seed in request.param]


def draw_experiment(seed: int) -> Simulated:
    """Return one and two instances at two numbers of users: any load, wait, failures, one duration or a range."""
    rng = random.Random(seed)
    base = Experiment(
        seed=0,
        users=0,
        spawn_rate_per_s=rng.choice([1, 5, 20]),
        wait_s=rng.choice([(1.0, 5.0), (0.5, 1.5), (2.0, 2.0)]),
        predict_s=rng.choice([0.02, 0.1, 0.2, 0.5]),
        lookup_s=rng.choice([0.003, 0.05]),
        failed_share=rng.choice([0.0, 0.0, 0.05, 0.3]),
    )
    shortest_s, longest_s = rng.choice([(60.0, 60.0), (150.0, 150.0), (120.0, 180.0)])
    runs = []
    for users in rng.sample([5, 10, 25, 50, 80], 2):
        for instances in (1, 2):
            duration_s = rng.uniform(shortest_s, longest_s)
            seed_of_run = rng.randrange(2**32)
            one = replace(base, seed=seed_of_run, users=users, duration_s=duration_s, servers=instances)
            runs.append((instances, simulate(one)))
    return Simulated(runs, shortest_s if shortest_s == longest_s else (shortest_s, longest_s))


def claim_honestly(table: dict[str, Any]) -> None:
    """Add what an honest author would say: of throughput only where the service and not the users limit it."""
    limit_share = 0.85
    mean_wait_s = sum(table["workload"]["wait_s"]) / 2
    for users in table["test"]["users"]:
        one, two = (row for row in table["results"] if row["users"] == users)
        winner, other = (one, two) if one["predict"]["median_ms"] <= two["predict"]["median_ms"] else (two, one)
        faster = round(100 * (1 - winner["predict"]["median_ms"] / other["predict"]["median_ms"]))
        says = [say(f"{faster} % faster predictions", "latency", "less", endpoint="predict", percent=faster)]
        says = says if faster else [say("same speed", "latency", "same")]
        rates = (winner["rps"], other["rps"])
        if max(rates) < limit_share * users / mean_wait_s and rates[0] > rates[1] > 0:
            ratio, more = rates[0] / rates[1], f"{100 * rates[0] / rates[1] - 100:.0f}"
            if ratio > 1.5:
                says += [say(f"{ratio:.1f}x throughput", "throughput", "more", times=float(f"{ratio:.1f}"))]
            elif more != "0":
                says += [say(f"{more} % higher throughput", "throughput", "more", percent=int(more))]
        table["claims"] += [claimed(users, winner["instances"], *says)]
    winners = {claim["winner"] for claim in table["claims"]}
    if len(winners) == 1:
        table["claims"] += [{"bottom_line": "use it for all load levels", "target": winners.pop(), "all_levels": True}]


def say(text: str, quantity: str, sense: str, **more: object) -> dict[str, Any]:
    """Return what a sentence says, as data."""
    return {"text": text, "quantity": quantity, "sense": sense, **more}


def claimed(users: int, winner: int, *says: dict[str, Any], because: str = "") -> dict[str, Any]:
    """Return a claim of a table; its sentence is made of what it says unless given."""
    words = because or ", ".join(one["text"] for one in says)
    return {"users": users, "winner": winner, "because": words, "says": list(says)}


def test_simulated_experiments_give_no_finding_as_a_table(tmp_path: Path, experiments: list[Simulated]) -> None:
    found = {}
    for number, experiment in enumerate(experiments):
        table = tabulate(experiment.runs, experiment.stated_s)
        claim_honestly(table)
        found[number] = audit_table(tmp_path, table).findings
    assert {number: findings for number, findings in found.items() if findings} == {}


def test_simulated_experiments_give_no_finding_as_locust_csv(tmp_path: Path, experiments: list[Simulated]) -> None:
    outcomes = [outcome for experiment in experiments for _, outcome in experiment.runs]
    found = [audit_csv(tmp_path, locust_csv(outcome), facts_of(outcome)).findings for outcome in outcomes]
    assert [findings for findings in found if findings] == []


def facts_of(outcome: Outcome) -> RunFacts:
    one = outcome.experiment
    return RunFacts(
        users=one.users, duration_s=one.duration_s, wait_s=one.wait_s, spawn_rate_per_s=one.spawn_rate_per_s
    )


def test_simulated_experiments_with_a_hidden_call_are_found(tmp_path: Path) -> None:
    path = tmp_path / "run_stats.csv"
    for seed in range(20):
        outcome = simulate(Experiment(seed=seed, users=40, predict_s=0.05, hidden_s=1.0))
        path.write_text(locust_csv(outcome), encoding="utf-8")
        assert rules(audit_file(path, facts_of(outcome))) == {"hidden time"}


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("plain", RunFacts(users=20, duration_s=40, wait_s=(1, 5), spawn_rate_per_s=5)),
        ("busy", RunFacts(users=40, duration_s=40, wait_s=(1, 5), spawn_rate_per_s=10)),
        ("reset", RunFacts(users=60, duration_s=40, wait_s=(1, 5), spawn_rate_per_s=10)),
    ],
)
def test_real_runs_of_locust_give_no_finding(name: str, facts: RunFacts) -> None:
    assert audit_file(ROOT / f"tests/audits/locust_{name}_stats.csv", facts).findings == []


def test_a_real_run_of_locust_with_an_uncounted_login_is_found() -> None:
    facts = RunFacts(users=40, duration_s=40, wait_s=(1, 5), spawn_rate_per_s=10)
    assert rules(audit_file(ROOT / "tests/audits/locust_login_stats.csv", facts)) == {"hidden time"}


def test_our_own_report_gives_no_finding(tmp_path: Path, own: dict[str, Any]) -> None:
    audit = audit_own(tmp_path, own)
    assert audit.findings == []
    assert all(rule.checked for rule in audit.rules)


def send_fast(seed: int) -> Callable[[MadeCell], None]:
    """Let users send again at once, about a thousand times a second, in windows that begin and end at any moment."""

    def send(made: MadeCell) -> None:
        rng = random.Random(f"{seed} {made.record.cell.id}")
        moments = made.record.moments
        assert moments is not None
        moments.started_unix_s += rng.uniform(0, 0.01)
        moments.spawned_unix_s = moments.started_unix_s + rng.uniform(0.1, 0.2)
        moments.stopping_unix_s += rng.uniform(0.02, 0.1)
        moments.stopped_unix_s = moments.stopping_unix_s + 0.1
        made.requests = []
        for _ in range(made.record.cell.users):
            now_s = moments.started_unix_s
            while now_s < moments.stopping_unix_s:
                latency_s = rng.uniform(0.005, 0.015)
                endpoint = rng.choice(["predict", "lookup"])
                made.requests.append(RequestRow(round(now_s, 6), endpoint, 200, round(1000 * latency_s, 3), 9, "", ""))
                now_s += latency_s

    return send


@pytest.mark.parametrize("seed", range(2))
def test_our_own_report_of_many_requests_in_odd_windows_gives_no_finding(tmp_path: Path, seed: int) -> None:
    pace = {**made_plan().workload.model_dump(mode="json"), "wait_s": [0, 0]}
    keys = {"users": [10], "duration_s": 3, "settle_s": 0, "repetitions": 2, "metrics": None, "baseline": None}
    folder = write_made_run(tmp_path / "run", made_plan(**keys, workload=pace), send_fast(seed))
    figures = summarize(RunFolder(folder)).model_dump(mode="json")
    (level,) = figures["comparisons"]
    rps = next(one["values"] for one in level["differences"] if one["metric"] == "rps")
    assert min(rps.values()) > 900
    assert audit_own(tmp_path, figures).findings == []


# --- planted faults: tables -----------------------------------------------------------------------------------------


def scale(row: int, factor: float, *keys: str) -> Change:
    def change(table: dict[str, Any]) -> None:
        for key in keys:
            value = table["results"][row][key]
            table["results"][row][key] = round(value * factor, 1) if isinstance(value, float) else round(value * factor)

    return change


def put(row: int, **values: Any) -> Change:
    return lambda table: table["results"][row].update(values)


def put_endpoint(row: int, endpoint: str, **values: Any) -> Change:
    return lambda table: table["results"][row][endpoint].update(values)


def claim(*values: Any, **more: Any) -> Change:
    return lambda table: table["claims"].append(claimed(*values, **more))


def median_beyond_the_lookups(table: dict[str, Any]) -> None:
    """Put the median of all between those of the endpoints, and yet where two thirds of lookups do not let it be."""
    row = table["results"][0]
    row["median_ms"] = row["predict"]["median_ms"] - 1
    assert 4 * row["lookup"]["avg_ms"] < row["median_ms"] < row["predict"]["median_ms"]


def loser_wins(table: dict[str, Any]) -> None:
    """Name one instance the winner at 100 users, where it is worse in everything, lookups included."""
    one, two = (row for row in table["results"] if row["users"] == 100)
    one["lookup"] = {"median_ms": 2 * two["lookup"]["median_ms"], "avg_ms": 2 * two["lookup"]["avg_ms"]}
    one["median_ms"] = 2 * two["median_ms"]
    table["claims"].append(claimed(100, 1, because="it is simpler"))


FASTER = say("faster predictions", "latency", "less", endpoint="predict")


def recommended(users: int, one: dict[str, Any]) -> dict[str, Any]:
    return {"users": users, "recommendation": one["text"], "says": [one]}


FAULTS: dict[str, tuple[Change, set[str]]] = {
    "RPS of another time": (scale(2, 1.6, "rps"), {"implied duration", "throughput ratio"}),
    "RPS of another time, lower": (scale(3, 0.5, "rps"), {"implied duration", "throughput ratio"}),
    "duration of another test": (lambda table: table["test"].update(duration_s=90.0), {"implied duration"}),
    "more than users can send": (scale(0, 1.5, "requests", "rps"), {"think-time limit"}),
    "requests left out": (scale(2, 0.6, "requests", "rps"), {"hidden time"}),
    "mean of all": (put(0, avg_ms=200), {"weighted mean"}),
    "median above all": (put(0, median_ms=900), {"mixture median"}),
    "median below all": (put(0, median_ms=1), {"mixture median"}),
    "median where its lookups are not": (median_beyond_the_lookups, {"mixture median"}),
    "mean below half a median": (put_endpoint(0, "predict", avg_ms=20), {"possible mean"}),
    "mean above the maximum": (put_endpoint(0, "lookup", max_ms=9), {"possible mean"}),
    "percentiles that fall": (put_endpoint(0, "predict", p95_ms=400, p99_ms=300), {"percentile order"}),
    "failures beyond all requests": (put(0, failures=10_000), {"counts"}),
    "failures beyond 100 percent": (put(0, failures_percent=120), {"counts"}),
    "failures of another share": (put(0, failures=40), {"counts"}),
    "ratio": (claim(100, 2, say("4x throughput", "throughput", "more", times=4)), {"claimed number"}),
    "percent": (
        claim(100, 2, say("20 % faster predictions", "latency", "less", endpoint="predict", percent=20)),
        {"claimed number"},
    ),
    "same": (
        claim(100, 2, say("same latency of predictions", "latency", "same", endpoint="predict")),
        {"claimed number"},
    ),
    "sign": (claim(100, 2, say("lower throughput", "throughput", "less")), {"claimed number"}),
    "loser as winner": (loser_wins, {"claimed winner"}),
    "throughput that the users set": (
        claim(10, 2, say("similar throughput", "throughput", "same")),
        {"capped comparison"},
    ),
    "bottom line against a level": (
        lambda table: table["claims"].extend(
            [
                claimed(100, 2, FASTER),
                {"bottom_line": "take one instance at every load level", "target": 1, "all_levels": True},
            ]
        ),
        {"contradiction"},
    ),
    "two numbers for one thing": (
        lambda table: table["claims"].extend(
            [
                claimed(100, 2, say("more", "throughput", "more", times=float(f"{told_ratio(table):.1f}"))),
                recommended(100, say("less", "throughput", "more", times=float(f"{told_ratio(table) - 0.1:.1f}"))),
            ]
        ),
        {"contradiction"},
    ),
}


def told_ratio(table: dict[str, Any]) -> float:
    one, two = (row["rps"] for row in table["results"] if row["users"] == 100)
    ratio: float = two / one
    return ratio


def test_the_honest_table_gives_no_finding(tmp_path: Path, clean: dict[str, Any]) -> None:
    table = copy.deepcopy(clean)
    claim_honestly(table)
    assert audit_table(tmp_path, table).findings == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_table_is_found_by_its_rule_alone(tmp_path: Path, clean: dict[str, Any], fault: str) -> None:
    table = copy.deepcopy(clean)
    change, expected = FAULTS[fault]
    change(table)
    assert rules(audit_table(tmp_path, table)) == expected


def test_rows_that_are_capped_are_no_fault_without_a_winner_by_throughput(
    tmp_path: Path, clean: dict[str, Any]
) -> None:
    table = copy.deepcopy(clean)
    claim(10, 2, FASTER)(table)
    assert audit_table(tmp_path, table).findings == []


def test_a_table_without_an_average_of_all_says_that_means_were_not_checked(
    tmp_path: Path, clean: dict[str, Any]
) -> None:
    checked = {rule.rule: rule.checked for rule in audit_table(tmp_path, clean).rules}
    assert checked["weighted mean"] == 0
    assert checked["mixture median"] == 4


def test_a_claim_without_rows_is_told(tmp_path: Path, clean: dict[str, Any]) -> None:
    table = copy.deepcopy(clean)
    claim(70, 2, say("4x throughput", "throughput", "more", times=4))(table)
    audit = audit_table(tmp_path, table)
    assert audit.findings == []
    assert any(note.startswith("claim at 70 users: “4x throughput” has no rows") for note in audit.notes)


def test_an_rps_that_rounds_to_nothing_is_no_reason_to_give_up(tmp_path: Path, clean: dict[str, Any]) -> None:
    table = copy.deepcopy(clean)
    put(2, rps=0.0)(table)
    assert "implied duration" in rules(audit_table(tmp_path, table))


def test_words_of_a_claim_that_are_not_given_as_data_are_told(tmp_path: Path, clean: dict[str, Any]) -> None:
    table = copy.deepcopy(clean)
    claim(100, 2, FASTER, because="it feels nicer, faster predictions, twice the memory")(table)
    notes = " ".join(audit_table(tmp_path, table).notes)
    assert "claim at 100 users: “it feels nicer, , twice the memory” is not given as data, so not checked" in notes


def test_a_bottom_line_for_some_levels_contradicts_no_level(tmp_path: Path, clean: dict[str, Any]) -> None:
    table = copy.deepcopy(clean)
    table["claims"] += [claimed(100, 2, FASTER), {"bottom_line": "take one instance at 10 users", "target": 1}]
    audit = audit_table(tmp_path, table)
    assert audit.findings == []
    assert any("does not name one target for all levels, so not checked" in note for note in audit.notes)


# --- planted faults: Locust's CSV -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return simulate(Experiment(seed=3, users=40, predict_s=0.1, failed_share=0.05))


def audit_csv(folder: Path, text: str, facts: RunFacts) -> Audit:
    path = folder / "run_stats.csv"
    path.write_text(text, encoding="utf-8")
    return audit_file(path, facts)


OLD_COLUMNS = {"Request Count": "# requests", "Failure Count": "# failures", "Failures/s": "Requests Failed/s"}


@pytest.mark.parametrize("first", ["Type", "Method"])
def test_a_csv_of_locust_before_1_0_is_audited_by_its_cut_numbers(tmp_path: Path, outcome: Outcome, first: str) -> None:
    header, *lines = (line.split(",") for line in locust_csv(outcome).splitlines())
    names = [OLD_COLUMNS.get(name, name.replace("Response Time", "response time")) for name in header]
    cut = [
        [
            f"{float(value):.2f}" if name.endswith("/s") else str(int(float(value))) if at > 1 else value
            for at, (name, value) in enumerate(zip(header, line, strict=True))
        ]
        for line in lines
    ]
    total = cut[-1] if first == "Type" else ["None", "Total", *cut[-1][2:]]
    text = "\n".join(",".join(line) for line in ([first, *names[1:]], *cut[:-1], total))
    audit = audit_csv(tmp_path, text, facts_of(outcome))
    assert audit.findings == []
    today = audit_csv(tmp_path, locust_csv(outcome), facts_of(outcome)).rows[0].endpoints
    assert audit.rows[0].endpoints == re.sub(r"(mean \d+)\.\d+", r"\1", today)


CSV_FAULTS: dict[str, tuple[str, str, Callable[[float], object], set[str]]] = {
    "mean": ("Aggregated", "Average Response Time", lambda value: value * 1.1, {"weighted mean"}),
    "median": ("Aggregated", "Median Response Time", lambda _: 1, {"mixture median", "percentile order"}),
    "percentile": ("/lookup", "95%", lambda _: 1, {"percentile order", "mixture median"}),
    "failures": ("Aggregated", "Failure Count", lambda value: int(value) + 1, {"counts"}),
    "RPS of an endpoint": ("/lookup", "Requests/s", lambda value: value * 1.2, {"implied duration"}),
    "maximum": ("/predict", "Max Response Time", lambda value: value / 3, {"percentile order"}),
}


@pytest.mark.parametrize("fault", CSV_FAULTS)
def test_a_fault_in_locusts_csv_is_found_by_its_rule(tmp_path: Path, outcome: Outcome, fault: str) -> None:
    name, column, change, expected = CSV_FAULTS[fault]
    header, *lines = (line.split(",") for line in locust_csv(outcome).splitlines())
    line = next(line for line in lines if line[1] == name)
    line[header.index(column)] = str(change(float(line[header.index(column)])))
    text = "\n".join(",".join(one) for one in (header, *lines))
    assert rules(audit_csv(tmp_path, text, facts_of(outcome))) == expected


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (RunFacts(users=80, duration_s=150, wait_s=(1, 5), spawn_rate_per_s=5), {"hidden time"}),
        (RunFacts(users=20, duration_s=150, wait_s=(1, 5), spawn_rate_per_s=5), {"think-time limit"}),
        (RunFacts(users=40, duration_s=150, wait_s=(3, 6), spawn_rate_per_s=5), {"think-time limit"}),
        (RunFacts(users=40, duration_s=300, wait_s=(1, 5), spawn_rate_per_s=5), {"implied duration"}),
        (RunFacts(), set()),
    ],
)
def test_what_is_said_of_a_locust_run_is_checked(
    tmp_path: Path, outcome: Outcome, facts: RunFacts, expected: set[str]
) -> None:
    assert rules(audit_csv(tmp_path, locust_csv(outcome), facts)) >= expected
    assert rules(audit_csv(tmp_path, locust_csv(outcome), facts)) <= expected | {"hidden time"}


# --- planted faults: our own report ---------------------------------------------------------------------------------


def swap_winner(figures: dict[str, Any]) -> None:
    difference = next(one for level in figures["comparisons"] for one in level["differences"] if one["winner"])
    difference["winner"] = next(name for name in difference["values"] if name != difference["winner"])


def wrong_difference(figures: dict[str, Any]) -> None:
    figures["comparisons"][0]["differences"][1]["difference_percent"] = 50.0


def unsupported_winner(figures: dict[str, Any]) -> None:
    level = figures["comparisons"][0]
    level["winner"] = "one_replica"
    for difference in level["differences"]:
        difference["winner"] = None


def flip_limit(figures: dict[str, Any]) -> None:
    result = figures["cells"][0]["limits"][0]
    result["met"] = not result["met"]


OWN_FAULTS: dict[str, tuple[Change, set[str]]] = {
    "RPS": (lambda figures: figures["cells"][0]["steady"].update(rps=9.0), {"implied duration"}),
    "window": (
        lambda figures: figures["cells"][0].update(steady_window_s=10.0),
        {"implied duration", "derived figure"},
    ),
    "load of another length": (lambda figures: figures["test"].update(duration_s=90), {"derived figure"}),
    "think-time limit": (lambda figures: figures["points"][0].update(think_time_limit_rps=4.0), {"derived figure"}),
    "think time": (
        lambda figures: figures["test"]["workload"].update(wait_s=[3, 7]),
        {"think-time limit", "derived figure"},
    ),
    "failures": (lambda figures: figures["cells"][0]["whole_run"].update(failures_percent=5.0), {"counts"}),
    "mean": (
        lambda figures: figures["cells"][0]["steady"].update(avg_ms=figures["cells"][0]["steady"]["avg_ms"] * 1.05),
        {"weighted mean"},
    ),
    "median": (
        lambda figures: figures["cells"][0]["steady"].update(median_ms=figures["cells"][0]["steady"]["p95_ms"]),
        {"mixture median", "possible mean"},
    ),
    "order": (
        lambda figures: figures["cells"][0]["whole_run"].update(p99_ms=figures["cells"][0]["whole_run"]["max_ms"] + 1),
        {"percentile order"},
    ),
    "stages": (lambda figures: figures["cells"][0]["endpoints"][0].update(unexplained_ms=9.0), {"derived figure"}),
    "validity": (lambda figures: figures["cells"][0].update(reasons=["late"]), {"derived figure"}),
    "all valid": (lambda figures: figures.update(all_valid=False), {"derived figure"}),
    "all limits": (lambda figures: figures.update(all_limits_met=True), {"derived figure"}),
    "limit": (flip_limit, {"derived figure"}),
    "limit of another figure": (
        lambda figures: figures["cells"][0]["limits"][1].update(value=1.0),
        {"derived figure"},
    ),
    "repetitions": (lambda figures: figures["points"][0].update(repetitions=1), {"derived figure"}),
    "pooled maximum": (
        lambda figures: figures["points"][0]["steady"].update(max_ms=figures["points"][0]["steady"]["max_ms"] + 1),
        {"derived figure"},
    ),
    "winner of a figure": (swap_winner, {"derived figure"}),
    "difference": (wrong_difference, {"derived figure"}),
    "winner of a level": (unsupported_winner, {"derived figure"}),
    "value in a comparison": (
        lambda figures: figures["comparisons"][0]["differences"][0]["values"].update(one_replica=3.0),
        {"derived figure"},
    ),
}


@pytest.mark.parametrize("fault", OWN_FAULTS)
def test_a_fault_in_our_own_report_is_found_by_its_rule(tmp_path: Path, own: dict[str, Any], fault: str) -> None:
    figures = copy.deepcopy(own)
    change, expected = OWN_FAULTS[fault]
    change(figures)
    assert rules(audit_own(tmp_path, figures)) == expected


def test_a_cell_of_ours_with_fewer_requests_than_its_users_send_is_found(tmp_path: Path, own: dict[str, Any]) -> None:
    figures = copy.deepcopy(own)
    cell = next(cell for cell in figures["cells"] if cell["users"] == 50)
    for traffic in chain([cell["steady"]], (part["steady"] for part in cell["endpoints"])):
        traffic["requests"] //= 2
        traffic["rps"] = round(traffic["requests"] / cell["steady_window_s"], 4)
    assert "hidden time" in rules(audit_own(tmp_path, figures))


def test_a_cell_that_is_not_valid_promises_no_think_time(tmp_path: Path, own: dict[str, Any]) -> None:
    audit = audit_own(tmp_path, own)
    valid = sum(cell["valid"] for cell in own["cells"])
    assert {rule.rule: rule.checked for rule in audit.rules}["think-time limit"] == valid + len(own["points"])
    figures = copy.deepcopy(own)
    figures["cells"][0].update(valid=False, reasons=["the load generator was late"])
    figures["all_valid"] = False
    checked = {rule.rule: rule.checked for rule in audit_own(tmp_path, figures).rules}
    assert checked["think-time limit"] == valid - 1 + len(own["points"])


# --- the inequalities, against samples ------------------------------------------------------------------------------


def draw_kind(rng: random.Random) -> Kind:
    return Kind([rng.lognormvariate(rng.uniform(1, 7), rng.uniform(0.1, 2)) for _ in range(rng.randint(1, 60))])


def as_printed(kind: Kind) -> Printed:
    percentiles = [(share, locust_percentile(kind.percentile_ms(share))) for share in SHARES[:8]]
    ends = (exact(min(kind.latencies_ms)), exact(max(kind.latencies_ms)))
    return Printed(
        avg_ms=exact(kind.avg_ms), percentiles_ms=percentiles, min_ms=ends[0], max_ms=ends[1], timed=kind.requests
    )


def test_no_sample_has_a_mean_outside_what_its_percentiles_allow() -> None:
    rng = random.Random(1)
    for kind in (draw_kind(rng) for _ in range(2000)):
        figures = as_printed(kind)
        assert lowest_mean_ms(figures) <= kind.avg_ms * (1 + 1e-9)
        assert kind.avg_ms <= highest_mean_ms(figures) * (1 + 1e-9)


def test_no_mixture_has_a_median_outside_what_its_parts_allow() -> None:
    rng = random.Random(2)
    for _ in range(2000):
        parts = [draw_kind(rng) for _ in range(rng.randint(1, 3))]
        whole = Kind([value for part in parts for value in part.latencies_ms])
        median_ms = whole.percentile_ms(0.5)
        assert min(part.percentile_ms(0.5) for part in parts) <= median_ms
        assert median_ms <= max(part.percentile_ms(0.5) for part in parts)
        for part in parts:
            bound = highest_median_ms(as_printed(part), exact(part.requests / whole.requests))
            assert locust_percentile(median_ms).low <= bound


def test_the_bound_of_a_median_is_reached() -> None:
    """Two thirds are lookups: half of them at 0 ms, a quarter at 10, a quarter at 50; all predictions beyond."""
    lookups = Kind([0.0] * 4 + [10.0] * 2 + [50.0] * 2)
    assert Kind([*lookups.latencies_ms, *[90.0] * 4]).percentile_ms(0.5) == 50
    figures = Printed(avg_ms=exact(lookups.avg_ms), percentiles_ms=[(0.5, exact(10.0))], timed=8)
    assert highest_median_ms(figures, exact(8 / 12)) == pytest.approx(50.0, rel=1e-6)


@pytest.mark.parametrize(
    ("ramp_s", "duration_s", "late_s"), [(10, 100, 5), (0, 100, 0), (100, 100, 50), (200, 100, 75)]
)
def test_the_ramp_costs_half_of_itself_and_more_if_it_never_ends(
    ramp_s: float, duration_s: float, late_s: float
) -> None:
    assert mean_lateness_s(ramp_s, duration_s) == late_s


# --- rounding, words ------------------------------------------------------------------------------------------------


def test_printed_numbers_keep_their_digits(tmp_path: Path, clean: dict[str, Any]) -> None:
    """1.0 requests/s may be 0.95; 1 may be 0.5."""
    requests = clean["results"][0]["requests"]
    text = yaml.safe_dump({**clean, "results": [{"instances": 1, "users": 10, "requests": requests, "rps": 777}]})
    ranges = []
    for rps in ("1.0", "1"):
        path = tmp_path / "table.yaml"
        path.write_text(text.replace("777", rps), encoding="utf-8")
        (finding,) = (one for one in audit_file(path, RunFacts()).findings if one.rule == "implied duration")
        ranges.append(finding.sums[0])
    assert f"{show(requests / 1.05)} to {show(requests / 0.95)} s" in ranges[0]
    assert f"{show(requests / 1.5)} to {show(requests / 0.5)} s" in ranges[1]


@pytest.mark.parametrize(
    ("interval", "low", "high"),
    [
        (printed(5), 4.5, 5.5),
        (printed_or_cut(361), 360.5, 362),
        (printed_percentile(1100), 1050, 1150),
        (printed_percentile(1234), 1233.5, 1234.5),
        (locust_percentile(59000), 58500, 59500),
        (exact(10) / printed(2), 4, 10 / 1.5),
        (Interval(1, 2, 4).through(lambda value: -value), -4, -1),
    ],
)
def test_rounding_leaves_a_range(interval: Interval, low: float, high: float) -> None:
    assert interval.low == pytest.approx(low)
    assert interval.high == pytest.approx(high)


@pytest.mark.parametrize(
    ("value", "text"), [(634.0, "634"), (89.6, "89.6"), (1.3170, "1.32"), (-0.5, "−0.50"), (0, "0"), (math.inf, "∞")]
)
def test_numbers_are_shown_with_about_three_digits(value: float, text: str) -> None:
    assert show(value) == text


def test_seconds_in_sums_are_shown_to_a_millisecond() -> None:
    assert show_s(9.43396) == "9.434"


# --- the command ----------------------------------------------------------------------------------------------------


def test_findings_exit_with_1_and_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(str(ROOT / PUBLISHED)) == 1
    printed_text = capsys.readouterr().out
    assert "18 findings" in printed_text
    assert "672 requests ÷ 7.5 requests/s = 89.6 s" in printed_text


def test_a_clean_report_exits_with_0(tmp_path: Path, clean: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(yaml.safe_dump(clean), encoding="utf-8")
    assert run_command(str(path)) == 0
    assert "0 findings" in capsys.readouterr().out
    assert run_command(str(path), "--format", "markdown") == 0
    assert "**No findings.**" in capsys.readouterr().out


def test_json_says_the_same_on_the_terminal_and_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "audit.json"
    assert run_command(str(ROOT / PUBLISHED), "--format", "json", "--json", str(path)) == 1
    assert path.read_text(encoding="utf-8") == capsys.readouterr().out
    assert len(Audit.model_validate_json(path.read_text(encoding="utf-8")).findings) == 18


def test_locusts_csv_takes_its_facts_from_the_command_line(
    tmp_path: Path, outcome: Outcome, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run_stats.csv"
    path.write_text(locust_csv(outcome), encoding="utf-8")
    facts = ["--users", "40", "--duration", "150", "--wait", "1", "5", "--spawn-rate", "5"]
    assert run_command(str(path), *facts) == 0
    assert run_command(str(path), *facts[:1], "20", *facts[2:]) == 1
    assert "think-time limit" in capsys.readouterr().out


def refusal(*arguments: str) -> str:
    with pytest.raises(BadInputError) as refused:
        run_command(*arguments)
    return str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table["results"][0].update(rpm=3), "results.0.rpm: is not a key here; allowed: failures"),
        (lambda table: table["results"][0]["predict"].update(avg=3), "results.0.predict.avg: is not a key here"),
        (lambda table: table["results"][0].update(requests="many"), "results.0.requests: "),
        (lambda table: table["results"][0].update(rps=-1), "results.0.rps: "),
        (lambda table: table["results"][0].pop("users"), "results.0.users: Field required"),
        (lambda table: table["results"][0].pop("instances"), "results.0: give either instances"),
        (lambda table: table["results"][1].update(instances=1), "1 instance, 10 users stands there twice"),
        (lambda table: table["test"].update(duration_s=[180, 120]), "the first number must not be above the second"),
        (lambda table: table["workload"].update(wait_s=[5, 1]), "the first number must not be above the second"),
        (
            lambda table: table["workload"].update(weights={"buy": 1}),
            "workload.weights.buy: is not among the endpoints",
        ),
        (claim(10, 3, because="x"), "the winner 3 has no row"),
        (lambda table: table["claims"].append({"bottom_line": "x", "target": "blue"}), "the target blue has no row"),
        (lambda table: table["claims"].append({"users": 10, "bottom_line": "x"}), "claims.0: give either users"),
        (lambda table: table["claims"].append({"because": "x", "says": []}), "claims.0: give either users"),
        (claim(10, 2, FASTER, because="x"), "claims.0: says: 'faster predictions' is no part of 'x'"),
        (claim(10, 2, {**FASTER, "endpoint": "buy"}), "claims: says: buy is not among the endpoints"),
        (claim(10, 2, {**FASTER, "percent": 0}), "claims.0.says.0.percent: "),
        (claim(10, 2, {**FASTER, "percent": 3, "times": 3}), "claims.0.says.0: give either percent or times"),
        (claim(10, 2, {**FASTER, "sense": "same", "times": 3}), "claims.0.says.0: give either percent or times"),
        (claim(10, 2, {**FASTER, "quantity": "speed"}), "claims.0.says.0.quantity: "),
        (
            lambda table: table["claims"].append({"users": 10, "winner": 2, "because": "4x"}),
            "no longer read: add `says`",
        ),
        (lambda table: table["claims"].append({"recommendation_at_10": "4x"}), "claims.0.recommendation_at_10: is not"),
        (lambda table: table["results"][0].update(predict=None), "results.0.predict: "),
        (lambda table: table.update(results=[]), "results: "),
        (lambda table: table.update(endpoints={"rps": {}}), "endpoints: rps is a key of every row"),
    ],
)
def test_a_table_that_cannot_be_used_is_told_by_its_key(
    tmp_path: Path, clean: dict[str, Any], change: Change, message: str
) -> None:
    table = copy.deepcopy(clean)
    change(table)
    path = tmp_path / "table.yaml"
    path.write_text(yaml.safe_dump(table), encoding="utf-8")
    assert message in refusal(str(path))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("table.yaml", "- 1\n", "must be a mapping"),
        ("table.yaml", "a: [", "is not YAML"),
        ("report.json", "{", "Invalid JSON"),
        ("report.json", '{"title": "x"}', "is it a report.json"),
        ("run_stats.csv", "", "there is no line Aggregated"),
        ("run_stats.csv", "a\n", "has no column Type"),
        ("run_stats.csv", "Type,Name\n", "has no column Request Count"),
        ("report.txt", "", "neither .json"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert message in refusal(str(path))


def test_a_bad_number_in_locusts_csv_is_told_by_line_and_column(tmp_path: Path, outcome: Outcome) -> None:
    path = tmp_path / "run_stats.csv"
    path.write_text(locust_csv(outcome).replace("GET,/predict,", "GET,/predict,x"), encoding="utf-8")
    assert "line 3, column Request Count: 'x" in refusal(str(path))
    path.write_text(locust_csv(outcome).replace("GET,/predict,", "GET,/predict,0.5"), encoding="utf-8")
    assert "is not a whole number" in refusal(str(path))
    path.write_text(locust_csv(outcome).rsplit("\n", 2)[0], encoding="utf-8")
    assert "there is no line Aggregated" in refusal(str(path))


def test_requests_of_a_locust_run_are_named_as_in_the_report(tmp_path: Path, outcome: Outcome) -> None:
    text = locust_csv(outcome).replace("GET,/lookup,", "GET,GET /lookup,")
    parts = audit_csv(tmp_path, text, RunFacts()).rows[0].endpoints.split("; ")
    figures = conclude(read_locust_csv(tmp_path / "run", users=40, wait_s=None, title="run"))
    names = [part.endpoint for part in figures.cells[0].endpoints]
    assert names == ["GET /lookup", "GET /predict"]
    assert [part.startswith(f"{name}: ") for part, name in zip(parts, names, strict=True)] == [True, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--users", "0"), "--users: 0 is no number of users"),
        (("--duration", "-1"), "--duration: -1 is not a number above 0"),
        (("--wait", "5", "1"), "--wait: 5 and 1 are not the least and the most"),
        (("--spawn-rate", "0"), "--spawn-rate: 0 is not a number above 0"),
    ],
)
def test_options_that_cannot_be_are_refused(
    tmp_path: Path, outcome: Outcome, options: tuple[str, ...], message: str
) -> None:
    path = tmp_path / "run_stats.csv"
    path.write_text(locust_csv(outcome), encoding="utf-8")
    assert message in refusal(str(path), *options)


def test_options_of_a_locust_run_are_refused_for_other_files() -> None:
    assert "--users: only for a Locust _stats.csv" in refusal(str(ROOT / PUBLISHED), "--users", "3")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    for name in ("none.yaml", "none.json", "none_stats.csv"):
        assert "cannot be read" in refusal(str(tmp_path / name))


def test_json_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    assert "choose another place with --json" in refusal(
        str(ROOT / PUBLISHED), "--json", str(tmp_path / "none" / "audit.json")
    )


@pytest.mark.parametrize("report", sorted(COMMITTED.glob("*/report.json")), ids=lambda path: path.parent.name)
def test_every_committed_report_stands_its_own_audit(report: Path) -> None:
    assert audit_file(report, RunFacts()).findings == []
