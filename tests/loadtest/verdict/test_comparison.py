"""Winner, tie, or not enough data: what is said of targets whose difference is known, and how often it is right."""

import re
from collections.abc import Sequence

import numpy as np
import pytest

from loadtest.figures.figures import Difference, LevelComparison, TargetFacts
from loadtest.figures.traffic import Requests, Window
from loadtest.statistics.block_bootstrap import Resampled, Run, choose_block_s
from loadtest.statistics.intervals import failures_difference_interval, failures_interval
from loadtest.statistics.percentiles import LEAST_SAMPLES
from loadtest.verdict.comparison import compare_levels, name_verdict
from loadtest.verdict.differences import Repetition, Side
from tests.benchmarks.verdicts import compare_pairs, count_verdicts
from tests.queueing import Service, simulate

LENGTH_S = 60.0
USERS = 50
REPETITIONS = 5
WINDOW_S = 115.0
"""What configs/stress/published.yaml leaves of its 150 s for about 50 users."""


def facts(*names: str) -> list[TargetFacts]:
    return [TargetFacts(name=name, title=name.upper(), replicas=None, about={}) for name in names]


def measured(  # noqa: PLR0913
    seed: int, count: int = 3, *, median_ms: float = 100, tail: float = 1.0, rps: float = 20, failing: float = 0
) -> list[Repetition]:
    """Return repetitions of 60 s with independent latencies; the slowest tenth is `tail` times as slow."""
    found = []
    for rng in np.random.default_rng(seed).spawn(count):
        requests = int(rps * LENGTH_S)
        latency_ms = median_ms * rng.lognormal(0, 0.2, requests)
        latency_ms[latency_ms > np.quantile(latency_ms, 0.9)] *= tail
        found.append(
            Repetition(
                Window(0, LENGTH_S),
                Requests(
                    sent_unix_s=np.sort(rng.uniform(0, LENGTH_S, requests)),
                    endpoint=np.full(requests, "predict", np.object_),
                    latency_ms=latency_ms,
                    failed=rng.random(requests) < failing,
                    stages_ms=np.empty(requests, np.object_),
                    scheduled_unix_s=np.full(requests, np.nan),
                ),
            )
        )
    return found


def compared(**repetitions: Sequence[Repetition]) -> LevelComparison:
    by_level = {(name, 10): found for name, found in repetitions.items()}
    (level,) = compare_levels([10], facts(*repetitions), ["predict"], by_level)
    return level


def difference_in(level: LevelComparison, metric: str) -> Difference:
    (difference,) = [difference for difference in level.differences if difference.metric == metric]
    return difference


# The claim


@pytest.fixture(scope="module", params=[60, pytest.param(200, marks=pytest.mark.long)], ids="{} pairs".format)
def claimed(request: pytest.FixtureRequest) -> dict[float, list[LevelComparison]]:
    """The verdicts on many pairs of queues, by how much longer the latencies of the second are."""
    series = simulate(Service(), USERS, WINDOW_S, 2 * REPETITIONS * request.param, seed=4)
    return {slower: [*compare_pairs(series, USERS, REPETITIONS, slower=slower, draws=200)] for slower in (1.0, 1.15)}


def test_equal_targets_are_a_tie_in_95_percent_of_the_pairs(claimed: dict[float, list[LevelComparison]]) -> None:
    counts, pairs = count_verdicts(claimed[1.0]), len(claimed[1.0])
    assert counts["level"].total() == pairs >= 60
    assert counts["level"]["tie"] >= 0.95 * pairs, counts
    assert all(counts[metric]["a"] + counts[metric]["b"] <= 0.03 * pairs for metric in counts if metric != "level")


def test_a_difference_of_15_percent_is_found_in_90_percent_of_the_pairs(
    claimed: dict[float, list[LevelComparison]],
) -> None:
    """With five repetitions of 115 s at 50 users, some 9,300 requests of each target."""
    counts, pairs = count_verdicts(claimed[1.15]), len(claimed[1.15])
    assert counts["level"]["a"] >= 0.9 * pairs, counts
    assert counts["level"]["b"] == 0
    samples = [difference_in(level, "rps").samples["a"] for level in claimed[1.15]]
    assert 9000 < np.median(samples) < 9600


