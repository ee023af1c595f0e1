"""A tune file: which settings of a service to vary, towards which objective, within which time.

Every key is checked, and all faults are told at once. The keys are explained in configs/stress/tune.yaml.
"""

import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PositiveInt,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

from loadtest.errors import BadInputError
from loadtest.machine.cores import usable_cores
from loadtest.plan.keys import Name, PositiveFinite, Strict, check_keys
from loadtest.plan.limits import StatedLimit
from loadtest.plan.plan import Plan, load_plan
from loadtest.plan.shipped import find_file
from loadtest.plan.targets import Target
from loadtest.plan.yaml_file import read_yaml_mapping
from loadtest.statistics.percentiles import PERCENTILES
from loadtest.tune.config_path import Scalar, check_path, read_value

CORES = "cores"
"""The word in constraints for the cores of the machine that the service may use, by affinity and CPU quota."""

AUTO = "auto"

_COMPARISONS = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt, "==": operator.eq}
_CONSTRAINT = re.compile(r"(?P<left>[\w\s*.-]+?)(?P<comparison><=|>=|==|<|>)(?P<right>[\w\s*.-]+)")
_OBJECTIVE = re.compile(r"(?P<direction>mini|maxi)mi[sz]e\s+(?:(?P<endpoint>[\w-]+)\.)?(?P<metric>\w+)")


class Objective(Strict):
    """The figure to optimise, written `minimise predict.p95_ms` or `maximise rps`."""

    maximise: bool
    endpoint: str | None
    metric: str

    @property
    def figure(self) -> str:
        """Return the metric as reports name it, such as `predict.p95_ms`."""
        return f"{self.endpoint}.{self.metric}" if self.endpoint else self.metric

    def __str__(self) -> str:
        return f"{'maximise' if self.maximise else 'minimise'} {self.figure}"


def read_objective(text: object) -> Objective:
    """Return the objective that `text` states. Raises ValueError with what is allowed."""
    if isinstance(text, Objective):
        return text
    found = _OBJECTIVE.fullmatch(str(text).strip())
    of_all = found and not found["endpoint"] and found["metric"] == "rps"
    of_one = found and found["endpoint"] and found["metric"] in PERCENTILES
    if not found or not (of_all or of_one):
        raise ValueError(
            f"{text!r} is not of the form `maximise rps` or `minimise endpoint.metric`; "
            f"metrics of an endpoint: {', '.join(PERCENTILES)}"
        )
    if (found["direction"] == "maxi") != (found["metric"] == "rps"):
        raise ValueError(f"{text!r}: rps is to be maximised, latencies are to be minimised")
    return Objective(maximise=found["direction"] == "maxi", endpoint=found["endpoint"], metric=found["metric"])


def _check_constraint(text: str) -> str:
    if not _CONSTRAINT.fullmatch(text.strip()):
        raise ValueError(f"{text!r} is not of the form `replicas * threads <= {CORES}`")
    return text.strip()


def constraint_names(constraint: str) -> set[str]:
    """Return the knobs that a constraint names."""
    return {term for term in _terms(constraint) if not _is_number(term)} - {CORES}


def holds(constraint: str, knobs: Mapping[str, Scalar], cores: int) -> bool:
    """Return whether these values of the knobs meet a constraint, each side of which is a product."""
    found = _CONSTRAINT.fullmatch(constraint)
    assert found
    left, right = (_product(found[side], {**knobs, CORES: cores}) for side in ("left", "right"))
    return bool(_COMPARISONS[found["comparison"]](left, right))


def _product(side: str, values: Mapping[str, Scalar]) -> float:
    return math.prod(float(values.get(term.strip(), term)) for term in side.split("*"))


def _terms(constraint: str) -> list[str]:
    found = _CONSTRAINT.fullmatch(constraint)
    assert found
    return [term.strip() for side in ("left", "right") for term in found[side].split("*")]


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(?:\.\d+)?", text) is not None


class Knob(Strict):
    """One setting of the service, and the values to try."""

    name: Name
    path: Annotated[str, AfterValidator(check_path)]
    """Where it stands in the service's YAML, see config_path.py."""
    values: Annotated[list[StrictBool | StrictInt | StrictFloat | StrictStr], Field(min_length=1)] | Literal["auto"]
    """`auto`: 1, 2, 4, … below the number of usable cores, and that number."""
    requires: dict[str, str] = {}
    """Value: Python module without which the value is skipped."""

    def values_on(self, cores: int) -> list[Scalar]:
        """Return the values on a machine with `cores` cores."""
        if self.values != AUTO:
            return list(self.values)
        return [*(2**power for power in range(cores.bit_length()) if 2**power < cores), cores]


