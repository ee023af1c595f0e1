"""The candidates of a search: combinations of the knobs' values, and the YAML and target of each."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path

from loadtest.plan.keys import Strict
from loadtest.plan.targets import Replicas, Target
from loadtest.tune.config_path import Scalar, read_value, replace_values
from loadtest.tune.tune_file import Knob, Tuning, holds


@dataclass(frozen=True)
class Candidate:
    """One combination of values."""

    name: str
    """The same at every start of the same search, such as c01."""
    knobs: dict[str, Scalar]

    @property
    def title(self) -> str:
        """Return the values for a reader."""
        return show_knobs(self.knobs)


class SkippedValue(Strict):
    """A value that no candidate has."""

    knob: str
    value: Scalar
    reason: str


class Excluded(Strict):
    """A combination that a constraint forbids."""

    knobs: dict[str, Scalar]
    constraint: str


@dataclass(frozen=True)
class Grid:
    """All combinations that the tune file allows on this machine, in its order, and what it does not allow."""

    candidates: list[Candidate]
    skipped: list[SkippedValue]
    excluded: list[Excluded]


def show_knobs(knobs: dict[str, Scalar]) -> str:
    """Return values for a reader, such as `replicas=2 threads=1`."""
    return " ".join(f"{name}={value}" for name, value in knobs.items())


def make_grid(tuning: Tuning) -> Grid:
    """Return every combination of the values that this machine can run and the constraints allow."""
    skipped = [
        SkippedValue(knob=knob.name, value=value, reason=f"the Python module {module} is not installed")
        for knob in tuning.file.vary
        for value in knob.values_on(tuning.cores)
        if (module := knob.requires.get(str(value))) and not _is_installed(module)
    ]
    without = {(one.knob, one.value) for one in skipped}
    values = [_allowed(knob, without, tuning.cores) for knob in tuning.file.vary]
    combinations = [dict(zip([knob.name for knob in tuning.file.vary], each, strict=True)) for each in product(*values)]
    kept, excluded = [], []
    for combination in combinations:
        broken = next((one for one in tuning.file.constraints if not holds(one, combination, tuning.cores)), None)
        if broken is None:
            kept.append(combination)
        else:
            excluded.append(Excluded(knobs=combination, constraint=broken))
    digits = max(2, len(str(len(kept))))
    candidates = [Candidate(f"c{number:0{digits}}", knobs) for number, knobs in enumerate(kept, 1)]
    return Grid(candidates, skipped, excluded)


def choose_spread(candidates: Sequence[Candidate], count: int, first: dict[str, Scalar]) -> list[Candidate]:
    """Return `count` candidates that lie far from each other, in their order; among them the one nearest to `first`.

    A greedy maximin design (Johnson, Moore and Ylvisaker 1990): the next candidate is the one whose nearest chosen
    neighbour differs from it in most knobs; of several, the one whose values were chosen least often.
    """
    chosen = [min(candidates, key=lambda one: _distance(one.knobs, first))] if count else []
    used = Counter(item for one in chosen for item in one.knobs.items())
    while len(chosen) < min(count, len(candidates)):
        following = max(
            (one for one in candidates if one not in chosen),
            key=lambda one: (
                min(_distance(one.knobs, other.knobs) for other in chosen),
                -sum(used[item] for item in one.knobs.items()),
            ),
        )
        chosen.append(following)
        used.update(following.knobs.items())
    return [one for one in candidates if one in chosen]


def base_values(tuning: Tuning) -> dict[str, Scalar]:
    """Return the values that the base has, without those that it leaves to their default."""
    values = {knob.name: read_value(tuning.base_text, knob.path) for knob in tuning.file.vary}
    return {name: value for name, value in values.items() if value is not None}


def render_config(tuning: Tuning, knobs: dict[str, Scalar]) -> str:
    """Return the base's text with these values."""
    return replace_values(tuning.base_text, {tuning.knob(name).path: value for name, value in knobs.items()})


def make_target(tuning: Tuning, candidate: Candidate, config: Path) -> Target:
    """Return the plan's target with the candidate's config in place of the base."""
    base, target = tuning.file.base, tuning.target
    assert target.start is not None
    quoted = shlex.quote(str(base))
    in_command = quoted if quoted in target.start else str(base)
    replicas = target.replicas
    if replicas and tuning.file.replicas_knob:
        replicas = Replicas(role=replicas.role, count=int(candidate.knobs[tuning.file.replicas_knob]))
    return target.model_copy(
        update={
            "name": candidate.name,
            "label": candidate.title,
            "start": target.start.replace(in_command, shlex.quote(str(config))),
            "files": [config, *(file for file in target.files if file != base)],
            "replicas": replicas,
        }
    )


def _allowed(knob: Knob, without: set[tuple[str, Scalar]], cores: int) -> list[Scalar]:
    return [value for value in knob.values_on(cores) if (knob.name, value) not in without]


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a parent package
        return False


def _distance(one: dict[str, Scalar], other: dict[str, Scalar]) -> int:
    return sum(one[name] != other.get(name) for name in one)
