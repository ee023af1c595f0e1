"""The answers of a campaign, counted, and what they say of the service."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from loadtest.fuzz.memory import FLAT_PERCENT, MemoryFigures

MIB = 2**20
SERVER_ERROR = 500
REMEDY = "run the same command again with another folder in --save"
_UNREAD = frozenset({401, 403, 404, 405, 407, 421, 429})
"""Statuses of answers that are given before the body is read; so are redirections."""

MOST_UNREAD_SHARE = 0.5
"""Of the inputs: with more of them refused unread, that nothing broke says little."""


Fault = Literal["reset", "timeout", "undecodable"]
"""How a request failed without an answer; `undecodable`: its body is not what its content-encoding says."""


@dataclass(frozen=True)
class Answer:
    """The answer to one request: a status with the `code` of its error body, or how the connection failed."""

    status: int | None
    code: str = ""
    fault: Fault | None = None

    @property
    def is_offence(self) -> bool:
        """Whether no input at all may be answered so."""
        return self.status is None or self.status >= SERVER_ERROR

    @property
    def is_success(self) -> bool:
        """Whether the input was accepted."""
        return self.status is not None and 200 <= self.status < 300  # noqa: PLR2004 # HTTP's successes


@dataclass
class Tally:
    """The answers of a campaign so far."""

    answers: Counter[tuple[int, str]] = field(default_factory=Counter)
    faults: Counter[Fault] = field(default_factory=Counter)
    saved: list[Path] = field(default_factory=list)
    unsaved: dict[Path, str] = field(default_factory=dict)
    """Inputs on which the service failed and that could not be saved: where, and why not."""

    @property
    def inputs(self) -> int:
        """How many inputs have come to an end."""
        return self.answers.total() + self.faults.total()

    @property
    def server_errors(self) -> int:
        """How many answers had a status of 500 or more."""
        return sum(count for (status, _), count in self.answers.items() if status >= SERVER_ERROR)

    @property
    def unread(self) -> dict[str, int]:
        """How many inputs were refused before they were looked into, by status and code."""
        return {
            f"{status} {code}".strip(): count
            for (status, code), count in sorted(self.answers.items())
            if status in _UNREAD or 300 <= status < 400  # noqa: PLR2004 # HTTP's redirections
        }

    def add(self, answer: Answer) -> None:
        """Count one more."""
        if answer.fault is not None:
            self.faults[answer.fault] += 1
        elif answer.status is not None:
            self.answers[answer.status, answer.code] += 1


@dataclass(frozen=True)
class Outcome:
    """A finished campaign, or one that was stopped early."""

    url: str
    seed: int
    took_s: float
    tally: Tally
    memory: MemoryFigures | None
    is_judging_memory: bool = True
    """Whether there were enough inputs for that."""

    def offences(self) -> list[str]:
        """Return what is wrong with the service, in words."""
        found = []
        if self.tally.server_errors:
            found.append(f"{self.tally.server_errors} answers of 5xx")
        found += [f"{count} × {fault}" for fault, count in sorted(self.tally.faults.items())]
        if self.memory is not None and self.memory.ended_processes:
            found.append(f"{self.memory.ended_processes} of {self.memory.processes} processes ended")
        elif self.memory is not None and self.is_judging_memory and not self.memory.is_flat:
            found.append(f"memory grew by {self.memory.growth_percent:.1f} %, more than {FLAT_PERCENT:g} %")
        return found

    def untested(self) -> str:
        """Return why the absence of offences says nothing; empty when it says something."""
        unread = self.tally.unread
        if not self.tally.inputs:
            return "no input came to an end"
        if sum(unread.values()) <= MOST_UNREAD_SHARE * self.tally.inputs:
            return ""
        told = ", ".join(f"{count:,} × {what}" for what, count in unread.items())
        return f"{sum(unread.values()):,} of {self.tally.inputs:,} inputs were refused unread: {told}"

    @property
    def has_held(self) -> bool:
        """Whether the service was tested, and nothing is wrong with it."""
        return not self.offences() and not self.untested()

    def verdict(self) -> str:
        """Return one line that says whether the service held."""
        if offences := self.offences():
            return f"FAILED: {'; '.join(offences)}"
        if untested := self.untested():
            return f"NOT TESTED: {untested}"
        said = f"HELD: {self.tally.inputs:,} inputs, no 5xx, no reset, no timeout"
        if unread := sum(self.tally.unread.values()):
            said += f"; {unread:,} of them were refused unread"
        if self.memory is None:
            return f"{said}; memory was not measured"
        if not self.is_judging_memory:
            return f"{said}; too few inputs to judge memory"
        return f"{said}; memory grew by {self.memory.growth_percent:.1f} % after the first tenth"

    def as_json(self) -> dict[str, Any]:
        """Return everything for scripts."""
        memory = self.memory
        answers = sorted(self.tally.answers.items())
        return {
            "url": self.url,
            "seed": self.seed,
            "took_s": round(self.took_s, 1),
            "inputs": self.tally.inputs,
            "answers": [{"status": status, "code": code, "count": count} for (status, code), count in answers],
            "server_errors": self.tally.server_errors,
            "faults": dict(self.tally.faults),
            "memory": memory and {**vars(memory), "growth_percent": round(memory.growth_percent, 2)},
            "saved": [str(path) for path in self.tally.saved],
            "unsaved": {str(path): f"{reason}; {REMEDY}" for path, reason in self.tally.unsaved.items()},
            "offences": self.offences(),
            "unread": self.tally.unread,
            "held": self.has_held,
            "verdict": self.verdict(),
        }
