"""Shows a fuzzing campaign in the terminal: how far it is, and its table at the end."""

import time
from typing import Self

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadtest.fuzzing.memory import MemoryFigures
from loadtest.fuzzing.tally import MIB, Outcome, Tally

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
    console = Console(highlight=False)
    console.print(_answers(outcome))
    if outcome.memory is not None:
        console.print(_memory(outcome.memory))
    for path in outcome.tally.saved[:10]:
        console.print(Text(f"saved: {path}", style="yellow"), soft_wrap=True)
    if len(outcome.tally.saved) > 10:  # noqa: PLR2004 the ten above
        console.print(Text(f"… and {len(outcome.tally.saved) - 10} more there", style="yellow"))
    took = f"{outcome.took_s:.0f} s, seed {outcome.seed}"
    style = "bold green" if outcome.has_held else "bold red"
    console.print(Text(f"{outcome.verdict()} ({took})", style=style), soft_wrap=True)


def _answers(outcome: Outcome) -> Table:
    table = Table("status", "code", title=f"{outcome.tally.inputs:,} inputs to {outcome.url}", title_justify="left")
    table.add_column("inputs", justify="right")
    table.add_column("share", justify="right")
    rows = [(str(status), code, count) for (status, code), count in sorted(outcome.tally.answers.items())]
    rows += [("none", fault, count) for fault, count in sorted(outcome.tally.faults.items())]
    for status, code, count in rows:
        is_bad = status == "none" or int(status) >= _BAD_STATUS
        share = f"{100 * count / outcome.tally.inputs:.1f} %"
        table.add_row(status, Text(_MEANINGS.get(code, code)), f"{count:,}", share, style="red" if is_bad else "")
    return table


def _memory(memory: MemoryFigures) -> Table:
    table = Table(title=f"Resident memory of {memory.processes} process(es)", title_justify="left")
    readings = {
        "start": memory.start_bytes,
        "second tenth": memory.tenth_bytes,
        "middle": memory.middle_bytes,
        "last tenth": memory.end_bytes,
        "largest reading": memory.largest_bytes,
    }
    for name in (*readings, "growth"):
        table.add_column(name, justify="right")
    growth = f"{memory.growth_percent:+.1f} %"
    table.add_row(*(f"{rss_bytes / MIB:,.0f} MiB" for rss_bytes in readings.values()), growth)
    return table
