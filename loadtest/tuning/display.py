"""What a person sees at the end of a search: the table of the candidates, what was left out, and what to run."""

from collections.abc import Iterator

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from loadtest.reporting.figures import show_ms, show_percent, show_rps
from loadtest.tuning.candidates import show_knobs
from loadtest.tuning.result import CandidateResult, TuneResult

_PLAIN_WIDTH = 150
_REASON_LENGTH = 400
_STYLES = {"winner": "bold green", "invalid": "red", "not tried": "dim", "dropped": "dim"}


def show_result(result: TuneResult, console: Console | None = None) -> None:
    """Print a result, on standard output by default; wide lines where that is no terminal."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _PLAIN_WIDTH)
    console.print(_table(result))
    for line in _left_out(result):
        console.print(Text(line), soft_wrap=True)
    words = "\n".join([result.recommendation, *result.notes])
    console.print(Panel(Text(words), title="Recommendation", style="green" if result.winner else "yellow"))


def _table(result: TuneResult) -> Table:
    limits = f"; limits: {', '.join(result.limits)}" if result.limits else ""
    table = Table(title=f"{result.users} users, {result.objective}{limits}", title_justify="left")
    knobs = list(result.candidates[0].knobs)
    endpoints = list(dict.fromkeys(name for one in result.candidates for name in one.endpoint_p95_ms))
    table.add_column("candidate")
    for name in [*knobs, result.figure, "requests/s", "failures %", *(f"{name} p95 ms" for name in endpoints)]:
        table.add_column(name, justify="right")
    table.add_column("limits")
    table.add_column("rounds", justify="right")
    table.add_column("valid cells", justify="right")
    table.add_column("state")
    for one in result.candidates:
        table.add_row(*_cells(one, result.figure, endpoints), style=_STYLES.get(one.state, ""))
    return table


def _cells(one: CandidateResult, figure: str, endpoints: list[str]) -> Iterator[str]:
    yield one.name
    yield from map(str, one.knobs.values())
    yield show_ms(one.figure_value) if figure.endswith("_ms") else show_rps(one.figure_value)
    yield show_rps(one.rps)
    yield show_percent(one.failures_percent)
    yield from (show_ms(one.endpoint_p95_ms.get(name)) for name in endpoints)
    missed = [limit.limit for limit in one.limits if not limit.met]
    yield "" if one.rps is None else "met" if one.limits_met else f"missed: {', '.join(missed)}"
    yield str(one.rounds)
    yield str(one.repetitions)
    yield one.state


def _left_out(result: TuneResult) -> Iterator[str]:
    """Yield what has no figures, and why."""
    for one in result.candidates:
        if one.reasons:
            state = "INVALID" if one.state == "invalid" else "some cells INVALID"
            reasons = [" ".join(reason.split())[:_REASON_LENGTH] for reason in one.reasons]
            yield f"{state} {one.name} ({show_knobs(one.knobs)}): {'; '.join(reasons)}"
    for value in result.skipped:
        yield f"skipped {value.knob}={value.value}: {value.reason}"
    by_constraint: dict[str, list[str]] = {}
    for excluded in result.excluded:
        by_constraint.setdefault(excluded.constraint, []).append(show_knobs(excluded.knobs))
    for constraint, combinations in by_constraint.items():
        yield f"excluded by `{constraint}`: {len(combinations)} combination(s), such as {combinations[0]}"
    untried = [one for one in result.candidates if one.state == "not tried"]
    if untried:
        names = ", ".join(f"{one.name} ({show_knobs(one.knobs)})" for one in untried)
        yield f"not tried, for want of time (give more with --minutes): {names}"
