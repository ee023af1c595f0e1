"""A benchmark that shows what is known: figures of the kit beside the true ones, and no conclusion when disturbed."""

from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.report import Report, finish

QUIET = {"most_other_cpu_percent": 15, "most_stolen_cpu_percent": 15, "most_generator_late_percent": 4}
"""Keys of a plan: less than this does not fill a core that a target leaves free."""

SHOWN, WRONG, DISTURBED = 0, 1, 2


class Proof:
    """Collects claims; one that does not hold is wrong, unless the kit itself says that its cell was disturbed."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._wrong: list[str] = []
        self._disturbed: list[str] = []

    def claim(
        self, what: str, unit: str, true: tuple[float, float], measured: float | None, reasons: Sequence[str] = ()
    ) -> None:
        """Claim that a figure is the true one: that, and by how much it may be off; `reasons` make its cell invalid."""
        value, off = true
        for column, number in {"true": value, "measured": measured, "may be off by": off}.items():
            if number is not None:
                self._report.append(f"Figures, {unit}", what, column, unit, number)
        held = measured is not None and abs(measured - value) <= off
        self.hold(f"{what}: {measured} {unit} instead of {value:g} ± {off:g}", held, reasons)

    def hold(self, what: str, held: bool, reasons: Sequence[str] = ()) -> None:  # noqa: FBT001 # as an assertion
        """Claim what `held` says; `what` is told if it does not."""
        if not held and reasons:
            self._disturbed.append(f"{what} ({'; '.join(reasons)})")
        elif not held:
            self._wrong.append(what)

    def conclude(self, json_file: Path | None) -> int:
        """Print everything and return the exit code: 0 all is shown, 1 something is wrong, 2 nothing can be said."""
        self._report.notes += [f"WRONG: {what}" for what in self._wrong]
        self._report.notes += [f"no conclusion, for the kit was disturbed: {what}" for what in self._disturbed]
        disturbed_before = finish(self._report, json_file) != 0
        if self._wrong and not disturbed_before:
            return WRONG
        return DISTURBED if self._wrong or self._disturbed else SHOWN
