"""A plan: what to measure, as a YAML file. Read by the runner and, from the run folder, by the report.

Every key is checked, and all faults are told at once. The keys are explained in configs/stress/published.yaml.
"""

import operator
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainSerializer,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from loadtest.errors import BadInputError
from loadtest.plan.base_url import read_base_url
from loadtest.plan.yaml_file import read_yaml_mapping

LATENCY_METRICS = ("median_ms", "avg_ms", "p95_ms", "p99_ms", "max_ms")
METRICS = ("failures_percent", "rps", *LATENCY_METRICS)
Comparison = Literal["<=", "<", ">=", ">"]
_COMPARE: dict[Comparison, Callable[[float, float], bool]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
}

Arrivals = Literal["poisson", "constant"]
"""How requests of an open loop come: at random, as those of independent people do, or one every 1 ÷ rate seconds."""

STOLEN = "stolen"
KIT_ROLES = ("load_generator", "kit", "target_other", "machine", STOLEN)
"""Roles that the kit names itself: Locust, the kit, the target's processes that no pattern matches, everything that
runs on this machine, and the CPU time that its host gave to other machines instead."""

MOST_LATE_PERCENT = 4.0
"""Of the time: while the generator's event loop is late, its lateness is in the latencies. From 5 % of the time on it
would reach p95. A virtual machine on a busy host is late for 1 to 3 % of the time, most of all when nearly idle."""

MOST_IN_FLIGHT = 200
"""Requests under way in an open loop, unless told otherwise: by Little's law enough for 200 a second that take 1 s."""

_LOGIN = re.compile(r"://[^/?#:]*:[^@]+@|(?<![\w+.-])(?!postgres)[\w+.-]+://[^/?#]+@|[?&]password=", re.IGNORECASE)
"""An address with a password that is not empty, or with a user, who may be a token: a database's is none."""
RUN_DIR_VARIABLE = "SERVE_APP_RUN_DIR"
"""Where the service of this repository has its files, if it is not /tmp/serve-app-UID."""
_LIMIT = re.compile(r"(?:(?P<endpoint>[\w-]+)\.)?(?P<metric>\w+)\s*(?P<comparison><=|>=|<|>)\s*(?P<value>[\d.]+)")
_NAME = r"^[A-Za-z0-9][\w-]*$"
_Model = TypeVar("_Model", bound=BaseModel)


class _Checked(BaseModel):
    # A misspelled key would otherwise measure something else than was meant.
    model_config = ConfigDict(extra="forbid", frozen=True)


Name = Annotated[str, Field(pattern=_NAME)]


def _check_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as exc:
        raise ValueError(f"not a regular expression: {exc}") from exc
    return text


Pattern = Annotated[str, AfterValidator(_check_pattern)]


class Limit(_Checked):
    """One objective, written `failures_percent <= 0` or `lookup.p95_ms <= 50`; it holds for every cell."""

    endpoint: str | None
    metric: str
    comparison: Comparison
    value: float

    def __str__(self) -> str:
        prefix = f"{self.endpoint}." if self.endpoint else ""
        value = f"{self.value:.9f}".rstrip("0").rstrip(".")
        return f"{prefix}{self.metric} {self.comparison} {value}"

    def holds_for(self, value: float) -> bool:
        """Return whether a measured value meets the objective."""
        return _COMPARE[self.comparison](value, self.value)


def read_limit(text: object) -> Limit:
    """Return the objective that `text` states. Raises ValueError with what is allowed."""
    if isinstance(text, Limit):
        return text
    found = _LIMIT.fullmatch(str(text).strip())
    if not found or found["metric"] not in METRICS:
        raise ValueError(
            f"{text!r} is not of the form `[endpoint.]metric <= number`; metrics: {', '.join(METRICS)}; "
            "comparisons: <= < >= >"
        )
    return Limit(
        endpoint=found["endpoint"],
        metric=found["metric"],
        comparison=found["comparison"],
        value=float(found["value"]),
    )


StatedLimit = Annotated[Limit, BeforeValidator(read_limit), PlainSerializer(str, return_type=str)]
"""An objective that files hold as it is written."""


