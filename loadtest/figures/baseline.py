"""The figures of another report, printed beside ours: a YAML file as in configs/stress/baselines.

Read by `summary`. Knows of our targets only how many replicas they ask for.
"""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from loadtest.errors import BadInputError
from loadtest.figures.figures import Baseline, BaselinePoint
from loadtest.plan.keys import Strict
from loadtest.plan.targets import Target
from loadtest.plan.yaml_file import read_yaml_file


class _Row(Strict):
    instances: int
    users: int
    requests: int
    failures_percent: float
    median_ms: float
    rps: float
    endpoints: dict[str, dict[str, float]]


class _File(Strict):
    title: str
    machine: dict[str, Any]
    points: list[_Row]


def read_baseline(path: Path, targets: list[Target]) -> Baseline:
    """Return the figures in the file at `path`, each beside the one target that asks for as many replicas.

    A row that fits no target, or several, is left out. Raises BadInputError for a file of another form.
    """
    try:
        file = _File.model_validate(read_yaml_file(path))
    except ValidationError as exc:
        raise BadInputError(f"{path}: is not a baseline as in configs/stress/baselines: {exc}") from exc
    points = []
    for row in file.points:
        beside = [target.name for target in targets if target.replicas and target.replicas.count == row.instances]
        if len(beside) == 1:
            points.append(BaselinePoint(target=beside[0], **row.model_dump(exclude={"instances"})))
    return Baseline(title=file.title, machine=file.machine, points=points)
