"""Reads a YAML table of a report's figures and claims, such as tests/audits/published_report.yaml, for `audit`.

Every key is checked. Numbers keep the digits that they are printed with, for those tell how they were rounded. What a
claim says stands beside its words as data: sentences are quoted, and never read.
"""

from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, create_model, model_validator

from loadtest.audit.finding import show, show_range
from loadtest.audit.interval import Interval, exact, printed, printed_or_cut, printed_percentile
from loadtest.audit.table import (
    LOCUST_SPAWN_RATE_PER_S,
    Amount,
    Claim,
    Conclusion,
    Printed,
    Quantity,
    Row,
    Sense,
    Statement,
    Table,
    Window,
)
from loadtest.errors import BadInputError
from loadtest.plan.keys import check_keys
from loadtest.plan.yaml_file import KitLoader, construct_float, read_yaml_mapping

_PERCENTILES = {"median_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
_AS_DATA = "as in tests/audits/published_report.yaml"

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

    @model_validator(mode="after")
    def _is_of_one_target(self) -> Self:
        if (self.instances is None) == (self.target is None):
            raise ValueError("give either instances (a number) or target (a name)")
        return self

    @property
    def endpoints(self) -> dict[str, _Endpoint]:
        """Return the figures of each endpoint, which is a key of its own beside these (see `_file_with`)."""
        fields = type(self).model_fields.items()
        return {field.alias: part for name, field in fields if field.alias and (part := getattr(self, name))}

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


class _Statement(_Strict):
    text: str
    """The words that say it: a part of the claim's."""
    quantity: Quantity
    endpoint: str | None = None
    sense: Sense
    percent: Annotated[Decimal, Field(gt=0, le=_MOST)] | None = None
    times: Annotated[Decimal, Field(gt=0, le=_MOST)] | None = None
    """Instead of percent; neither where the words hold no number."""

    @model_validator(mode="after")
    def _has_one_amount(self) -> Self:
        given = [amount for amount in (self.percent, self.times) if amount is not None]
        if len(given) > 1 or (given and self.sense == "same"):
            raise ValueError("give either percent or times, and neither with the sense `same`")
        return self


_KINDS = {
    "because": {"users", "winner", "because", "says"},
    "recommendation": {"users", "recommendation", "says"},
    "bottom_line": {"bottom_line", "target", "all_levels"},
}


class _Claim(_Strict):
    users: PositiveInt | None = None
    winner: int | str | None = None
    because: str | None = None
    recommendation: str | None = None
    """For one number of users; of the winner that the report names there."""
    says: list[_Statement] = []
    bottom_line: str | None = None
    target: int | str | None = None
    """The one that the bottom line recommends."""
    all_levels: bool = False
    """Whether the bottom line is for every number of users."""

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Self:
        kinds = [kind for kind in _KINDS if kind in self.model_fields_set]
        about_level = kinds in (["because"], ["recommendation"])
        if len(kinds) != 1 or self.model_fields_set - _KINDS[kinds[0]] or (about_level and self.users is None):
            raise ValueError(
                "give either users, winner, because and says, or users, recommendation and says, or bottom_line, "
                f"target and all_levels, {_AS_DATA}"
            )
        unquoted = [one.text for one in self.says if one.text not in self.words]
        if unquoted:
            raise ValueError(f"says: {', '.join(map(repr, unquoted))} is no part of {self.words!r}")
        return self

    @property
    def words(self) -> str:
        return self.because or self.recommendation or self.bottom_line or ""


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
        faults = [*self._repeated_rows(), *self._unknown_endpoints(), *self._unknown_targets()]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _repeated_rows(self) -> list[str]:
        rows = [(row.label, row.users) for row in self.results]
        return [f"results: {label}, {users} users stands there twice" for label, users in _repeated(rows)]

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
            if name is not None and str(name) not in known
        ]


def read_published(path: Path) -> Table:
    """Return the table in the file at `path`. Raises BadInputError with every fault, each with its key."""
    raw = read_yaml_mapping(path, [*_File.model_fields], _PrintedNumbers)
    _refuse_sentences(path, raw.get("claims"))
    file = check_keys(path, raw, _file_with(path, raw.get("endpoints")))
    names = {row.key: row.label for row in file.results}
    claims = list(_claims(file))
    return Table(
        title=file.title,
        rows=[_row(file, result) for result in file.results],
        stated=_stated(file),
        claims=claims,
        conclusions=_conclusions(file),
        names=names,
        notes=[note for claim in claims for note in _unsaid(claim)],
    )


def _refuse_sentences(path: Path, claims: Any) -> None:
    """Refuse a file for version 0.1.0, which read the sentences of claims itself."""
    entries = [claim for claim in claims if isinstance(claim, dict)] if isinstance(claims, list) else []
    if any("because" in claim and "says" not in claim for claim in entries):
        raise BadInputError(
            f"{path}: claims: sentences are no longer read: add `says`, what they say as data, and write "
            f"`recommendation` with `users` instead of `recommendation_at_USERS`, {_AS_DATA}"
        )


def _file_with(path: Path, endpoints: Any) -> type[_File]:
    """Return the form of a file whose rows have a key for each of these endpoints."""
    names = [str(name) for name in endpoints] if isinstance(endpoints, dict) else []
    clash = sorted(set(names) & set(_Result.model_fields))
    if clash:
        raise BadInputError(f"{path}: endpoints: {_listed(clash)} is a key of every row; choose another name")
    parts: dict[str, Any] = {
        f"endpoint_{at}": (_Endpoint, Field(default=None, alias=name)) for at, name in enumerate(names)
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


def _claims(file: _File) -> Iterator[Claim]:
    """Yield claims on single levels; a recommendation for one is of the winner that the report names there."""
    winners = {claim.users: claim.winner for claim in file.claims if claim.winner is not None}
    for claim in file.claims:
        if claim.users is not None:
            names_winner = claim.because is not None
            winner = claim.winner if names_winner else winners.get(claim.users)
            yield Claim(
                where=f"claim at {claim.users} users" if names_winner else f"recommendation_at_{claim.users}",
                text=claim.words,
                users=claim.users,
                winner=None if winner is None else str(winner),
                names_winner=names_winner,
                says=_statements(claim),
            )


def _statements(claim: _Claim) -> list[Statement]:
    return [Statement(one.text, one.quantity, one.endpoint, one.sense, _amount(one)) for one in claim.says]


def _amount(statement: _Statement) -> Amount | None:
    if statement.percent is not None:
        return Amount.of(statement.percent, "percent")
    return None if statement.times is None else Amount.of(statement.times, "times")


def _unsaid(claim: Claim) -> list[str]:
    """Return a note where a claim has words of which nothing is said as data."""
    rest = claim.text
    for statement in claim.says:
        rest = rest.replace(statement.text, "", 1)
    rest = " ".join(rest.strip(" ,;.").split())
    return [f"{claim.where}: “{rest}” is not given as data, so not checked"] if rest else []


def _conclusions(file: _File) -> list[Conclusion]:
    return [
        Conclusion(
            where="bottom_line",
            text=claim.bottom_line,
            target=None if claim.target is None else str(claim.target),
            covers_all_levels=claim.all_levels,
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