def test_the_interval_holds_the_true_difference(claimed: dict[float, list[LevelComparison]]) -> None:
    for slower, levels in claimed.items():
        for metric in ("predict.median_ms", "predict.p95_ms", "lookup.median_ms", "lookup.p95_ms"):
            intervals = [difference_in(level, metric).interval_percent for level in levels]
            held = [low <= 100 * (slower - 1) <= high for low, high in filter(None, intervals)]
            assert len(held) == len(levels)
            assert np.mean(held) >= 0.95, metric


# Verdicts


def test_a_large_difference_has_a_winner_with_its_interval_and_samples() -> None:
    level = compared(a=measured(1), b=measured(2, median_ms=130))
    assert (level.verdict, level.winner) == ("winner", "a")
    assert level.because.startswith("better in 3 of 4 figures, most clearly predict ")
    assert "(B), by at least 2" in level.because
    median = difference_in(level, "predict.median_ms")
    assert (median.verdict, median.winner, median.samples) == ("winner", "a", {"a": 3600, "b": 3600})
    assert median.difference_percent == pytest.approx(30, abs=2)
    assert median.interval_percent is not None
    low, high = median.interval_percent
    assert 24 < low < 30 < high < 36


def test_the_difference_is_of_the_second_target_from_the_first() -> None:
    median = difference_in(compared(a=measured(1, median_ms=130), b=measured(2)), "predict.median_ms")
    assert median.winner == "b"
    assert median.difference_percent == pytest.approx(-23, abs=2)


def test_equal_targets_are_a_tie() -> None:
    level = compared(a=measured(1), b=measured(2))
    assert (level.verdict, level.winner) == ("tie", None)
    assert level.because == "no difference is shown in 5 of 5 figures"
    assert {difference.verdict for difference in level.differences} == {"tie"}


def test_a_difference_that_matters_to_nobody_is_a_tie() -> None:
    level = compared(a=measured(1, rps=400), b=measured(2, rps=400, median_ms=101))
    median = difference_in(level, "predict.median_ms")
    assert (median.verdict, level.verdict) == ("tie", "tie")
    assert median.interval_percent is not None
    assert 0 < median.interval_percent[0] < median.interval_percent[1] < 2


def test_fewer_failures_win_whatever_the_latency() -> None:
    level = compared(a=measured(1, median_ms=500), b=measured(2, failing=0.05))
    assert level.winner == "a"
    assert level.because.startswith("fewer failures: 0 % against ")
    assert level.because.endswith("points")
    failures = difference_in(level, "failures_percent")
    assert failures.difference_percent == pytest.approx(5, abs=1)


def test_a_burst_of_failures_in_one_repetition_of_three_decides_nothing() -> None:
    burst = [*measured(2, count=2), *measured(3, count=1, failing=0.03)]
    failures = difference_in(compared(a=measured(1), b=burst), "failures_percent")
    assert failures.winner is None
    spread = difference_in(compared(a=measured(1), b=measured(4, failing=0.01)), "failures_percent")
    assert (spread.verdict, spread.winner) == ("winner", "a")


def test_more_throughput_is_better() -> None:
    level = compared(a=measured(1, rps=30), b=measured(2))
    assert level.winner == "a"
    told = "better in 1 of 4 figures, most clearly throughput with 30.0 requests/s against 20.0 requests/s (B), by at "
    assert level.because.startswith(told)


def test_as_many_figures_won_on_either_side_are_no_tie() -> None:
    level = compared(a=measured(1, rps=30, tail=2), b=measured(2, rps=20))
    counts = [difference.winner for difference in level.differences]
    assert (counts.count("a"), counts.count("b")) == (1, 2)
    even = compared(a=measured(1, rps=30, tail=1.6), b=measured(2, rps=2.5))
    assert difference_in(even, "predict.p99_ms").because == "too few samples"
    assert (name_verdict(even), even.winner) == ("divided", None)
    assert even.verdict != "tie"
    assert even.because == "A is better in throughput, B in predict p95"


def test_a_percentile_without_enough_samples_has_no_verdict() -> None:
    few = measured(1, rps=0.5)
    level = compared(a=few, b=measured(2))
    p99 = difference_in(level, "predict.p99_ms")
    assert (p99.verdict, p99.because, [*p99.values]) == ("not enough data", "too few samples", ["b"])
    assert (p99.difference_percent, p99.interval_percent) == (None, None)
    assert p99.samples == {"a": 90, "b": 3600}


