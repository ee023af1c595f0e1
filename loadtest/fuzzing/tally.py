"""What came back, counted: the answers of a campaign and what they say of the service."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.fuzzing.memory import FLAT_PERCENT, MemoryFigures

MIB = 2**20
_SERVER_ERROR = 500


@dataclass(frozen=True)
class Answer:
    """What came of one request: a status with the `code` of its error body, or how the connection failed."""

    status: int | None
    code: str = ""
    fault: str = ""
    """`reset` or `timeout`, with the client's words."""

    @property
    def is_offence(self) -> bool:
        """Whether no input at all may be answered so."""
        return self.status is None or self.status >= _SERVER_ERROR


@dataclass
class Tally:
    """The answers of a campaign so far."""

    answers: Counter[tuple[int, str]] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    saved: list[Path] = field(default_factory=list)

    @property
    def inputs(self) -> int:
        """How many inputs have come to an end."""
        return self.answers.total() + self.faults.total()

    @property
    def server_errors(self) -> int:
        """How many answers had a status of 500 or more."""
        return sum(count for (status, _), count in self.answers.items() if status >= _SERVER_ERROR)

    def add(self, answer: Answer) -> None:
        """Count one more."""
        if answer.status is None:
            self.faults[answer.fault.split(":")[0]] += 1
        else:
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

    def verdict(self) -> str:
        """Return one line that says whether the service held."""
        if offences := self.offences():
            return f"FAILED: {'; '.join(offences)}"
        said = f"HELD: {self.tally.inputs:,} inputs, no 5xx, no reset, no timeout"
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
            "offences": self.offences(),
            "verdict": self.verdict(),
        }
