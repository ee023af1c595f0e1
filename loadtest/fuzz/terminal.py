"""Shows a fuzzing campaign in the terminal: how far it is, and its table at the end."""

import time
from typing import Self

from rich.console import Console
from rich.text import Text

from loadtest.fuzz.memory import MemoryFigures
from loadtest.fuzz.tally import MIB, Outcome, Tally
from loadtest.page.terminal import columns_of, open_console, print_table

_PLAIN_EVERY_S = 10.0
_MEANINGS = {
    "": "answered",
    "reset": "the connection broke",
    "timeout": "no answer",
}
_BAD_STATUS = 500


class FuzzDisplay:
    """Tells how far a campaign is: one line that changes on a terminal, a line every 10 s anywhere else."""

    def __init__(self, inputs: int) -> None:
        """Show on standard error that there will be `inputs` in all."""
        self._console = Console(stderr=True, highlight=False)
        self._inputs = inputs
        self._told_s = time.monotonic()
        self._status = self._console.status("begins") if self._console.is_terminal else None

    def __enter__(self) -> Self:
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def tell(self, tally: Tally) -> None:
        """Show the state of `tally`."""
        line = (
            f"{tally.inputs:,} of {self._inputs:,} inputs, {tally.server_errors} × 5xx, {tally.faults.total()} broken"
        )
        if self._status:
            self._status.update(line)
        elif time.monotonic() - self._told_s >= _PLAIN_EVERY_S:
            self._told_s = time.monotonic()
            self._console.print(line, soft_wrap=True)


def print_outcome(outcome: Outcome) -> None:
    """Print the answers, the memory, where the offending inputs are, and the verdict last."""
    console = open_console()
    _print_answers(outcome)
    if outcome.memory is not None:
        _print_memory(outcome.memory)
    for path in outcome.tally.saved[:10]:
        console.print(Text(f"saved: {path}", style="yellow"), soft_wrap=True)
    if len(outcome.tally.saved) > 10:  # noqa: PLR2004 the ten above
        console.print(Text(f"… and {len(outcome.tally.saved) - 10} more there", style="yellow"))
    took = f"{outcome.took_s:.0f} s, seed {outcome.seed}"
    style = "bold green" if outcome.has_held else "bold red"
    console.print(Text(f"{outcome.verdict()} ({took})", style=style), soft_wrap=True)


def _print_answers(outcome: Outcome) -> None:
    counts = [(str(status), code, count) for (status, code), count in sorted(outcome.tally.answers.items())]
    counts += [("none", fault, count) for fault, count in sorted(outcome.tally.faults.items())]
    rows = [
        (status, _MEANINGS.get(code, code), f"{count:,}", f"{100 * count / outcome.tally.inputs:.1f} %")
        for status, code, count in counts
    ]
    styles = ["red" if status == "none" or int(status) >= _BAD_STATUS else "" for status, _, _ in counts]
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
