"""What a report says of its figures: sentences that claim no more than was measured."""

from loadtest.figures.figures import CellFigures, EndpointFigures, Facts, Figures, PointFigures, TargetFacts, Traffic
from loadtest.verdict.findings import conclude


def whole_run_only(rps: float) -> Figures:
    """Return the report of a Locust CSV without a history: 100 users with 3 s of think time, and no steady window."""
    traffic = Traffic(requests=1000, failures=0, failures_percent=0.0, rps=rps, median_ms=5.0, avg_ms=5.0)
    unknown = Traffic(requests=0, failures=0)
    parts = [EndpointFigures(endpoint="GET /user/", steady=unknown, whole_run=traffic)]
    point = PointFigures(
        target="locust", users=100, repetitions=1, think_time_limit_rps=33.3, whole_run=traffic, endpoints=parts
    )
    cell = CellFigures(target="locust", users=100, repetition=1, valid=True, whole_run=traffic, endpoints=parts)
    return conclude(
        Facts(
            title="a run",
            source="Locust CSV",
            test={"users": [100]},
            targets=[TargetFacts(name="locust", title="locust")],
            endpoints=["GET /user/"],
            points=[point],
            cells=[cell],
        )
    )


def test_a_whole_run_with_its_ramp_does_not_say_who_set_the_pace() -> None:
    for rps in (16.7, 33.0):
        figures = whole_run_only(rps)
        told = " ".join([*figures.takeaways, *figures.recommendations])
        assert "pace" not in told
        assert "To find the limit" not in told
