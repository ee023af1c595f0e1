"""The accuracy of a model, as `serve-app-client evaluate --format json` prints it: what a report quotes of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from loadtest.errors import BadInputError
from loadtest.plan.shipped import find_file
from loadtest.plan.targets import Target


class Share(BaseModel):
    """A share with its interval, 0 to 1."""

    share: float
    low: float
    high: float


class EvaluatedModel(BaseModel):
    """What was evaluated. `fingerprint` is the same for two services that give the same answers."""

    name: str
    engine: str
    precision: str
    weights: str
    fingerprint: str | None = None


class Evaluation(BaseModel):
    """An evaluation on labelled pictures. The file is of another program: its further keys are not read."""

    file: str = ""
    kind: Literal["accuracy"]
    date: str
    pictures: int = Field(ge=1)
    top1: Share
    top5: Share | None
    """None for networks with five classes or fewer."""
    model: EvaluatedModel


def read_evaluations(targets: Sequence[Target]) -> dict[str, list[Evaluation]]:
    """Return those that each target names, by its name, without targets that name none. Raises BadInputError."""
    return {target.name: [*map(read_evaluation, target.evaluations)] for target in targets if target.evaluations}


def read_evaluation(path: Path) -> Evaluation:
    """Return the evaluation in a file, `path` as a plan gives it. Raises BadInputError."""
    try:
        found = Evaluation.model_validate_json(find_file(path).read_bytes())
    except OSError as exc:
        raise BadInputError(f"{path}: cannot be read: {exc.strerror}") from exc
    except ValidationError as exc:
        keys = ", ".join(".".join(map(str, error["loc"])) or "JSON" for error in exc.errors())
        raise BadInputError(
            f"{path}: is not what `serve-app-client evaluate FOLDER --format json` prints about labelled pictures "
            f"(wrong: {keys})"
        ) from exc
    return found.model_copy(update={"file": path.name})
