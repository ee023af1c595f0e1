"""The slope of memory: known growth in, known growth out, also across replaced processes and outliers."""

import random

import pytest

from loadtest.faults.slope import Point, Slope, means, slope_within_lives
from loadtest.faults.soak import memory_of
from loadtest.rows.columns import ProcessRow, ResourceRow


def line(per_s: float, level: float, life: int, noise: float = 0, count: int = 60) -> list[Point]:
    draw = random.Random(life)
    begin = life * 10.0 * count
    return [Point(begin + 10 * n, level + per_s * 10 * n + draw.gauss(0, noise), life) for n in range(count)]


def slope(points: list[Point]) -> Slope:
    found = slope_within_lives(points)
    assert found is not None
    return found


def test_a_straight_line_has_its_slope() -> None:
    found = slope(line(2.5, 100, 0))
    assert found.per_s == pytest.approx(2.5)
    assert found.least_squares_per_s == pytest.approx(2.5)
    assert found.least_squares_error_per_s == pytest.approx(0, abs=1e-6)


def test_a_new_process_at_another_level_is_no_growth() -> None:
    found = slope([*line(0, 900, 0), *line(0, 500, 1), *line(0, 1300, 2)])
    assert (found.per_s, found.least_squares_per_s) == (0, 0)


def test_growth_is_found_across_lives() -> None:
    found = slope([*line(1, 900, 0, noise=5), *line(1, 500, 1, noise=5)])
    assert found.low_per_s < 1 < found.high_per_s
    assert found.high_per_s - found.low_per_s < 0.1


def test_one_outlier_moves_the_median_slope_less_than_least_squares() -> None:
    points = line(0, 100, 0, noise=1)
    points[-1] = Point(points[-1].at_s, 5000, 0)
    found = slope(points)
    assert abs(found.per_s) < 0.01 < found.least_squares_per_s


def test_the_interval_is_that_of_sen() -> None:
    """Ten points: 45 slopes, variance of S 125, so ranks 11 (of 11.5) and 35 (of 34.5, and one)."""
    points = [Point(float(n), float(n * n), 0) for n in range(10)]
    slopes = sorted(float(i + j) for i in range(10) for j in range(i))
    found = slope(points)
    assert (found.low_per_s, found.high_per_s) == (slopes[10], slopes[34])


def test_noise_alone_has_zero_in_its_interval_as_often_as_it_should() -> None:
    draw = random.Random(1)
    held = 0
    for _ in range(300):
        points = [Point(10.0 * n, draw.gauss(0, 1), 0) for n in range(40)]
        found = slope(points)
        held += found.low_per_s <= 0 <= found.high_per_s
    assert 0.90 <= held / 300 <= 1


def test_too_few_points_have_no_slope() -> None:
    assert slope_within_lives([Point(0, 1, 0), Point(1, 2, 0), Point(2, 3, 1)]) is None


def test_means_are_taken_within_a_life() -> None:
    points = [Point(0, 1, 0), Point(4, 3, 0), Point(6, 10, 1), Point(12, 20, 1)]
    assert means(points, 10) == [Point(2, 2, 0), Point(6, 10, 1), Point(12, 20, 1)]


def test_memory_is_looked_at_between_replacements_and_not_while_a_process_is_young() -> None:
    def rss(second: int) -> int:
        return 10_000_000 + (1000 * second if second < 300 else 900_000_000 if second < 310 else 1000 * second)

    resources = [ResourceRow(second, "users", 2, 0, rss(second), 0) for second in range(600)]
    processes = [
        ProcessRow(0, "users", 1, "came"),
        ProcessRow(300, "users", 1, "gone"),
        ProcessRow(301, "users", 2, "came"),
    ]
    (found,) = memory_of([*resources, ResourceRow(5, "kit", 1, 0, 1, 0)], processes, 0, 600)
    assert found.role == "users"
    assert found.slope_mb_per_h == pytest.approx(3.6)
    assert found.lives == 2
