"""The result of a search in words and as a table. Called by the command line."""

from loadtest.capacity.bisection import Step
from loadtest.capacity.search import Capacity
from loadtest.figures.figures import NO_FIGURE, show_count, show_rps, show_value
from loadtest.page.terminal import Column, print_table

_PURPOSES = {"search": "search", "recheck": "once more", "confirm": "confirmation"}
_STYLES = {"held": "green", "failed": "red", "invalid": "yellow"}


def tell_capacity(capacity: Capacity) -> str:
    """Return the result in one sentence, with its interval. Raises ValueError before the search is over."""
    result = capacity.result
    if result is None:
        raise ValueError("the search is not over")
    objective = ", ".join(map(str, capacity.objective))
    if result.status == "none_holds":
        return f"{capacity.target}: no load holds {objective}, not even {_amount(capacity, result.smallest_failed)}"
    held = _amount(capacity, result.capacity)
    if result.capacity is None:
        told = f"{capacity.target}: not known which load holds {objective}"
    elif result.smallest_failed is None:
        told = f"{capacity.target}: {held} hold {objective}"
    else:
        failed = _amount(capacity, result.smallest_failed)
        told = f"{capacity.target}: {held} hold {objective}; {failed} do not"
    state = "confirmed by a longer run" if result.status == "confirmed" else "NOT CONFIRMED"
    return "; ".join(part for part in (told, state, result.because) if part)


def print_capacity(capacity: Capacity) -> None:
    """Print all steps as a table, and the result."""
    unit = "users" if capacity.question.by == "users" else "requests/s asked"
    columns = [Column("step"), Column(unit), Column("for", is_number=False), Column("s"), Column("requests")]
    columns += [Column("RPS"), *(Column(str(limit)) for limit in capacity.objective)]
    columns += [Column("outcome", is_number=False), Column("because", is_number=False)]
    rows = [_row(capacity, number, step) for number, step in enumerate(capacity.steps, 1)]
    print_table(capacity.title, columns, rows, [_STYLES[step.outcome] for step in capacity.steps])
    print(tell_capacity(capacity))
    print("each step is a run folder in steps/, named by its number; all figures:")


def _row(capacity: Capacity, number: int, step: Step) -> list[str]:
    values = {limit.limit: limit.value for limit in step.limits}
    shown = [show_value(limit.metric, values.get(limit)) for limit in capacity.objective]
    level, purpose = f"{step.level:g}", _PURPOSES[step.purpose]
    outcome = step.outcome.upper() if step.outcome == "invalid" else step.outcome
    unsure = " (unsure)" if step.unsure else ""
    window = f"{step.window_s:.1f}" if step.window_s else NO_FIGURE
    return [str(number), level, purpose, window, show_count(step.requests), show_rps(step.rps), *shown,
            outcome + unsure, step.because]  # fmt: skip


def _amount(capacity: Capacity, level: float | None) -> str:
    if level is None:
        return NO_FIGURE
    return f"{level:g} users" if capacity.question.by == "users" else f"{level:g} requests/s"