class Replicas(_Checked):
    """How many processes of a role must run before and during the load."""

    role: Name
    count: PositiveInt
    wait_s: NonNegativeFloat = 10
    """Once the target is ready, the longest wait until so many run: replicas may come after the first that answers."""


class Target(_Checked):
    """The service under test: the command that starts it, and its URL. Without `start` it must run already."""

    name: Name
    label: str = ""
    start: str | None = None
    """Run without a shell, from the folder in which the kit runs; `{python}` is the kit's own interpreter."""
    environment: dict[str, str] = {}
    url: Annotated[str, AfterValidator(read_base_url)]
    """Where it is; a path may follow, which then stands before that of every request."""
    ready: list[Annotated[str, Field(pattern="^/")]] = Field(default=["/"], min_length=1)
    """Paths that answer 200 once the target can be measured."""
    ready_timeout_s: PositiveFloat = 120
    stop: str | None = None
    """A command; without one the process gets SIGTERM."""
    stop_timeout_s: PositiveFloat = 30
    replicas: Replicas | None = None
    cached: bool = False
    """It is meant to answer from a cache. Otherwise a cell is INVALID when the target says that its cache is on and
    pictures repeat; with it, when it says that its cache is off."""
    about: list[Annotated[str, Field(pattern="^/")]] = []
    """Paths whose JSON answers say what is served; the report quotes them."""
    files: list[Path] = []
    """Files that are copied into the run folder, such as the config that is served."""

    @property
    def title(self) -> str:
        """Return what reports call it."""
        return self.label or self.name

    @field_validator("environment", mode="before")
    @classmethod
    def _no_password(cls, environment: object) -> object:
        for name, value in environment.items() if isinstance(environment, dict) else ():
            if _LOGIN.search(str(value)):
                raise ValueError(
                    f"{name} holds a user or a password, and plans and run folders are shown around: export it where "
                    "the kit is started, whose environment the target has too"
                )
        return environment


class Role(_Checked):
    """A name for processes whose command line matches."""

    name: Name
    command: Pattern
    anywhere: bool = False
    """Also processes that the target did not start, such as a database server."""

    @field_validator("name")
    @classmethod
    def _is_not_ours(cls, name: str) -> str:
        if name in KIT_ROLES:
            raise ValueError(f"{name!r} is a name of the kit's own ({', '.join(KIT_ROLES)}); choose another")
        return name


class Counter(_Checked):
    """A Prometheus counter of the target whose increase the report shows, one figure per combination of labels."""

    name: str
    by: list[str] = []


class Hits(_Checked):
    """A Prometheus counter of answers by where they came from."""

    name: str
    by: str
    values: list[str] = Field(min_length=1)
    """Of the label `by`: those that stand for an answer from the cache."""


def discovery_path(discovery: str, url: str) -> Path:
    """Return the file that `discovery` means for the target at `url`. Raises ValueError and LookupError."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    user = os.getuid() if hasattr(os, "getuid") else ""
    run_dir = os.environ.get(RUN_DIR_VARIABLE) or f"/tmp/serve-app-{user}"  # noqa: S108 as the service has it
    return Path(discovery.format(port=port, user=user, run_dir=run_dir))


def _check_discovery(text: str) -> str:
    try:
        discovery_path(text, "http://127.0.0.1")
    except (ValueError, LookupError) as exc:
        raise ValueError(f"{text!r}: only {{port}}, {{user}} and {{run_dir}} may stand in braces ({exc})") from None
    return text


class TargetMetrics(_Checked):
    """Where the target exports metrics in Prometheus' text format, and what to take from them."""

    urls: list[Annotated[str, Field(pattern="^https?://")]] = []
    discovery: Annotated[str, AfterValidator(_check_discovery)] | None = None
    """A Prometheus file_sd file that lists further addresses; it may appear only once the target runs. In its name
    {port} stands for the port of the target's url, {user} for the number of the user who measures, and {run_dir} for
    SERVE_APP_RUN_DIR or /tmp/serve-app-{user}."""
    keep: Pattern = ""
    """Names to keep in the run folder."""
    counters: list[Counter] = []
    hits: Hits | None = None
    """Of which the report shows what share of the answers came from the target's cache."""
    settle_s: NonNegativeFloat = 0
    """Time that the target's exporter needs to be up to date; waited for before and after the load."""


