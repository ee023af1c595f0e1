"""What the kit's verdicts are worth: 200 simulated pairs of targets, equal ones and ones that differ by 15 %.

    python -m tests.benchmarks.verdicts [--pairs 200] [--draws 500]

Each pair is measured by so many repetitions of 115 s steady window (what configs/stress/published.yaml leaves of
150 s), with so many users; in the second half every latency of one target is 15 % longer. Printed: how many of the
equal pairs are called a tie, and how many of the others are found, by level and by figure.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence

from loadtest.figures.figures import LevelComparison, TargetFacts
from loadtest.verdict.comparison import compare_levels
from tests.queueing import Series, Service, simulate

WINDOW_S = 115.0
SLOWER = 1.15
ENDPOINTS = ("predict", "lookup")
TARGETS = [TargetFacts(name=name, title=name.upper(), replicas=None, about={}) for name in ("a", "b")]
USERS = (10, 50, 100)
REPETITIONS = (1, 2, 3, 5)


def compare_pairs(
    series: Series, users: int, repetitions: int, *, slower: float = 1.0, draws: int = 500
) -> Iterator[LevelComparison]:
    """Yield the comparison of each pair in `series`, whose rows are its repetitions; b is `slower` times as slow."""
    for first in range(0, len(series.sent_s) - 2 * repetitions + 1, 2 * repetitions):
        rows = range(first, first + repetitions)
        measured = {
            ("a", users): [series.repetition(row) for row in rows],
            ("b", users): [series.repetition(row + repetitions, slower) for row in rows],
        }
        yield from compare_levels([users], TARGETS, ENDPOINTS, measured, draws)


def count_verdicts(levels: Sequence[LevelComparison]) -> dict[str, Counter[str]]:
    """Return by figure, `level` being the verdict of all, how often each was said; a winner by name."""
    counts: dict[str, Counter[str]] = {"level": Counter(level.winner or level.verdict for level in levels)}
    for level in levels:
        for difference in level.differences:
            counts.setdefault(difference.metric, Counter())[difference.winner or difference.verdict] += 1
    return counts


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--draws", type=int, default=500)
    options = parser.parse_args()
    print(f"{options.pairs} pairs each; percent of them")
    print(f"{'users':>5} {'repetitions':>11} {'figure':<18}{'equal: tie':>11}{'no data':>9}{'wrong':>7}", end="")
    print(f"{'15 %: found':>14}{'tie':>6}{'no data':>9}{'wrong':>7}")
    for users in USERS:
        for repetitions in REPETITIONS:
            series = simulate(Service(), users, WINDOW_S, 2 * repetitions * options.pairs, seed=1)
            equal, other = (
                count_verdicts([*compare_pairs(series, users, repetitions, slower=slower, draws=options.draws)])
                for slower in (1.0, SLOWER)
            )
            for figure in equal:
                said = [equal[figure]["tie"], equal[figure]["not enough data"], equal[figure]["a"] + equal[figure]["b"]]
                said += [other[figure][verdict] for verdict in ("a", "tie", "not enough data", "b")]
                shown = [f"{100 * count / options.pairs:.1f}" for count in said]
                print(f"{users:>5} {repetitions:>11} {figure:<18}{shown[0]:>11}{shown[1]:>9}{shown[2]:>7}", end="")
                print(f"{shown[3]:>14}{shown[4]:>6}{shown[5]:>9}{shown[6]:>7}", flush=True)


if __name__ == "__main__":
    _main()