def test_an_interval_that_leaves_a_large_difference_possible_is_not_enough_data() -> None:
    level = compared(a=measured(1, rps=0.3), b=measured(2, rps=0.3))
    assert (level.verdict, level.winner) == ("not enough data", None)
    assert re.fullmatch("[345] of 5 figures have not enough data", level.because)
    assert difference_in(level, "failures_percent").because == "the interval leaves a large difference possible"


def test_with_one_repetition_only_a_large_difference_has_a_winner() -> None:
    level = compared(a=measured(1, count=1), b=measured(2, count=1, median_ms=115))
    median = difference_in(level, "predict.median_ms")
    assert (median.verdict, median.because) == ("not enough data", "so small a difference takes 3 repetitions")
    assert level.winner is None
    assert compared(a=measured(1, count=1), b=measured(2, count=1, median_ms=150)).winner == "a"
    assert compared(a=measured(1, count=1), b=measured(2, count=1)).verdict == "not enough data"


def test_a_difference_that_is_there_and_may_matter_is_no_tie() -> None:
    level = compared(a=measured(1, rps=400), b=measured(2, rps=400, median_ms=102))
    median = difference_in(level, "predict.median_ms")
    assert (median.verdict, median.because) == (
        "not enough data",
        "there is a difference, perhaps too small to matter",
    )


def test_runs_that_differ_among_themselves_make_no_winner() -> None:
    """Each run alone looks like a winner or loser; together they show how much chance does."""
    a = [one for number, scale in enumerate((80, 100, 125)) for one in measured(number, 1, median_ms=scale)]
    b = [one for number, scale in enumerate((95, 118, 150)) for one in measured(9 + number, 1, median_ms=scale)]
    assert compared(a=a, b=b).winner is None


def test_a_target_without_valid_data_cannot_be_compared() -> None:
    levels = [compared(a=measured(1), b=[]), compared(a=[], b=[])]
    assert [level.because for level in levels] == [
        "only A has valid data",
        "no target has valid data",
    ]
    assert [(level.verdict, level.winner, level.differences) for level in levels] == [("not enough data", None, [])] * 2


def test_of_three_targets_the_one_that_beats_both_others_wins() -> None:
    level = compared(a=measured(1), b=measured(2, median_ms=140), c=measured(3, median_ms=10, failing=0.3))
    assert level.winner == "a"
    assert "beside B" in level.because
    assert "fewer failures" in level.because
    assert len(level.differences) == 3 * 5


def test_of_three_targets_a_tie_is_that_of_all_pairs() -> None:
    equal = compared(a=measured(1), b=measured(2), c=measured(3))
    assert (equal.winner, name_verdict(equal)) == (None, "tie")
    one_worse = compared(a=measured(1), b=measured(2), c=measured(3, median_ms=140))
    assert (one_worse.winner, name_verdict(one_worse)) == (None, "divided")
    assert one_worse.verdict != "tie"
    assert one_worse.because.startswith("none is better than every other: A and B: tie, ")
    one_unknown = compared(a=measured(1), b=measured(2), c=measured(3, count=1))
    assert (one_unknown.winner, name_verdict(one_unknown)) == (None, "not enough data")
    assert one_unknown.because.startswith("none is better than every other: A and B: tie, ")


def test_a_target_without_data_is_named_beside_the_verdict_on_the_others() -> None:
    assert compared(a=measured(1), b=measured(2), c=[]).because.endswith("(no valid data of C)")


def test_a_single_target_is_not_compared() -> None:
    assert compare_levels([10], facts("a"), ["predict"], {("a", 10): measured(1)}) == []


def test_no_right_answer_leaves_latencies_out_of_the_comparison() -> None:
    level = compared(a=measured(1, failing=1), b=measured(2))
    assert level.winner == "b"
    median = difference_in(level, "predict.median_ms")
    assert (median.verdict, list(median.values)) == ("not enough data", ["b"])


def test_the_same_data_give_the_same_verdicts() -> None:
    assert compared(a=measured(1), b=measured(2)) == compared(a=measured(1), b=measured(2))


# The bootstrap


