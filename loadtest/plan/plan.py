"""A plan: what to measure, as a YAML file. Read by the runner and, from the run folder, by the report.

Every key is checked, and all faults are reported together. configs/stress/published.yaml explains the keys.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveInt, model_validator

from loadtest.errors import BadInputError
from loadtest.plan.generators import OwnAddress, check_machine, find_generator_faults
from loadtest.plan.keys import NonNegativeFinite, PositiveFinite, Strict, check_keys
from loadtest.plan.limits import StatedLimit
from loadtest.plan.targets import Role, Target, TargetMetrics
from loadtest.plan.workload import MOST_IN_FLIGHT, Warmup, Workload
from loadtest.plan.yaml_file import read_yaml_mapping

MOST_LATE_PERCENT = 4.0
"""Of the time: while the generator's event loop is late, its lateness is in the latencies. From 5 % of the time on it
would reach p95. A virtual machine on a busy host is late for 1 to 3 % of the time, most of all when nearly idle."""

LEAST_DRAIN_S = 1.0
"""A drain counts as cut off in its last half second (verdict/validity.py), so one so short always would."""


def _unique(values: list[int]) -> list[int]:
    if len(set(values)) != len(values):
        raise ValueError(f"the same value appears twice: {values}")
    return values


class Plan(Strict):
    """What to measure: every target at every number of users."""

    title: str
    targets: list[Target] = Field(min_length=1)
    users: Annotated[list[PositiveInt], Field(min_length=1), AfterValidator(_unique)]
    spawn_rate_per_s: PositiveFinite
    duration_s: PositiveInt
    """Of the load, its ramp included; whole seconds, as Locust counts them."""
    settle_s: NonNegativeFinite = 5
    """After the last user has come, this long until the steady window begins."""
    drain_s: NonNegativeFinite = 65
    """After the load, the longest wait for answers; above the clients' own time limit, so that none is lost."""
    warmup: Warmup = Warmup()
    # Both are left out of files where they say nothing: folders that older versions began can still be resumed.
    generators: PositiveInt = Field(default=1, exclude_if=lambda count: count == 1)
    """Processes that make the measured load together: each is one Locust, which can use one core. The users, or the
    arrivals of an open loop, are divided evenly. The warm-up has one."""
    generators_at: OwnAddress | None = Field(default=None, exclude_if=lambda address: address is None)
    """Where generators on other machines report; the kit then starts none here but for the warm-up."""
    most_other_cpu_percent: NonNegativeFloat = 50
    """Of one core, on average over the steady window: what other work on the machine may use until a cell is INVALID.
    Processes of the target that neither the kit started nor a role `anywhere` names count as other work."""
    most_stolen_cpu_percent: NonNegativeFloat = 100
    """Of one core: what the host of a virtual machine may give to others instead until a cell is INVALID."""
    most_generator_late_percent: NonNegativeFloat = MOST_LATE_PERCENT
    """Of the time: for how much of it the load generator's event loop may be late until a cell is INVALID. Of its
    longest stall, 1 s does not count. More, where only counts matter: latencies are then partly the generator's own."""
    repetitions: PositiveInt = 1
    seed: int = 1
    workload: Workload
    roles: list[Role] = Field(default=[])
    metrics: TargetMetrics | None = None
    limits: list[StatedLimit] = Field(default=[])
    baseline: Path | None = None
    """Figures of another report, printed beside ours; a path beside the plan."""
    packages: list[str] = Field(default=[])
    """Python packages whose versions the report names."""

    @property
    def has_several_generators(self) -> bool:
        """Return whether a Locust master directs the generators: also one alone, if it is on another machine."""
        return self.generators > 1 or self.generators_at is not None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        faults = [*self._target_faults(), *self._endpoint_faults(), *self._duration_faults()]
        if faults := [*faults, *find_generator_faults(self.generators, self.users)]:
            raise ValueError("; ".join(faults))
        return self

    def _target_faults(self) -> Iterator[str]:
        for name in _repeated([target.name for target in self.targets]):
            yield f"targets: the name {name!r} appears twice"
        roles = {role.name for role in self.roles}
        for target in self.targets:
            if target.replicas and target.start is None:
                yield f"targets.{target.name}.replicas: only for a target that the kit starts; give start"
            if target.replicas and target.replicas.role not in roles:
                yield f"targets.{target.name}.replicas.role: {_not_among(target.replicas.role, roles)}"

    def _endpoint_faults(self) -> Iterator[str]:
        endpoints = self.workload.endpoints
        for limit in self.limits:
            if limit.endpoint is not None and limit.endpoint not in endpoints:
                yield f"limits: `{limit}`: {_not_among(limit.endpoint, endpoints)}"
        for request in _repeated([endpoint.request for endpoint in endpoints.values()]):
            yield f"workload.endpoints: two of them count `{request}`"

    def _duration_faults(self) -> Iterator[str]:
        for users in self.users:
            spawn_s = users / self.spawn_rate_per_s
            if spawn_s + self.settle_s >= self.duration_s:
                yield (
                    f"duration_s: {self.duration_s:g} s leave no steady window for {users} users: they come within "
                    f"{spawn_s:g} s and settle for {self.settle_s:g} s; "
                    f"make it longer than {spawn_s + self.settle_s:g} s, or raise spawn_rate_per_s"
                )