class Endpoint(_Checked):
    """One kind of request: the tag of its task in the locustfile is its key in the plan."""

    request: str
    """The name under which Locust counts it."""
    weight: PositiveInt = 1


class Workload(_Checked):
    """What one user does."""

    locustfile: Path
    endpoints: dict[Name, Endpoint] = Field(min_length=1)
    wait_s: tuple[NonNegativeFloat, NonNegativeFloat] | None = None
    """Think time between two requests of a user: uniform between these."""
    rate_per_user_rps: PositiveFloat | None = None
    """Instead of a think time: each user keeps to this pace as long as the target answers in time."""
    rate_rps: Annotated[PositiveFloat, Field(allow_inf_nan=False)] | None = None
    """Instead of either, an open loop: so many requests start per second in all, whatever became of earlier ones. The
    plan's `users` are then the most that can be under way at a time."""
    arrivals: Arrivals = "poisson"
    options: dict[str, str | int | float] = {}
    """Further options of the locustfile, given to Locust as --key value."""

    @model_validator(mode="after")
    def _has_one_pace(self) -> Self:
        if sum(pace is not None for pace in (self.wait_s, self.rate_per_user_rps, self.rate_rps)) != 1:
            raise ValueError("give either wait_s (two numbers) or rate_per_user_rps or rate_rps")
        return self

    @field_validator("wait_s")
    @classmethod
    def _is_a_range(cls, wait_s: tuple[float, float] | None) -> tuple[float, float] | None:
        if wait_s and wait_s[0] > wait_s[1]:
            raise ValueError(f"the first number must not be above the second, as in {[*wait_s]}")
        return wait_s

    @property
    def mean_wait_s(self) -> float | None:
        """Return the mean think time Z of a user, seconds; None when users keep to a rate."""
        return sum(self.wait_s) / 2 if self.wait_s else None


class Warmup(_Checked):
    """Load before the measured one; its requests are recorded apart and are in no figure."""

    users: PositiveInt = 5
    duration_s: NonNegativeInt = 10
    """Whole seconds, as Locust counts them; 0 leaves the warm-up out."""


def _unique(values: list[int]) -> list[int]:
    if len(set(values)) != len(values):
        raise ValueError(f"the same value stands there twice: {values}")
    return values


