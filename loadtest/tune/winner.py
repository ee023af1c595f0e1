"""The winner's YAML, ready to deploy: the base with the winner's values, and a head that says why."""

import textwrap
from collections.abc import Iterator

from loadtest.figures.figures import NO_FIGURE, show_bytes, show_ms, show_percent, show_rps
from loadtest.tune.candidates import Candidate, render_config, show_knobs
from loadtest.tune.result import CandidateResult, TuneResult
from loadtest.tune.tune_file import Tuning

_WIDTH = 118


def render_winner(tuning: Tuning, candidate: Candidate, result: TuneResult) -> str:
    """Return the text of winner.yaml; the base's own comments are kept."""
    (figures,) = [one for one in result.candidates if one.name == candidate.name]
    head = "".join(f"# {line}\n" for text in _head(figures, result) for line in _wrapped(text))
    return head + "\n" + render_config(tuning, candidate.knobs)


def _head(figures: CandidateResult, result: TuneResult) -> Iterator[str]:
    machine = result.machine or {}
    p95 = ", ".join(f"{name} p95 {show_ms(value)} ms" for name, value in figures.endpoint_p95_ms.items())
    yield f"Chosen by `python -m loadtest tune` from {result.base} on {', '.join(result.dates)} (UTC)."
    yield f"Values: {show_knobs(figures.knobs)}"
    yield (
        f"Measured with {result.users} users, {figures.repetitions} valid repetition(s): {show_rps(figures.rps)} "
        f"requests/s, failures {show_percent(figures.failures_percent)} %, {p95}."
    )
    yield f"Objective: {result.objective}; limits: {', '.join(result.limits) or NO_FIGURE}."
    yield (
        f"Machine: {machine.get('cpu_model', 'unknown')}, {result.cores} cores, "
        f"{show_bytes(machine.get('ram_bytes'))}, {machine.get('os', 'unknown')}."
    )
    yield from [result.recommendation, *result.notes]
    yield f"What follows is {result.base} with these values; its comments are that file's own."


def _wrapped(text: str) -> Iterator[str]:
    yield from textwrap.wrap(text, _WIDTH - 2, break_long_words=False, break_on_hyphens=False)
