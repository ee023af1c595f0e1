"""The outcome of one item: the service's prediction, or an error."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

_MOST_EXAMPLES = 3


@dataclass(frozen=True)
class Outcome:
    """The outcome of one item: a `prediction` (the answer of POST /model/predict) or an `error` ({code, detail})."""

    file: str
    prediction: Mapping[str, Any] | None
    error: Mapping[str, Any] | None = None
    against: Mapping[str, Any] | None = None
    """The prediction of a second service, where two are compared."""
    fingerprints: Sequence[str] = ()
    """What names the model of `prediction`, and that of `against`; empty where nobody noted it."""

    def as_json(self) -> dict[str, Any]:
        """Return the object of JSON output: the keys of a job's results, and `against` and `fingerprints` if any."""
        found: dict[str, Any] = {"file": self.file, "prediction": self.prediction, "error": self.error}
        if self.against is not None:
            found["against"] = self.against
        if self.fingerprints:
            found["fingerprints"] = list(self.fingerprints)
        return found


def is_prediction(body: object) -> TypeGuard[dict[str, object]]:
    """Return whether `body` is an answer of POST /model/predict."""
    return (
        isinstance(body, dict)
        and isinstance(body.get("prediction"), str)
        and isinstance(body.get("score"), int | float)
        and isinstance(body.get("predictions"), list)
    )


@dataclass
class Tally:
    """Counts of outcomes, for the exit code and the summary."""

    classified: int = 0
    cached: int = 0
    random: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Some of the files by error code."""

    def count(self, outcome: Outcome) -> None:
        """Count one more outcome."""
        if outcome.prediction is not None:
            self.classified += 1
            self.cached += outcome.prediction.get("cached") is True
            model = outcome.prediction.get("model")
            self.random += isinstance(model, dict) and model.get("weights") == "random"
            return
        code = str((outcome.error or {}).get("code"))
        self.failed[code] += 1
        examples = self.examples.setdefault(code, [])
        if len(examples) < _MOST_EXAMPLES:
            examples.append(outcome.file)