class Plan(_Checked):
    """What to measure: every target at every number of users."""

    title: str
    targets: list[Target] = Field(min_length=1)
    users: Annotated[list[PositiveInt], Field(min_length=1), AfterValidator(_unique)]
    spawn_rate_per_s: Annotated[PositiveFloat, Field(allow_inf_nan=False)]
    duration_s: PositiveInt
    """Of the load, its ramp included; whole seconds, as Locust counts them."""
    settle_s: NonNegativeFloat = 5
    """After the last user has come, this long until the steady window begins."""
    drain_s: NonNegativeFloat = 65
    """After the load, the longest wait for answers; above the clients' own time limit, so that none is lost."""
    warmup: Warmup = Warmup()
    most_other_cpu_percent: NonNegativeFloat = 50
    """Of one core, on average over the steady window: what other work on the machine may use until a cell is INVALID.
    Processes of the target that neither the kit started nor a role `anywhere` names count as other work."""
    most_stolen_cpu_percent: NonNegativeFloat = 100
    """Of one core: what the host of a virtual machine may give to others instead until a cell is INVALID."""
    most_generator_late_percent: NonNegativeFloat = MOST_LATE_PERCENT
    """Of the time: for how much of it the load generator's event loop may be late until a cell is INVALID. More, where
    only counts matter: latencies are then partly the generator's own."""
    repetitions: PositiveInt = 1
    seed: int = 1
    workload: Workload
    roles: list[Role] = []
    metrics: TargetMetrics | None = None
    limits: list[StatedLimit] = []
    baseline: Path | None = None
    """Figures of another report, printed beside ours; a path beside the plan."""
    packages: list[str] = []
    """Python packages whose versions the report names."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        faults = [*self._name_faults(), *self._endpoint_faults(), *self._duration_faults()]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _name_faults(self) -> list[str]:
        names = [target.name for target in self.targets]
        faults = [f"targets: the name {name!r} stands there twice" for name in sorted(_repeated(names))]
        roles = {role.name for role in self.roles}
        for target in self.targets:
            if target.replicas and target.start is None:
                faults += [f"targets.{target.name}.replicas: only of a target that the kit starts; give start"]
            if target.replicas and target.replicas.role not in roles:
                faults += [f"targets.{target.name}.replicas.role: {_not_among(target.replicas.role, roles)}"]
        for limit in self.limits:
            if limit.endpoint is not None and limit.endpoint not in self.workload.endpoints:
                faults += [f"limits: `{limit}`: {_not_among(limit.endpoint, set(self.workload.endpoints))}"]
        return faults

    def _endpoint_faults(self) -> list[str]:
        requests = [endpoint.request for endpoint in self.workload.endpoints.values()]
        return [f"workload.endpoints: two of them count `{request}`" for request in sorted(_repeated(requests))]

    def _duration_faults(self) -> list[str]:
        faults = []
        for users in self.users:
            ramp_s = users / self.spawn_rate_per_s + self.settle_s
            if ramp_s >= self.duration_s:
                faults.append(
                    f"duration_s: {self.duration_s:g} s leave no steady window for {users} users: they come within "
                    f"{users / self.spawn_rate_per_s:g} s and settle for {self.settle_s:g} s; "
                    f"make it longer than {ramp_s:g} s, or raise spawn_rate_per_s"
                )
        return faults


def load_plan(path: Path, overrides: dict[str, Any] | None = None) -> Plan:
    """Return the plan in the file at `path`, with `overrides` for its keys.

    `overrides["targets"]` is a list of names to keep; with `rate_rps`, `arrivals` and `in_flight` (the most requests
    under way) the load becomes an open loop. Raises BadInputError with all faults.
    """
    raw = read_yaml_mapping(path, [*Plan.model_fields])
    if overrides:
        raw = _overridden(path, raw, dict(overrides))
    return check_keys(path, raw, Plan)


def check_keys(path: Path, raw: dict[str, Any], model: type[_Model]) -> _Model:
    """Return `raw`, which stands in the file at `path`, as a `model`. Raises BadInputError with all faults."""
    try:
        return model.model_validate(raw)
    except ValidationError as exc:
        raise BadInputError("\n".join(_faults(path, exc, model))) from exc


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


def _faults(path: Path, exc: ValidationError, model: type[BaseModel]) -> list[str]:
    lines = []
    for error in exc.errors(include_url=False):
        where = "".join(f"{part}." for part in error["loc"]).rstrip(".")
        message = error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            message = f"is not a key here; allowed: {', '.join(_keys_at(error['loc'][:-1], model))}"
        elif error["type"] not in ("missing", "value_error") and not isinstance(error["input"], dict):
            message = f"{message}, not {error['input']!r}"
        lines.append(f"{path}: {where}: {message}" if where else f"{path}: {message}")
    return lines


def _keys_at(location: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    """Return the keys that the part of `model` at `location` knows."""
    schema: Any = model.model_json_schema()
    here = schema
    for part in location:
        here = _resolved(schema, here)
        if isinstance(part, int):
            here = here.get("items", {})
        else:
            here = here.get("properties", {}).get(part) or here.get("additionalProperties", {})
    return list(_resolved(schema, here).get("properties", {}))


def _resolved(schema: Any, part: Any) -> Any:
    if "anyOf" in part:
        part = next((option for option in part["anyOf"] if "$ref" in option), part)
    if "$ref" in part:
        return schema["$defs"][part["$ref"].rsplit("/", 1)[-1]]
    return part


def _repeated(names: list[str]) -> set[str]:
    return {name for name in names if names.count(name) > 1}


def _not_among(name: str, known: set[str]) -> str:
    return f"{name!r} is not one of {', '.join(sorted(known)) or '(none)'}"