def load_plan(path: Path, overrides: dict[str, Any] | None = None) -> Plan:
    """Return the plan in the file at `path`, with `overrides` for its keys.

    `overrides["targets"]` is a list of names to keep; with `rate_rps`, `arrivals` and `in_flight` (the most requests
    under way) the load becomes an open loop. Raises BadInputError with all faults.
    """
    raw = read_yaml_mapping(path, [*Plan.model_fields])
    plan = check_keys(path, _overridden(path, raw, dict(overrides or {})), Plan)
    # Not in the model: reports of older folders do without.
    check_drain(path, plan.drain_s)
    for target in plan.targets:
        if names := _repeated([file.name for file in target.files]):
            raise BadInputError(
                f"{path}: targets.{target.name}.files: two of them are called {', '.join(names)}, and the run folder "
                "keeps files by that name: rename one"
            )
    check_machine(path, plan.generators, plan.generators_at)
    return plan


def check_drain(path: Path, drain_s: float) -> None:
    """Raise BadInputError when the plan at `path` waits too short for answers."""
    if drain_s < LEAST_DRAIN_S:
        raise BadInputError(f"{path}: drain_s: should be greater than or equal to {LEAST_DRAIN_S:g}, not {drain_s:g}")


def _overridden(path: Path, raw: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    raw = _with_rate(raw, overrides)
    wanted = overrides.pop("targets", None)
    targets = raw.get("targets")
    if wanted is not None and isinstance(targets, list):
        names = [target.get("name") for target in targets if isinstance(target, dict)]
        unknown = [name for name in wanted if name not in names]
        if unknown:
            raise BadInputError(f"--targets: {path} has no {', '.join(unknown)}; it has {', '.join(map(str, names))}")
        raw = {**raw, "targets": [targets[names.index(name)] for name in wanted]}
    return {**raw, **overrides}


def _with_rate(raw: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Return `raw` with an open loop in place of the plan's pace; takes its keys out of `overrides`."""
    if "rate_rps" in overrides and "users" in overrides:
        raise BadInputError("--users: not together with --rate; the most requests under way are --in-flight")
    if "rate_rps" not in overrides and (alone := {"arrivals", "in_flight"} & overrides.keys()):
        options = ", ".join(f"--{key.replace('_', '-')}" for key in sorted(alone))
        raise BadInputError(f"{options}: only together with --rate")
    rate = {key: overrides.pop(key) for key in ("rate_rps", "arrivals") if key in overrides}
    in_flight = overrides.pop("in_flight", MOST_IN_FLIGHT)
    workload = raw.get("workload")
    if "rate_rps" not in rate or not isinstance(workload, dict):
        return raw
    workload = {key: value for key, value in workload.items() if key not in {"wait_s", "rate_per_user_rps"}} | rate
    # They only wait for arrivals, so they may come at once.
    return {**raw, "workload": workload, "users": [in_flight], "spawn_rate_per_s": 10 * in_flight}


def _repeated(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _not_among(name: str, known: Iterable[str]) -> str:
    return f"{name!r} is not one of {', '.join(sorted(known)) or '(none)'}"
