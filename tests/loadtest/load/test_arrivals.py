"""Arrival times are those of the process they are said to be of."""

import subprocess
import sys

import numpy as np
import pytest

from loadtest.load.arrivals import draw_arrival_times_s, share_of
from loadtest.plan.workload import Arrivals


def test_constant_arrivals_are_evenly_spaced_from_the_beginning_to_the_end() -> None:
    times_s = draw_arrival_times_s(20, 3, "constant", seed=1)
    assert len(times_s) == 60
    assert times_s[0] == 0
    assert np.diff(times_s) == pytest.approx(0.05)


def test_a_rate_below_one_arrival_in_the_whole_time_has_one_at_its_beginning() -> None:
    assert draw_arrival_times_s(0.1, 3, "constant", seed=1).tolist() == [0]


def test_poisson_arrivals_have_the_rate() -> None:
    count = len(draw_arrival_times_s(100, 1000, "poisson", seed=1))
    assert abs(count - 100_000) < 4 * np.sqrt(100_000)


def test_gaps_of_poisson_arrivals_are_exponential() -> None:
    gaps_s = np.sort(np.diff(draw_arrival_times_s(100, 1000, "poisson", seed=1)))
    shares = np.arange(1, len(gaps_s) + 1) / len(gaps_s)
    # Kolmogorov and Smirnov's distance; beyond 1.63 ÷ √n in 1 of 100 samples.
    assert np.abs(1 - np.exp(-100 * gaps_s) - shares).max() < 1.63 / np.sqrt(len(gaps_s))


def test_numbers_of_poisson_arrivals_per_second_vary_as_much_as_their_mean() -> None:
    times_s = draw_arrival_times_s(100, 1000, "poisson", seed=1)
    counts = np.bincount(times_s.astype(int), minlength=1000)
    assert counts.var() / counts.mean() == pytest.approx(1, abs=4 * np.sqrt(2 / 1000))


@pytest.mark.parametrize("arrivals", ["poisson", "constant"])
def test_arrivals_are_in_order_and_within_the_time(arrivals: Arrivals) -> None:
    times_s = draw_arrival_times_s(33.3, 7.5, arrivals, seed=3)
    assert (np.diff(times_s) > 0).all()
    assert times_s.min() >= 0
    assert times_s.max() < 7.5


def test_the_seed_decides_and_nothing_else() -> None:
    first, again, other = (draw_arrival_times_s(50, 20, "poisson", seed).tolist() for seed in (7, 7, 8))
    assert first == again != other


@pytest.mark.parametrize("arrivals", ["poisson", "constant"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_several_generators_send_together_exactly_what_one_would(arrivals: Arrivals, count: int) -> None:
    times_s = draw_arrival_times_s(33.3, 30, arrivals, seed=3)
    shares = [share_of(times_s, number, count) for number in range(1, count + 1)]
    assert np.sort(np.concatenate(shares)).tolist() == times_s.tolist()
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_constant_arrivals_of_several_generators_are_evenly_spaced_and_take_turns() -> None:
    times_s = draw_arrival_times_s(20, 3, "constant", seed=1)
    first, second = (share_of(times_s, number, 2) for number in (1, 2))
    assert np.diff(first) == pytest.approx(0.1)
    assert second - first == pytest.approx(0.05)


def test_more_generators_than_arrivals_leave_some_with_none() -> None:
    times_s = draw_arrival_times_s(0.1, 3, "constant", seed=1)
    assert [len(share_of(times_s, number, 3)) for number in (1, 2, 3)] == [1, 0, 0]


def test_what_was_sent_before_the_end_was_known_leaves_no_other_arrival_unsent() -> None:
    """In a process of its own: Locust patches the standard library of the one that imports it."""
    script = """
from loadtest.load.recorder import OpenLoop
loop = OpenLoop([0.0, 0.0, 5.0])
loop.begin(0.0)
for _ in range(2):
    loop._await_next()
loop._sent += 1  # the third, whose time had come
loop.end(loop._began_unix_s + 4.0)
print(loop.count())
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert "due=2" in ended.stdout
    assert "unsent=0" in ended.stdout


def test_users_whose_class_has_another_one_s_on_start_send_every_arrival() -> None:
    """In a process of its own: Locust patches the standard library of the one that imports it."""
    script = """
from loadtest.load.recorder import OpenLoop
from locust import User, task
from locust.env import Environment
done = []

class First(User):
    @task
    def ask(self):
        done.append(type(self).__name__)

class Inherits(First):
    pass

class Calls(Inherits):
    def on_start(self):
        super().on_start()

loop, classes = OpenLoop([0.0] * 9), [First, Inherits, Calls]
for user_class in classes:
    loop.employ(user_class)
Environment(user_classes=classes).create_local_runner().start(3, 3, wait=True)
loop.begin(0.0)
loop.send_the_rest(60.0)
print(len(done), sorted(set(done)))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert ended.stdout == "9 ['Calls', 'First', 'Inherits']\n"
