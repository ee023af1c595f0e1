"""A fault plan: what to break, in which service, under which load, and what may be lost. A YAML file.

Every key is checked. The keys are explained in configs/stress/faults.yaml and configs/stress/soak.yaml.
"""

import math
from collections import Counter
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from loadtest.errors import BadInputError
from loadtest.plan.generators import OwnAddress, check_machine, find_generator_faults
from loadtest.plan.keys import Name, NonNegativeFinite, Pattern, PositiveFinite, Strict, check_keys
from loadtest.plan.plan import Plan, check_drain
from loadtest.plan.targets import Role, Target
from loadtest.plan.workload import Workload
from loadtest.plan.yaml_file import read_yaml_mapping

Which = Literal["one", "all"]
"""Which processes of a role a fault strikes: the one that has lived longest, or all of them."""

# Between the first user and the moment when the kit has seen that all have come.
_START_S = 3.0


class Kill(Strict):
    """A signal to processes of a role."""

    role: Name
    signal: Literal["KILL", "TERM", "INT", "ABRT"] = "KILL"
    processes: Which = "one"


class Freeze(Strict):
    """SIGSTOP to processes of a role, and SIGCONT after a while."""

    role: Name
    for_s: PositiveFinite
    processes: Which = "one"


class MayFail(Strict):
    """Which requests of one kind may fail in a fault; without it, none may."""

    sent_within_s: NonNegativeFloat | None = None
    """Only requests that were sent at most so long after the fault; 0: only what was under way when it came."""
    error: Pattern = ""
    """Only with an error in which this is found, such as `status 503`."""
    within_ms: PositiveFloat | None = None
    """Only with an answer that came so soon."""


class Fault(Strict):
    """One thing that breaks: give one of kill, freeze and command."""

    name: Name
    title: str = ""
    kill: Kill | None = None
    freeze: Freeze | None = None
    command: str | None = None
    """Run without a shell, in the target's environment; the fault lasts until it has ended."""
    undo: str | None = None
    """A command that mends what `command` or `kill` broke. Run whatever happens."""
    hold_s: NonNegativeFinite = 0
    """Between the end of the fault's first half and `undo`."""
    longest_s: PositiveFinite = 120
    """A command that takes longer is killed, and the fault counts as not carried out."""
    before_s: NonNegativeFinite | None = None
    after_s: NonNegativeFinite | None = None
    """Load after the fault instead of the plan's; of a command, after it began."""
    may_fail: dict[Name, MayFail] = {}
    """By endpoint."""
    recover_within_s: PositiveFloat | None = None

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if sum(kind is not None for kind in (self.kill, self.freeze, self.command)) != 1:
            raise ValueError("give one of kill, freeze and command")
        if self.undo is not None and self.freeze is not None:
            raise ValueError("undo: a freeze ends by itself, after for_s")
        if self.hold_s and self.undo is None:
            raise ValueError("hold_s: only with undo")
        return self

    @property
    def label(self) -> str:
        """Return what tables call it."""
        return self.title or self.name

    @property
    def role(self) -> str | None:
        """Return whose processes it strikes; None for a command."""
        struck = self.kill or self.freeze
        return struck.role if struck else None

    @property
    def lasts_s(self) -> float:
        """Return how long it lasts by the plan, seconds; the duration of a command is not known."""
        return self.freeze.for_s if self.freeze else self.hold_s


class Service(Strict):
    """Something that the target needs: both commands end by themselves, `start` when the service is up."""

    name: str = Field(min_length=1)
    start: str
    stop: str


class Setting(Strict):
    """A target, what it needs, and what happens to it."""

    target: Target
    services: list[Service] = []
    needs_root: bool = False
    """Skipped with this reason for anybody else."""
    faults: list[Fault] = Field(min_length=1)


class Group(Setting):
    """Faults that strike the same start of a target, one after the other."""

    name: Name


