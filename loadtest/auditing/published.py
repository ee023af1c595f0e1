"""Reads a YAML table of a report's figures and claims, such as tests/audits/published_report.yaml, for `audit`.

Every key is checked. Numbers keep the digits that they are printed with, for those tell how they were rounded.
"""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from loadtest.auditing.finding import show, show_range
from loadtest.auditing.interval import Interval, exact, printed, printed_or_cut, printed_percentile
from loadtest.auditing.statements import covers_all_levels, find_target
from loadtest.auditing.table import LOCUST_SPAWN_RATE_PER_S, Claim, Conclusion, Printed, Row, Table, Window
from loadtest.errors import BadInputError
from loadtest.yaml_file import KitLoader, construct_float, read_yaml_mapping

_PERCENTILES = {"median_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
_RECOMMENDATION = "recommendation_at_"

_MOST = 1e12
"""Of any figure: what is above is a slip, and its square may be too large for a float."""

_NotNegative = Annotated[Decimal, Field(ge=0, le=_MOST)]


class _Strict(BaseModel):
    # A misspelled key would otherwise be a figure that nobody checks.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Figures(_Strict):
    failures: int | None = Field(default=None, ge=0, le=int(_MOST))
    failures_percent: _NotNegative | None = None
    rps: _NotNegative | None = None
    median_ms: _NotNegative | None = None
    avg_ms: _NotNegative | None = None
    p95_ms: _NotNegative | None = None
    p99_ms: _NotNegative | None = None
    min_ms: _NotNegative | None = None
    max_ms: _NotNegative | None = None


class _Endpoint(_Figures):
    requests: int | None = Field(default=None, ge=0, le=int(_MOST))


class _Result(_Figures):
    instances: PositiveInt | None = None
    target: str | None = Field(default=None, min_length=1)
    """Instead of instances, where targets differ otherwise."""
    users: PositiveInt
    requests: int = Field(ge=0, le=int(_MOST))
    endpoints: dict[str, _Endpoint] = {}
    """In the file each endpoint is a key of its own beside these."""

    @model_validator(mode="after")
    def _is_of_one_target(self) -> Self:
        if (self.instances is None) == (self.target is None):
            raise ValueError("give either instances (a number) or target (a name)")
        return self

    @property
    def key(self) -> str:
        return self.target or str(self.instances)

    @property
    def label(self) -> str:
        return self.target or f"{self.instances} instance{'s' * (self.instances != 1)}"


class _Test(_Strict):
    users: list[PositiveInt] = []
    spawn_rate_per_s: PositiveFloat | None = None
    duration_s: PositiveFloat | tuple[PositiveFloat, PositiveFloat] | None = None
    """One number, or the shortest and the longest."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if isinstance(self.duration_s, tuple) and self.duration_s[0] > self.duration_s[1]:
            raise ValueError(f"duration_s: the first number must not be above the second, as in {[*self.duration_s]}")
        return self


class _Workload(_Strict):
    wait_s: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] | None = None
    weights: dict[str, PositiveFloat] = {}

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.wait_s and self.wait_s[0] > self.wait_s[1]:
            raise ValueError(f"wait_s: the first number must not be above the second, as in {[*self.wait_s]}")
        return self


class _Claim(_Strict):
    users: PositiveInt | None = None
    winner: int | str | None = None
    because: str | None = None
    bottom_line: str | None = None
    recommendations: dict[int, str] = {}
    """In the file each is a key `recommendation_at_USERS`."""
    suspected_bottleneck: str | None = None

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Self:
        about_level = {"users", "winner", "because"} & self.model_fields_set
        about_all = {"bottom_line", "recommendations", "suspected_bottleneck"} & self.model_fields_set
        if bool(about_level) == bool(about_all) or (about_level and (self.users is None or self.because is None)):
            raise ValueError(
                "give either users, winner and because, or bottom_line, recommendation_at_USERS, suspected_bottleneck"
            )
        return self


class _File(_Strict):
    title: str
    machine: dict[str, Any] = {}
    endpoints: dict[str, dict[str, Any]] = {}
    test: _Test = _Test()
    workload: _Workload = _Workload()
    results: list[_Result] = Field(min_length=1)
    claims: list[_Claim] = []

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        faults = [*self._repeated_rows(), *self._unknown_weights(), *self._unknown_winners()]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _repeated_rows(self) -> list[str]:
        rows = [(row.label, row.users) for row in self.results]
        return [f"results: {label}, {users} users stands there twice" for label, users in _repeated(rows)]

    def _unknown_weights(self) -> list[str]:
        unknown = [name for name in self.workload.weights if name not in self.endpoints]
        return [f"workload.weights.{name}: is not among the endpoints ({_listed(self.endpoints)})" for name in unknown]

    def _unknown_winners(self) -> list[str]:
        targets = {row.key: row.label for row in self.results}
        winners = [str(claim.winner) for claim in self.claims if claim.winner is not None]
        return [f"claims: the winner {name} has no row ({_listed(targets)})" for name in winners if name not in targets]


def read_published(path: Path) -> Table:
    """Return the table in the file at `path`. Raises BadInputError with every fault, each with its key."""
    raw = read_yaml_mapping(path, [*_File.model_fields], _PrintedNumbers)
    try:
        file = _File.model_validate(_gathered(path, raw))
    except ValidationError as exc:
        raise BadInputError("\n".join(_faults(path, exc, raw))) from exc
    names = {row.key: row.label for row in file.results}
    return Table(
        title=file.title,
        rows=[_row(file, result) for result in file.results],
        stated=_stated(file),
        claims=[*_claims(file), *_recommendations(file)],
        conclusions=_conclusions(file, names),
        names=names,
    )


class _PrintedNumbers(KitLoader):
    """Keeps the digits of a number: 1.0 is not 1."""


def _construct_number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Decimal | float:
    try:
        return Decimal(node.value)
    except InvalidOperation:  # .inf or .nan
        return construct_float(loader, node)


_PrintedNumbers.add_constructor("tag:yaml.org,2002:float", _construct_number)


def _gathered(path: Path, raw: dict[str, Any]) -> dict[str, Any]:
    """Return the file's content with keys that are names put under one key: endpoints, and recommendations."""
    endpoints = raw.get("endpoints") or {}
    names = set(endpoints) if isinstance(endpoints, dict) else set()
    clash = sorted(str(name) for name in names & set(_Result.model_fields))
    if clash:
        raise BadInputError(f"{path}: endpoints: {_listed(clash)} is a key of every row; choose another name")
    results, claims = (raw.get(key) for key in ("results", "claims"))
    return {
        **raw,
        **({"results": [_with_endpoints(row, names) for row in results]} if isinstance(results, list) else {}),
        **({"claims": [_with_recommendations(one) for one in claims]} if isinstance(claims, list) else {}),
    }


def _with_endpoints(row: Any, names: set[str]) -> Any:
    if not isinstance(row, dict):
        return row
    own = {key: value for key, value in row.items() if key not in names}
    return {**own, "endpoints": {key: value for key, value in row.items() if key in names}}


def _with_recommendations(claim: Any) -> Any:
    if not isinstance(claim, dict):
        return claim
    found = {key: value for key, value in claim.items() if str(key).startswith(_RECOMMENDATION)}
    own = {key: value for key, value in claim.items() if key not in found}
    levels = {key.removeprefix(_RECOMMENDATION): value for key, value in found.items()}
    return {**own, "recommendations": levels} if levels else own


def _faults(path: Path, exc: ValidationError, raw: dict[str, Any]) -> list[str]:
    endpoints = raw.get("endpoints")
    known = endpoints if isinstance(endpoints, dict) else {}
    lines = []
    for error in exc.errors(include_url=False):
        where = ".".join(str(part) for part in error["loc"])
        message = error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            message = f"is not a key here; allowed: {_listed(_keys_at(error['loc'][:-1], known))}"
        elif error["type"] not in ("missing", "value_error") and not isinstance(error["input"], (dict, list)):
            message = f"{message}, not {str(error['input'])!r}"
        # In the file these stand one level higher.
        where = where.replace(".endpoints.", ".").replace(".recommendations.", f".{_RECOMMENDATION}")
        lines.append(f"{path}: {where}: {message}" if where else f"{path}: {message}")
    return lines


def _keys_at(location: tuple[int | str, ...], endpoints: Mapping[str, Any]) -> list[str]:
    """Return the keys that may stand at a place of the file."""
    kinds: dict[str, type[BaseModel]] = {"results": _Result, "test": _Test, "workload": _Workload, "claims": _Claim}
    kind = kinds.get(str(location[0])) if location else _File
    if kind is _Result and "endpoints" in location:
        return [*_Endpoint.model_fields]
    keys = [key for key in (kind or _File).model_fields if (kind, key) != (_Result, "endpoints")]
    keys = [f"{_RECOMMENDATION}USERS" if key == "recommendations" else key for key in keys]
    return [*keys, *endpoints] if kind is _Result else keys


def _row(file: _File, result: _Result) -> Row:
    spawn_rate = file.test.spawn_rate_per_s or LOCUST_SPAWN_RATE_PER_S
    parts = {name: _printed(part, part.requests) for name, part in result.endpoints.items()}
    return Row(
        name=f"{result.label}, {result.users} users",
        target=result.key,
        users=result.users,
        all=_printed(result, result.requests),
        parts=parts,
        parts_are_all=bool(file.endpoints) and set(result.endpoints) == set(file.endpoints),
        window=Window(stated_s=_duration_s(file.test), ramp_s=result.users / spawn_rate),
        wait_s=file.workload.wait_s,
        weights=file.workload.weights,
        # What Locust prints of an endpoint whose requests have no response time.
        may_lack_times=any(
            part.requests and part.avg_ms is not None and part.avg_ms.value == 0 for part in parts.values()
        ),
    )


def _printed(figures: _Figures, requests: int | None) -> Printed:
    percentiles = {share: getattr(figures, key) for key, share in _PERCENTILES.items()}
    return Printed(
        requests=requests,
        failures=figures.failures,
        failures_percent=_maybe(figures.failures_percent, printed),
        rps=_maybe(figures.rps, printed),
        avg_ms=_maybe(figures.avg_ms, printed_or_cut),
        percentiles_ms=[
            (share, printed_percentile(value)) for share, value in percentiles.items() if value is not None
        ],
        min_ms=_maybe(figures.min_ms, printed_or_cut),
        max_ms=_maybe(figures.max_ms, printed_or_cut),
        timed=requests,
    )


def _maybe(number: Decimal | None, rounded: Any) -> Interval | None:
    return None if number is None else rounded(number)


def _duration_s(test: _Test) -> Interval | None:
    if test.duration_s is None:
        return None
    if isinstance(test.duration_s, tuple):
        low, high = test.duration_s
        return Interval(low, (low + high) / 2, high)
    return exact(test.duration_s)


def _claims(file: _File) -> list[Claim]:
    return [
        Claim(
            where=f"claim at {claim.users} users",
            text=claim.because,
            users=claim.users,
            winner=None if claim.winner is None else str(claim.winner),
        )
        for claim in file.claims
        if claim.users is not None and claim.because is not None
    ]


def _recommendations(file: _File) -> list[Claim]:
    """Return recommendations for single levels: of the winner that the report names there."""
    winners = {claim.users: str(claim.winner) for claim in file.claims if claim.winner is not None}
    return [
        Claim(where=f"{_RECOMMENDATION}{users}", text=text, users=users, winner=winners.get(users), names_winner=False)
        for claim in file.claims
        for users, text in claim.recommendations.items()
    ]


def _conclusions(file: _File, names: dict[str, str]) -> list[Conclusion]:
    return [
        Conclusion(
            where="bottom_line",
            text=claim.bottom_line,
            target=find_target(claim.bottom_line, names),
            covers_all_levels=covers_all_levels(claim.bottom_line),
        )
        for claim in file.claims
        if claim.bottom_line is not None
    ]


def _stated(file: _File) -> list[str]:
    """Return what the report says of its test, in words."""
    duration_s, wait_s = _duration_s(file.test), file.workload.wait_s
    lines = []
    if duration_s is not None:
        lines.append(f"duration of each test: {show_range(duration_s.low, duration_s.high)} s")
    if file.test.spawn_rate_per_s is None:
        lines.append(f"users come at an unknown rate; Locust's default, {LOCUST_SPAWN_RATE_PER_S:g} per s, is taken")
    else:
        lines.append(f"users come at {show(file.test.spawn_rate_per_s)} per s")
    if wait_s is not None:
        lines.append(f"each user waits {show_range(*wait_s)} s between requests, {show(sum(wait_s) / 2)} s on average")
    if file.workload.weights:
        weights = ", ".join(f"{name} {show(weight)}" for name, weight in file.workload.weights.items())
        lines.append(f"requests are chosen with the weights {weights}")
    return lines


def _repeated(rows: list[tuple[str, int]]) -> list[tuple[str, int]]:
    return sorted({row for row in rows if rows.count(row) > 1})


def _listed(names: Any) -> str:
    return ", ".join(map(str, names)) or "none"
