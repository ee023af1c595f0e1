"""Reads a YAML table of a report's figures and claims, such as tests/audits/published_report.yaml, for `audit`.

Every key is checked. Numbers keep the digits that they are printed with, for those tell how they were rounded. What a
claim says stands beside its words as data: sentences are quoted, and never read.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt, create_model, model_validator

from loadtest.audit.finding import show, show_range
from loadtest.audit.interval import Interval, exact, printed, printed_or_cut, printed_percentile
from loadtest.audit.table import LOCUST_SPAWN_RATE_PER_S, MOST, Claim, Printed, Row, Stated, Table, Window
from loadtest.errors import BadInputError
from loadtest.plan.keys import check_keys
from loadtest.plan.yaml_file import KitLoader, construct_float, read_yaml_mapping

_PERCENTILES = {"median_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}


def _ascending(value: Any) -> Any:
    if isinstance(value, tuple) and value[0] > value[1]:
        raise ValueError(f"the first number must not be above the second, as in {[*value]}")
    return value


_NotNegative = Annotated[Decimal, Field(ge=0, le=MOST)]
_Count = Annotated[int, Field(ge=0, le=MOST)]


class _Figures(Stated):
    failures: _Count | None = None
    failures_percent: _NotNegative | None = None
    rps: _NotNegative | None = None
    median_ms: _NotNegative | None = None
    avg_ms: _NotNegative | None = None
    p95_ms: _NotNegative | None = None
    p99_ms: _NotNegative | None = None
    min_ms: _NotNegative | None = None
    max_ms: _NotNegative | None = None
    requests: _Count | None = None

    def printed(self) -> Printed:
        percentiles = [(share, getattr(self, key)) for key, share in _PERCENTILES.items()]
        return Printed(
            requests=self.requests,
            failures=self.failures,
            failures_percent=_rounded(self.failures_percent),
            rps=_rounded(self.rps),
            avg_ms=_rounded(self.avg_ms, printed_or_cut),
            percentiles_ms=[(share, printed_percentile(value)) for share, value in percentiles if value is not None],
            min_ms=_rounded(self.min_ms, printed_or_cut),
            max_ms=_rounded(self.max_ms, printed_or_cut),
            timed=self.requests,
        )


def _rounded(number: Decimal | None, how: Callable[[Decimal], Interval] = printed) -> Interval | None:
    return None if number is None else how(number)


class _Result(_Figures):
    instances: PositiveInt | None = None
    target: str | None = Field(default=None, min_length=1)
    """Instead of instances, where targets differ otherwise."""
    users: PositiveInt
    requests: _Count

    @model_validator(mode="after")
    def _is_of_one_target(self) -> Self:
        if (self.instances is None) == (self.target is None):
            raise ValueError("give either instances (a number) or target (a name)")
        return self

    @property
    def endpoints(self) -> dict[str, _Figures]:
        """Return the figures of each endpoint, which is a key of its own beside these (see `_file_with`)."""
        fields = type(self).model_fields.items()
        return {field.alias: part for name, field in fields if field.alias and (part := getattr(self, name))}

    @property
    def key(self) -> str:
        return self.target or str(self.instances)

    @property
    def label(self) -> str:
        return self.target or f"{self.instances} instance{'s' * (self.instances != 1)}"


class _Test(Stated):
    users: list[PositiveInt] = Field(default=[])
    spawn_rate_per_s: PositiveFloat | None = None
    duration_s: Annotated[PositiveFloat | tuple[PositiveFloat, PositiveFloat] | None, AfterValidator(_ascending)] = None
    """One number, or the shortest and the longest."""

    @property
    def stated_s(self) -> Interval | None:
        if isinstance(self.duration_s, tuple):
            low, high = self.duration_s
            return Interval(low, (low + high) / 2, high)
        return None if self.duration_s is None else exact(self.duration_s)


class _Workload(Stated):
    wait_s: Annotated[tuple[NonNegativeFloat, NonNegativeFloat] | None, AfterValidator(_ascending)] = None
    weights: dict[str, PositiveFloat] = Field(default={})


class _File(Stated):
    title: str
    machine: dict[str, Any] = Field(default={})
    endpoints: dict[str, dict[str, Any]] = Field(default={})
    test: _Test = _Test()
    workload: _Workload = _Workload()
    results: list[_Result] = Field(min_length=1)
    claims: list[Claim] = Field(default=[])

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        faults = [*self._repeated_rows(), *self._unknown_endpoints(), *self._unknown_targets()]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _repeated_rows(self) -> list[str]:
        rows = Counter(f"{row.label}, {row.users} users" for row in self.results)
        return [f"results: {row} stands there twice" for row, count in sorted(rows.items()) if count > 1]

    def _unknown_endpoints(self) -> list[str]:
        known = f"is not among the endpoints ({_listed(self.endpoints)})"
        said = [one.endpoint for claim in self.claims for one in claim.says if one.endpoint is not None]
        return [f"workload.weights.{name}: {known}" for name in self.workload.weights if name not in self.endpoints] + [
            f"claims: says: {name} {known}" for name in said if name not in self.endpoints
        ]

    def _unknown_targets(self) -> list[str]:
        known = {row.key: row.label for row in self.results}
        named = [("winner", claim.winner) for claim in self.claims] + [("target", one.target) for one in self.claims]
        return [
            f"claims: the {what} {name} has no row ({_listed(known)})"
            for what, name in named
            if name is not None and name not in known
        ]


def read_published(path: Path) -> Table:
    """Return the table in the file at `path`. Raises BadInputError with every fault, each with its key."""
    raw = read_yaml_mapping(path, [*_File.model_fields], _PrintedNumbers)
    _refuse_sentences(path, raw.get("claims"))
    file = check_keys(path, raw, _file_with(path, raw.get("endpoints")))
    winners = {claim.users: claim.winner for claim in file.claims if claim.winner is not None}
    claims = [
        claim if claim.because is not None else claim.model_copy(update={"winner": winners.get(claim.users)})
        for claim in file.claims
        if claim.users is not None
    ]
    return Table(
        title=file.title,
        rows=[_row(file, result) for result in file.results],
        stated=_stated(file),
        claims=claims,
        conclusions=[claim for claim in file.claims if claim.bottom_line is not None],
        names={row.key: row.label for row in file.results},
        notes=[note for claim in claims for note in _unsaid(claim)],
    )


def _refuse_sentences(path: Path, claims: Any) -> None:
    """Refuse a file for version 0.1.0, which read the sentences of claims itself."""
    entries = [claim for claim in claims if isinstance(claim, dict)] if isinstance(claims, list) else []
    if any("because" in claim and "says" not in claim for claim in entries):
        raise BadInputError(
            f"{path}: claims: sentences are no longer read: add `says`, what they say as data, and write "
            "`recommendation` with `users` instead of `recommendation_at_USERS`, as in "
            "tests/audits/published_report.yaml"
        )


def _file_with(path: Path, endpoints: Any) -> type[_File]:
    """Return the form of a file whose rows have a key for each of these endpoints."""
    names = [str(name) for name in endpoints] if isinstance(endpoints, dict) else []
    clash = sorted(set(names) & set(_Result.model_fields))
    if clash:
        raise BadInputError(f"{path}: endpoints: {_listed(clash)} is a key of every row; choose another name")
    parts: dict[str, Any] = {
        f"endpoint_{at}": (_Figures, Field(default=None, alias=name)) for at, name in enumerate(names)
    }
    row = create_model("_Row", __base__=_Result, **parts)
    return create_model("_FileOfRows", __base__=_File, results=(list[row], Field(min_length=1)))


class _PrintedNumbers(KitLoader):
    """Keeps the digits of a number: 1.0 is not 1."""


def _construct_number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Decimal | float:
    try:
        return Decimal(node.value)
    except InvalidOperation:  # .inf or .nan
        return construct_float(loader, node)


_PrintedNumbers.add_constructor("tag:yaml.org,2002:float", _construct_number)


def _row(file: _File, result: _Result) -> Row:
    spawn_rate = file.test.spawn_rate_per_s or LOCUST_SPAWN_RATE_PER_S
    parts = {name: part.printed() for name, part in result.endpoints.items()}
    return Row(
        name=f"{result.label}, {result.users} users",
        target=result.key,
        users=result.users,
        all=result.printed(),
        parts=parts,
        parts_are_all=bool(file.endpoints) and set(result.endpoints) == set(file.endpoints),
        window=Window(stated_s=file.test.stated_s, ramp_s=result.users / spawn_rate),
        wait_s=file.workload.wait_s,
        weights=file.workload.weights,
        # What Locust prints of an endpoint whose requests have no response time.
        may_lack_times=any(
            part.requests and part.avg_ms is not None and part.avg_ms.value == 0 for part in parts.values()
        ),
    )


def _unsaid(claim: Claim) -> list[str]:
    """Return a note where a claim has words of which nothing is said as data."""
    rest = claim.text
    for statement in claim.says:
        rest = rest.replace(statement.text, "", 1)
    rest = " ".join(rest.strip(" ,;.").split())
    return [f"{claim.where}: “{rest}” is not given as data, so not checked"] if rest else []


def _stated(file: _File) -> list[str]:
    """Return what the report says of its test, in words."""
    duration_s, wait_s = file.test.stated_s, file.workload.wait_s
    lines = []
    if duration_s is not None:
        lines.append(f"duration of each test: {show_range(duration_s.low, duration_s.high)} s")
    if file.test.spawn_rate_per_s is None:
        lines.append(f"spawn rate: unknown; Locust's default, {LOCUST_SPAWN_RATE_PER_S:g} user per s, is assumed")
    else:
        lines.append(f"spawn rate: {show(file.test.spawn_rate_per_s)} users per s")
    if wait_s is not None:
        lines.append(f"each user waits {show_range(*wait_s)} s between requests, {show(sum(wait_s) / 2)} s on average")
    if file.workload.weights:
        weights = ", ".join(f"{name} {show(weight)}" for name, weight in file.workload.weights.items())
        lines.append(f"requests are chosen with the weights {weights}")
    return lines


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