class FaultLoad(Strict):
    """The load under which things break; the keys mean what they mean in a plan."""

    title: str
    users: PositiveInt
    spawn_rate_per_s: PositiveFinite
    settle_s: NonNegativeFinite = 5
    drain_s: NonNegativeFinite = 65
    generators: PositiveInt = Field(default=1, exclude_if=lambda count: count == 1)
    generators_at: OwnAddress | None = Field(default=None, exclude_if=lambda address: address is None)
    seed: int = 1
    workload: Workload
    roles: list[Role] = Field(min_length=1)
    steady_roles: list[Name] = []
    """Roles that must have as many processes as before the fault until it counts as recovered."""

    @property
    def ramp_s(self) -> float:
        """Return the time until the load is complete and has settled, seconds."""
        return self.users / self.spawn_rate_per_s + self.settle_s

    def load_plan(self, target: Target, duration_s: float) -> Plan:
        """Return a plan of the same load, for the generator."""
        return Plan(
            title=self.title,
            targets=[target],
            users=[self.users],
            spawn_rate_per_s=self.spawn_rate_per_s,
            duration_s=max(math.ceil(duration_s), math.floor(self.ramp_s) + 1),
            settle_s=self.settle_s,
            drain_s=self.drain_s,
            generators=self.generators,
            generators_at=self.generators_at,
            seed=self.seed,
            workload=self.workload,
            roles=self.roles,
        )

    def faults_of(self, setting: Setting, where: str) -> list[str]:
        """Return what is wrong with names in a setting."""
        roles, wrong = {role.name for role in self.roles}, _given_twice(setting.faults, where)
        for fault in setting.faults:
            if fault.role is not None and fault.role not in roles:
                wrong += [f"{where}.{fault.name}: role: {fault.role!r} is not one of {', '.join(sorted(roles))}"]
            for endpoint in fault.may_fail.keys() - self.workload.endpoints.keys():
                known = ", ".join(sorted(self.workload.endpoints))
                wrong += [f"{where}.{fault.name}: may_fail: {endpoint!r} is not one of {known}"]
        if setting.target.start is None:
            wrong += [f"{where}: target.start: missing; the kit only breaks what it has started"]
        return wrong

    def _load_faults(self) -> list[str]:
        unknown = set(self.steady_roles) - {role.name for role in self.roles}
        wrong = [f"steady_roles: {name!r} is not a role of the plan" for name in sorted(unknown)]
        return [*wrong, *find_generator_faults(self.generators, [self.users])]


def _given_twice(faults: list[Fault], where: str) -> list[str]:
    counts = Counter(fault.name for fault in faults)
    return [f"{where}: the fault {name!r} is given twice" for name, count in sorted(counts.items()) if count > 1]


class FaultPlan(FaultLoad):
    """Faults one at a time, each under its own load, with a quiet period before it and time to recover after it."""

    before_s: PositiveFinite = 10
    after_s: PositiveFinite = 30
    groups: list[Group] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        wrong = self._load_faults() + _given_twice([one for group in self.groups for one in group.faults], "groups")
        for group in self.groups:
            wrong += self.faults_of(group, f"groups.{group.name}")
        if wrong:
            raise ValueError("; ".join(dict.fromkeys(wrong)))
        return self

    def before_of_s(self, fault: Fault) -> float:
        """Return the quiet stretch before a fault, seconds."""
        return self.before_s if fault.before_s is None else fault.before_s

    def duration_of_s(self, fault: Fault) -> float:
        """Return how long the load around a fault lasts, seconds."""
        after_s = self.after_s if fault.after_s is None else fault.after_s
        return _START_S + self.ramp_s + self.before_of_s(fault) + fault.lasts_s + after_s


class SoakPlan(FaultLoad, Setting):
    """One long load, and a fault of the list every so often, in turn."""

    minutes: PositiveFinite = 10
    every_s: PositiveFinite = 60
    warmup_s: NonNegativeFinite = 60
    """At the beginning; no memory slope is taken from it."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        wrong = [*self._load_faults(), *self.faults_of(self, "faults")]
        wrong += [
            f"faults.{fault.name}: lasts {fault.lasts_s:g} s, and the next one comes after {self.every_s:g} s (every_s)"
            for fault in self.faults
            if fault.lasts_s >= self.every_s
        ]
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def schedule(self) -> list[tuple[float, Fault]]:
        """Return the faults with their seconds since the load was complete; the last has `every_s` to recover."""
        count = int((60 * self.minutes - self.ramp_s) // self.every_s) - 1
        return [((number + 1) * self.every_s, self.faults[number % len(self.faults)]) for number in range(count)]


def load_fault_plan(path: Path) -> FaultPlan:
    """Return the fault plan in a file. Raises BadInputError with all that is wrong."""
    plan = check_keys(path, read_yaml_mapping(path, [*FaultPlan.model_fields]), FaultPlan)
    check_drain(path, plan.drain_s)
    check_machine(path, plan.generators, plan.generators_at)
    return plan


def choose(plan: FaultPlan, only: list[str] | None) -> list[str]:
    """Return the names of the plan's faults, or those in `only`. Raises BadInputError for a name it does not have."""
    names = [fault.name for group in plan.groups for fault in group.faults]
    if unknown := [name for name in only or [] if name not in names]:
        raise BadInputError(f"--only: the plan has no {', '.join(unknown)}; it has {', '.join(names)}")
    return names if only is None else only


def load_soak_plan(path: Path, minutes: float | None = None) -> SoakPlan:
    """Return the soak plan in a file, with another duration if given. Raises BadInputError with what is wrong."""
    raw = read_yaml_mapping(path, [*SoakPlan.model_fields])
    plan = check_keys(path, raw if minutes is None else {**raw, "minutes": minutes}, SoakPlan)
    check_drain(path, plan.drain_s)
    check_machine(path, plan.generators, plan.generators_at)
    if not plan.schedule():
        raise BadInputError(
            f"{path}: minutes: {plan.minutes:g} leave no time for a fault every {plan.every_s:g} s and one to recover"
        )
    return plan