def test_of_independent_samples_the_spread_is_that_of_the_textbook() -> None:
    runs = [Side("one", [run], [1]) for run in measured(1, count=30, rps=50)]
    variances = [data.drawn.variance(np.log(data.percentile_ms("predict", 0.5)[1]))[0] for data in runs]
    textbook = 0.2**2 * np.pi / 2 / 3000  # of the median of a normal distribution, here of the logarithms
    assert np.mean(variances) == pytest.approx(textbook, rel=0.25)


def test_of_a_queue_the_spread_is_that_between_runs_and_not_that_of_independent_samples() -> None:
    steady = Service(service_ms=80, repetition_spread=0, wander_spread=0)
    series = simulate(steady, 100, WINDOW_S, 80, seed=2)
    runs = [series.repetition(row) for row in range(80)]
    found = [Side("one", [run], [1], draws=200) for run in runs]
    medians = [data.percentile_ms("predict", 0.5) for data in found]
    true = np.std([np.log(median) for median, _ in medians])
    estimated = np.mean([np.log(drawn[0]).std() for _, drawn in medians])
    assert 0.6 < estimated / true < 1.3
    predicts = runs[0].requests.of("predict").latency_ms
    rng = np.random.default_rng(1)
    independent = [np.median(rng.choice(predicts, predicts.size)) for _ in range(200)]
    assert np.log(independent).std() < 0.6 * true


@pytest.mark.parametrize(("memory", "block_s"), [(0.0, 10), (0.5, 14), (0.8, 27)])
def test_blocks_are_as_long_as_the_series_remembers(memory: float, block_s: int) -> None:
    """Of 1,000 values of an AR(1) series: (3/2 · (2 φ ÷ (1 − φ²))²  · 1000)^(1/3), or the least, 10."""
    lengths = []
    for rng in np.random.default_rng(5).spawn(40):
        values = rng.normal(size=1100)
        for at in range(1, len(values)):
            values[at] += memory * values[at - 1]
        lengths.append(choose_block_s(values[100:]))
    assert np.median(lengths) == pytest.approx(block_s, rel=0.25)


def test_a_series_without_change_or_with_few_seconds_has_a_block() -> None:
    assert choose_block_s(np.ones(100)) == 5
    assert [choose_block_s(np.arange(float(length))) for length in (1, 2, 3, 4)] == [1, 1, 1, 1]


# Intervals of failures


def test_failures_beside_a_stall_are_worth_fewer_events() -> None:
    """Nothing is sent in the last 50 s, so that some draws of blocks have no event; what failed came together."""
    at_s = np.repeat(np.arange(10.0), 20)
    drawn = Resampled([Run(60.0, at_s, np.ones(at_s.size))], seed=[1])
    share, draws = drawn.share(at_s >= 5)
    by_time, _ = drawn.variance(draws)
    assert share == 0.5
    assert by_time > share * (1 - share) / drawn.events
    assert (draws == share).any()


def test_the_interval_of_a_share_is_wilsons() -> None:
    """Values of Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3."""
    known = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0, 0.1611), (1, 29): (0.0061, 0.1718)}
    for (failures, requests), interval in known.items():
        assert failures_interval(failures, requests) == pytest.approx(interval, abs=1e-4)
    assert failures_interval(7, 7)[1] == 1


def test_the_interval_of_a_difference_is_newcombes() -> None:
    """Values of Newcombe 1998, "Interval estimation for the difference", table II, method 10."""
    known = {
        ((56, 70), (48, 80)): (0.0524, 0.3339),
        ((9, 10), (3, 10)): (0.1705, 0.8090),
        ((5, 56), (0, 29)): (-0.0381, 0.1926),
        ((0, 10), (0, 10)): (-0.2775, 0.2775),
    }
    for (second, first), interval in known.items():
        assert failures_difference_interval(first, second) == pytest.approx(interval, abs=1e-4)


@pytest.mark.parametrize(("failures", "requests"), [(0, 0), (-1, 3), (4, 3)])
def test_counts_that_are_no_share_are_refused(failures: int, requests: int) -> None:
    with pytest.raises(ValueError, match="are no share"):
        failures_interval(failures, requests)


def test_a_percentile_takes_so_many_samples_that_the_largest_bounds_it() -> None:
    assert LEAST_SAMPLES == {0.5: 5, 0.95: 59, 0.99: 299}
    for share, least in LEAST_SAMPLES.items():
        assert 1 - share**least >= 0.95 > 1 - share ** (least - 1)
