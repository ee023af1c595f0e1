"""What a person sees at the end of a search: the table of the candidates, what was left out, and what to run."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.text import Text

from loadtest.figures.figures import show_ms, show_percent, show_rps
from loadtest.page.terminal import Column, columns_of, make_table, open_console
from loadtest.tune.candidates import show_knobs
from loadtest.tune.recommendation import show_missed
from loadtest.tune.result import CandidateResult, TuneResult

_PLAIN_WIDTH = 170
_PANEL_WIDTH = 120
_REASON_LENGTH = 400
_STYLES = {"winner": "bold green", "invalid": "red", "not tried": "dim", "dropped": "dim"}


def show_result(result: TuneResult, console: Console | None = None) -> None:
    """Print a result, on standard output by default; wide lines where that is no terminal."""
    console = console or open_console(_PLAIN_WIDTH)
    console.print(_table(result))
    for line in _left_out(result):
        console.print(Text(line), soft_wrap=True)
    words = "\n".join([result.recommendation, *result.notes])
    style = "green" if result.winner else "yellow"
    width = min(console.width, _PANEL_WIDTH)
    console.print(Panel(Text(words), title="Recommendation", border_style=style, width=width))


def _table(result: TuneResult) -> RenderableType:
    knobs = {name: {one.knobs[name] for one in result.candidates} for name in result.candidates[0].knobs}
    varied = [name for name, values in knobs.items() if len(values) > 1]
    endpoints = list(dict.fromkeys(name for one in result.candidates for name in one.endpoint_p95_ms))
    is_shown = result.figure in ("rps", *(f"{name}.p95_ms" for name in endpoints))
    figure = None if is_shown else result.figure
    measures = [*([figure] if figure else []), "rps", "failures %", *(f"{name} p95 ms" for name in endpoints)]
    columns = columns_of(("name", *varied, *measures), words=1)
    columns += [Column(name, is_number=False) for name in ("limits", "rounds", "cells", "state")]
    rows = [_cells(one, varied, figure, endpoints) for one in result.candidates]
    styles = [_STYLES.get(one.state, "") for one in result.candidates]
    return make_table(columns, rows, styles, _title(result, varied), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _title(result: TuneResult, varied: list[str]) -> str:
    same = {name: value for name, value in result.candidates[0].knobs.items() if name not in varied}
    limits = f"; limits: {', '.join(result.limits)}" if result.limits else ""
    return f"{result.users} users, {result.objective}{limits}" + (f"; all with {show_knobs(same)}" if same else "")


def _cells(one: CandidateResult, varied: list[str], figure: str | None, endpoints: list[str]) -> Iterator[str]:
    yield one.name
    yield from (str(one.knobs[name]) for name in varied)
    if figure:
        yield show_ms(one.figure_value)
    yield show_rps(one.rps)
    yield show_percent(one.failures_percent)
    yield from (show_ms(one.endpoint_p95_ms.get(name)) for name in endpoints)
    yield "" if one.rps is None else "met" if one.limits_met else "missed"
    yield str(one.rounds)
    yield str(one.repetitions)
    yield one.state


def _left_out(result: TuneResult) -> Iterator[str]:
    """Yield what missed a limit or has no figures, and why."""
    for one in result.candidates:
        if one.rps is not None and not one.limits_met:
            yield f"MISSED {one.name} ({show_knobs(one.knobs)}): {', '.join(show_missed(one.limits))}"
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
        yield f"not tried for lack of time (to try more, give more --minutes and another --out): {names}"
