"""Shows a fuzzing campaign in the terminal: how far it is, and its table at the end."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from loadtest.fuzz.campaign import ANSWER_TIMEOUT_S, Campaign
from loadtest.fuzz.memory import MemoryFigures
from loadtest.fuzz.tally import MIB, REMEDY, SERVER_ERROR, Outcome, Tally
from loadtest.measure.progress import show_clock
from loadtest.page.terminal import columns_of, open_console, print_table

_PLAIN_EVERY_S = 10.0
_MOST_PATHS = 10
_MEANINGS = {
    "": "answered",
    "reset": "the connection broke",
    "timeout": "no answer",
    "undecodable": "the answer is not what its content-encoding says",
}


@contextmanager
def shown_campaign(campaign: Campaign) -> Iterator[Callable[[Tally], None]]:
    """Say on standard error how long a campaign takes at most, and yield what shows how far it is.

    One line that changes on a terminal, a line every 10 s anywhere else.
    """
    console = Console(stderr=True, highlight=False)
    console.print(describe_bound(campaign), soft_wrap=True)
    began_s = told_s = time.monotonic()

    def tell(tally: Tally) -> None:
        nonlocal told_s
        now_s = time.monotonic()
        line = describe_progress(campaign, tally, now_s - began_s)
        if console.is_terminal:
            status.update(line)
        elif now_s - told_s >= _PLAIN_EVERY_S:
            told_s = now_s
            console.print(line, soft_wrap=True)

    status = console.status("begins")
    if not console.is_terminal:
        yield tell
        return
    with status:
        yield tell


def describe_bound(campaign: Campaign) -> str:
    """Return how long a campaign takes at most, and why."""
    timeout = f"each answered within {ANSWER_TIMEOUT_S:g} s or counted as a timeout"
    return (
        f"{campaign.inputs:,} inputs, {campaign.at_a_time} at a time, {timeout}: "
        f"at most {show_clock(campaign.longest_s)}; --seconds and --inputs shorten it"
    )


def describe_progress(campaign: Campaign, tally: Tally, spent_s: float) -> str:
    """Return how far a campaign is after `spent_s`, and about how long it takes from here on."""
    left_s = campaign.longest_s - spent_s
    if tally.inputs:
        at_this_pace_s = spent_s * (campaign.inputs - tally.inputs) / tally.inputs
        left_s = min(at_this_pace_s, campaign.most_s - spent_s)
    return (
        f"{tally.inputs:,} of {campaign.inputs:,} inputs, {'about' if tally.inputs else 'at most'} "
        f"{show_clock(left_s)} left, {tally.server_errors} × 5xx, {tally.faults.total()} broken"
    )


def print_outcome(outcome: Outcome) -> None:
    """Print the answers, the memory, where the offending inputs are, and the verdict last."""
    console = open_console()
    _print_answers(outcome)
    if outcome.memory is not None:
        _print_memory(outcome.memory)
    tally = outcome.tally
    _print_inputs(console, [f"saved: {path}" for path in tally.saved])
    _print_inputs(console, [f"NOT SAVED: {path}: {reason}; {REMEDY}" for path, reason in tally.unsaved.items()])
    took = f"{outcome.took_s:.0f} s, seed {outcome.seed}"
    style = "bold green" if outcome.has_held else "bold red"
    console.print(Text(f"{outcome.verdict()} ({took})", style=style), soft_wrap=True)


def _print_inputs(console: Console, lines: list[str]) -> None:
    for line in lines[:_MOST_PATHS]:
        console.print(Text(line, style="yellow"), soft_wrap=True)
    if len(lines) > _MOST_PATHS:
        console.print(Text(f"… and {len(lines) - _MOST_PATHS} more there", style="yellow"))


def _print_answers(outcome: Outcome) -> None:
    counts = [(str(status), code, count) for (status, code), count in sorted(outcome.tally.answers.items())]
    counts += [("none", fault, count) for fault, count in sorted(outcome.tally.faults.items())]
    rows = [
        (status, _MEANINGS.get(code, code), f"{count:,}", f"{100 * count / outcome.tally.inputs:.1f} %")
        for status, code, count in counts
    ]
    styles = ["red" if status == "none" or int(status) >= SERVER_ERROR else "" for status, _, _ in counts]
    title = f"{outcome.tally.inputs:,} inputs to {outcome.url}"
    print_table(title, columns_of(("status", "code", "inputs", "share"), words=2), rows, styles)


def _print_memory(memory: MemoryFigures) -> None:
    readings = {
        "start": memory.start_bytes,
        "second tenth": memory.tenth_bytes,
        "middle": memory.middle_bytes,
        "last tenth": memory.end_bytes,
        "largest reading": memory.largest_bytes,
    }
    row = [*(f"{rss_bytes / MIB:,.0f} MiB" for rss_bytes in readings.values()), f"{memory.growth_percent:+.1f} %"]
    print_table(f"Resident memory of {memory.processes} process(es)", columns_of((*readings, "growth")), [row])