class TuneFile(Strict):
    """What to search, towards what, and for how long."""

    plan: Path
    """Whose workload, roles, metrics, times and target are used; from the folder in which the kit runs."""
    target: Name | None = None
    """Which of the plan's targets; the first if not said. In its command and files, `base` stands for a candidate."""
    base: Path
    """The service's YAML, from which every candidate is made."""
    vary: list[Knob] = Field(min_length=1)
    constraints: list[Annotated[str, AfterValidator(_check_constraint)]] = []
    replicas_knob: Name | None = None
    """The knob that says how many replicas run: they are counted, and the recommendation is about it."""
    users: PositiveInt
    objective: Annotated[Objective, BeforeValidator(read_objective), PlainSerializer(str, return_type=str)]
    limits: list[StatedLimit] = []
    """Which must hold; a candidate that misses one is never chosen."""
    minutes: PositiveFinite
    """What the search may take."""
    repetitions: PositiveInt = 3
    """How often the final measures each finalist at least, if there is time."""
    overhead_s: PositiveFinite = 40
    """What a cell takes besides its load (start, warm-up, stop), until the first round has shown it."""

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        names = [knob.name for knob in self.vary]
        faults = [f"vary: the name {name!r} is given twice" for name in {n for n in names if names.count(n) > 1}]
        if CORES in names:
            faults.append(f"vary: {CORES!r} is the machine's; choose another name")
        if self.replicas_knob is not None and self.replicas_knob not in names:
            faults.append(f"replicas_knob: {self.replicas_knob!r} is not one of {', '.join(names)}")
        faults += [fault for knob in self.vary for fault in _value_faults(knob, knob.name == self.replicas_knob)]
        faults += [fault for constraint in self.constraints for fault in self._constraint_faults(constraint)]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _constraint_faults(self, constraint: str) -> list[str]:
        knobs = {knob.name: knob for knob in self.vary}
        faults = []
        for name in sorted(constraint_names(constraint)):
            if name not in knobs:
                faults.append(f"constraints: `{constraint}`: {name!r} is not one of {', '.join([*knobs, CORES])}")
            elif not all(type(value) in (int, float) for value in knobs[name].values_on(1)):
                faults.append(f"constraints: `{constraint}`: not all values of {name} are numbers")
        return faults


def _value_faults(knob: Knob, counts: bool) -> list[str]:  # noqa: FBT001 # one caller, just above
    values = knob.values_on(1)
    faults = [f"vary.{knob.name}.values: the same value is given twice"] if len(set(values)) < len(values) else []
    unknown = set(knob.requires) - {str(value) for value in values}
    if unknown:
        faults.append(f"vary.{knob.name}.requires: {', '.join(sorted(unknown))}: not among the values")
    if counts and not all(type(value) is int and value > 0 for value in values):
        faults.append(f"vary.{knob.name}.values: numbers of replicas are whole and above 0")
    return faults


@dataclass(frozen=True)
class Tuning:
    """A tune file with what it refers to."""

    path: Path
    file: TuneFile
    plan: Plan
    target: Target
    base_text: str
    cores: int

    def knob(self, name: str) -> Knob:
        """Return the knob of that name."""
        return next(knob for knob in self.file.vary if knob.name == name)


def load_tuning(path: Path, overrides: dict[str, Any] | None = None) -> Tuning:
    """Return the tune file at `path`, with `overrides` for its keys, and what it refers to.

    `overrides["vary"]` holds values by the name of a knob. Raises BadInputError with all faults.
    """
    raw = read_yaml_mapping(path, [*TuneFile.model_fields])
    if overrides:
        raw = _overridden(path, raw, dict(overrides))
    file = check_keys(path, raw, TuneFile)
    plan = load_plan(find_file(file.plan))
    target = next((target for target in plan.targets if file.target in (None, target.name)), None)
    try:
        base_text = find_file(file.base).read_text(encoding="utf-8")
    except OSError as exc:
        raise BadInputError(f"{path}: base: {file.base} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise BadInputError(f"{path}: base: {file.base} is not YAML: {exc}") from exc
    faults = [*_target_faults(file, plan, target), *_path_faults(file, base_text), *_figure_faults(file, plan)]
    if faults:
        raise BadInputError("\n".join(f"{path}: {fault}" for fault in faults))
    assert target is not None
    return Tuning(path, file, plan, target, base_text, max(1, int(usable_cores())))


def _overridden(path: Path, raw: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = overrides.pop("vary", {})
    knobs = raw.get("vary")
    if values and isinstance(knobs, list):
        names = [knob.get("name") for knob in knobs if isinstance(knob, dict)]
        unknown = [name for name in values if name not in names]
        if unknown:
            raise BadInputError(f"--vary: {path} has no {', '.join(unknown)}; it has {', '.join(map(str, names))}")
        raw = {**raw, "vary": [_with_values(knob, values) for knob in knobs]}
    return {**raw, **overrides}


def _with_values(knob: Any, values: dict[str, Any]) -> Any:
    if not isinstance(knob, dict) or knob.get("name") not in values:
        return knob
    given = values[knob["name"]]
    requires = knob.get("requires") or {}
    kept = {value: module for value, module in requires.items() if given == AUTO or value in map(str, given)}
    return {**knob, "values": given, "requires": kept}


def _target_faults(file: TuneFile, plan: Plan, target: Target | None) -> list[str]:
    if target is None:
        return [f"target: {file.target!r} is not one of {', '.join(target.name for target in plan.targets)}"]
    faults = []
    if target.start is None or str(file.base) not in target.start:
        faults.append(f"base: {file.base} does not stand in the start command of {target.name}: {target.start}")
    if file.replicas_knob and target.replicas is None:
        faults.append(f"replicas_knob: {target.name} does not say which role is counted; give its `replicas`")
    return faults


def _path_faults(file: TuneFile, base_text: str) -> list[str]:
    faults = []
    for knob in file.vary:
        try:
            read_value(base_text, knob.path)
        except ValueError as exc:
            faults.append(f"vary.{knob.name}.path: {file.base}: {exc}")
    return faults


def _figure_faults(file: TuneFile, plan: Plan) -> list[str]:
    named = {"objective": file.objective.endpoint, **{f"limits: `{limit}`": limit.endpoint for limit in file.limits}}
    known = plan.workload.endpoints
    return [
        f"{where}: {endpoint!r} is not one of {', '.join(known)}"
        for where, endpoint in named.items()
        if endpoint is not None and endpoint not in known
    ]
