"""Reads the CSV files of a plain Locust run (`locust --csv PREFIX`) as far as they go. Called by the command line.

What they lack stays None and is told in a note: latencies of the steady window, percentiles to more than two digits,
the machine, the service's own clock.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from loadtest.errors import BadInputError
from loadtest.figures.figures import (
    CellFigures,
    EndpointFigures,
    Facts,
    PointFigures,
    Reason,
    TargetFacts,
    Traffic,
    show_count,
)
from loadtest.figures.locust_files import (
    EXCEPTIONS,
    FAILED,
    FAILURES,
    HISTORY,
    MEAN,
    MEDIAN,
    MOST,
    OLD_PERCENTILES,
    OLD_STATS,
    REQUESTS,
    RPS,
    STATS,
    TOTAL,
    Line,
    find_option_faults,
    name_request,
    read_lines,
)
from loadtest.statistics.intervals import failures_interval_percent
from loadtest.statistics.percentiles import LEAST_SAMPLES, PERCENTILES

TARGET = "locust"
MOST_TOLD = 5
"""Of the failures of the run."""

_REQUESTS, _FAILURES = "Total Request Count", "Total Failure Count"
_STATS_COLUMNS = (REQUESTS, FAILED, MEDIAN, MEAN, MOST, RPS)
_TOTALS = tuple(f"Total {column}" for column in (MEDIAN, MEAN, MOST))
_USERS = "User Count"
_HISTORY_COLUMNS = ("Timestamp", _REQUESTS, _FAILURES, *_TOTALS)


@dataclass(frozen=True)
class _Tick:
    """What the history says of one moment; requests and failures are those since the start."""

    unix_s: float
    users: int | None
    """None in files of Locust before 1.0."""
    lines: dict[str | None, Line]
    """By endpoint: all together, and with --csv-full-history single ones."""

    def count(self, column: str, endpoint: str | None = None) -> int:
        """Return the number in a column; an endpoint without a line has not been asked yet."""
        return int(self.lines[endpoint].numbers[column]) if endpoint in self.lines else 0


@dataclass(frozen=True)
class _Window:
    first: _Tick
    last: _Tick

    @property
    def length_s(self) -> float:
        return self.last.unix_s - self.first.unix_s


@dataclass(frozen=True)
class _Run:
    """What the files say, and what is to be said of them."""

    name: str
    """The last part of the prefix."""
    stats: dict[str | None, Traffic]
    """Of the whole run, by endpoint; empty when Locust was killed before it wrote them."""
    ticks: list[_Tick]
    """Empty when there is no history."""
    notes: list[str]


def read_locust_csv(path: Path, *, users: int | None, wait_s: Sequence[float] | None, title: str) -> Facts:
    """Return the facts of a Locust run: one target, one number of users, one cell.

    `path` is what Locust was given as --csv, or one of the files that it wrote; `users` the number of users that were
    asked for, `wait_s` the least and the most think time, if known. Raises BadInputError.
    """
    faults = find_option_faults(users, wait_s)
    if faults:
        raise BadInputError("\n".join(faults))
    run = _read_run(path)
    if users is None and not any(tick.users is not None for tick in run.ticks):
        raise BadInputError(f"{path}: {run.name}{HISTORY} does not tell the number of users; give it by --users")
    cell = _cell(run, users)
    mean_wait_s = sum(wait_s) / len(wait_s) if wait_s else None
    measured = cell.model_dump(include={"steady_window_s", "steady", "whole_run", "endpoints"}) if cell.valid else {}
    point = PointFigures(
        target=TARGET,
        users=cell.users,
        repetitions=int(cell.valid),
        think_time_limit_rps=round(cell.users / mean_wait_s, 4) if mean_wait_s else None,
        **measured,
    )
    return Facts(
        title=title,
        source="Locust CSV",
        dates=sorted({datetime.fromtimestamp(tick.unix_s, UTC).date().isoformat() for tick in run.ticks}),
        test={"users": [cell.users]} | ({"workload": {"wait_s": list(wait_s)}} if wait_s else {}),
        targets=[TargetFacts(name=TARGET, title=TARGET)],
        endpoints=[part.endpoint for part in cell.endpoints],
        points=[point],
        cells=[cell],
    )


def _read_run(path: Path) -> _Run:
    """Read all files; those that are not there say nothing."""
    found = [
        suffix
        for suffix in (HISTORY, STATS, OLD_STATS, OLD_PERCENTILES, FAILURES, EXCEPTIONS)
        if path.name.endswith(suffix)
    ]
    prefix = str(path).removesuffix(found[0] if found else "")
    notes: list[str] = []
    ticks = _since_reset(_read_history(Path(prefix + HISTORY), notes), notes)
    stats = _read_stats(Path(prefix + STATS), {}, notes) or _read_old_stats(prefix, notes)
    run = _Run(Path(prefix).name, stats, ticks, notes)
    if not run.stats and not run.ticks:
        raise BadInputError(
            f"{path}: there is neither {run.name}{STATS} with a line `{TOTAL}` nor {run.name}{HISTORY} with figures; "
            "give the PREFIX of `locust --csv PREFIX`"
        )
    _remark(run)
    run.notes.extend(_told_failures(Path(prefix + FAILURES), run.notes))
    return run


def _remark(run: _Run) -> None:
    """Note what the files do not tell."""
    if run.stats:
        run.notes.append(
            "Locust's median, p95 and p99 are of the whole run, rounded to two digits, and of failed requests too"
        )
    else:
        run.notes.append(
            f"{run.name}{STATS} is missing or unfinished: the figures of the whole run are those with which "
            f"{run.name}{HISTORY} ends; it has no p95 and p99 of the whole run, and its median is rounded to two digits"
        )
    untimed = [name for name, traffic in run.stats.items() if name and traffic.requests and traffic.max_ms is None]
    if untimed:
        run.notes.append(
            f"without a response time, and so in no latency, are all requests of {', '.join(untimed)}: Locust writes 0"
        )
    if not run.ticks:
        run.notes.append(f"{run.name}{HISTORY} is missing: nothing is known of the steady window")
        return
    if run.ticks[-1].users is None:
        run.notes.append(
            f"{run.name}{HISTORY} is of Locust before 1.0, which writes no number of users: nothing is known of the "
            "steady window"
        )
        return
    run.notes.append("Locust does not write latencies of the steady window; a request counts when its answer came")
    later = run.stats[None].requests - run.ticks[-1].count(_REQUESTS) if run.stats else 0
    if later > 0:
        run.notes.append(
            f"Locust was killed: {run.name}{STATS} has {later} requests more than {run.name}{HISTORY}, from which the "
            "steady window is"
        )
    if not any(len(tick.lines) > 1 for tick in run.ticks):
        run.notes.append(
            f"{run.name}{HISTORY} has no lines of single endpoints (they need --csv-full-history): how many requests "
            "each had in the steady window is not known and stands as 0"
        )


def _read_old_stats(prefix: str, notes: list[str]) -> dict[str | None, Traffic]:
    """Return the same from the files of Locust 0.8 to 0.13, which have the percentiles in one of their own."""
    lines = _read_lines(Path(prefix + OLD_PERCENTILES), ("Name",), (REQUESTS,), notes)
    return _read_stats(Path(prefix + OLD_STATS), {line.text["Name"]: line.numbers for line in lines}, notes)


def _read_stats(
    path: Path, percentiles: Mapping[str, Mapping[str, float]], notes: list[str]
) -> dict[str | None, Traffic]:
    """Return the figures of the whole run by endpoint, None being all together; nothing if that one is missing.

    `percentiles` has those that the file lacks, by method and name.
    """
    lines = _read_lines(path, ("Type", "Name"), _STATS_COLUMNS, notes)
    names = [line.name or TOTAL for line in lines]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise BadInputError(f"{path}: {', '.join(repeated)} stands there twice, so the figures of one would be lost")
    traffic = {
        line.name: _traffic(
            int(line.numbers[REQUESTS]),
            int(line.numbers[FAILED]),
            rps=line.numbers[RPS],
            median_ms=line.numbers[MEDIAN],
            avg_ms=line.numbers[MEAN],
            p95_ms=known.get("95%"),
            p99_ms=known.get("99%"),
            max_ms=line.numbers[MOST],
        )
        for line in lines
        for known in [{**percentiles.get(f"{line.text['Type']} {line.text['Name']}", {}), **line.numbers}]
    }
    return traffic if None in traffic else {}


def _read_history(path: Path, notes: list[str]) -> list[_Tick]:
    """Return a tick for each line of all together, with the lines of single endpoints that stand before it."""
    ticks = []
    lines: dict[str | None, Line] = {}
    for line in _read_lines(path, ("Type", "Name"), _HISTORY_COLUMNS, notes, (_USERS,)):
        lines[line.name] = line
        if line.name is None:
            users = int(line.numbers[_USERS]) if _USERS in line.numbers else None
            ticks.append(_Tick(line.numbers["Timestamp"], users, lines))
            lines = {}
    return ticks


def _since_reset(ticks: list[_Tick], notes: list[str]) -> list[_Tick]:
    """Return the ticks since Locust last reset its counts: --reset-stats, or a second test from its web page."""
    falls = [at for at, (a, b) in enumerate(pairwise(ticks), start=1) if b.count(_REQUESTS) < a.count(_REQUESTS)]
    if not falls:
        return ticks
    notes.append(f"Locust reset its counts after {falls[-1]} lines of all requests: what was before is left out")
    return ticks[falls[-1] :]


def _read_lines(
    path: Path, texts: Sequence[str], numbers: Sequence[str], notes: list[str], optional: Sequence[str] = ()
) -> list[Line]:
    return read_lines(path, texts, numbers, notes, optional) if path.is_file() else []


def _told_failures(path: Path, notes: list[str]) -> Iterator[str]:
    """Tell the most frequent failures."""
    lines = _read_lines(path, ("Method", "Name", "Error"), ("Occurrences",), notes)
    often = sorted(lines, key=lambda line: -line.numbers["Occurrences"])
    for line in often[:MOST_TOLD]:
        error = " ".join(line.text["Error"].split())[:200]
        times = show_count(line.numbers["Occurrences"])
        yield f"{name_request(line.text['Method'], line.text['Name'])} failed {times} time(s): {error}"
    if len(often) > MOST_TOLD:
        yield f"{len(often) - MOST_TOLD} more kinds of failures are in {path.name}"


def _cell(run: _Run, users: int | None) -> CellFigures:
    most = max((tick.users for tick in run.ticks if tick.users is not None), default=users or 0)
    steady, whole_run = _steady_window(run.ticks), _whole_run_window(run.ticks)
    endpoints = run.stats or (_whole_run(whole_run) if whole_run else {})
    total = endpoints.get(None)
    parts = {name: traffic for name, traffic in endpoints.items() if name is not None}
    reasons = list(_reasons(run, users, most, total, parts))
    return CellFigures(
        target=TARGET,
        users=most,
        repetition=1,
        valid=not reasons,
        reasons=reasons,
        notes=run.notes,
        steady_window_s=steady.length_s if steady else None,
        whole_run_s=whole_run.length_s if whole_run else None,
        steady=_counted(steady, None) if steady else None,
        whole_run=total,
        endpoints=[
            EndpointFigures(
                endpoint=name,
                steady=_counted(steady, name) if steady else _traffic(0, 0),
                whole_run=traffic,
            )
            for name, traffic in parts.items()
        ],
    )


def _reasons(
    run: _Run, users: int | None, most: int, total: Traffic | None, parts: dict[str, Traffic]
) -> Iterator[Reason]:
    """Tell why the run is no measurement of that number of users, or why its files cannot be right."""
    if users is not None and users != most:
        yield Reason(f"{users} users were asked for, but at most {most} came", "users_missing")
    if total is None or not total.requests:
        yield Reason("no request was counted", "few_samples")
        return
    if any(traffic.failures > traffic.requests for traffic in (total, *parts.values())):
        yield Reason("there are more failures than requests", "contradiction")
    elif total.failures == total.requests:
        yield Reason(f"none of {total.requests} requests was answered right", "none_right")
    for what in ("requests", "failures"):
        of_all, of_parts = getattr(total, what), sum(getattr(traffic, what) for traffic in parts.values())
        if parts and of_all != of_parts:
            words = f"the {what} of the endpoints are {of_parts} together, but the line {TOTAL} has {of_all}"
            yield Reason(words, "contradiction")
    if run.stats and run.ticks and run.ticks[-1].count(_REQUESTS) > total.requests:
        yield Reason(
            f"{run.name}{HISTORY} ends with {run.ticks[-1].count(_REQUESTS)} requests, {run.name}{STATS} has only "
            f"{total.requests}: they are not of the same run",
            "contradiction",
        )


def _steady_window(ticks: list[_Tick]) -> _Window | None:
    """Return the time during which all users were there, if it is longer than a single line."""
    most = max((tick.users for tick in ticks if tick.users is not None), default=0)
    full = [tick for tick in ticks if tick.users == most > 0]
    return _Window(full[0], full[-1]) if full and full[-1].unix_s > full[0].unix_s else None


def _whole_run_window(ticks: list[_Tick]) -> _Window | None:
    """Return the time from the last line before the first user until the last request was counted."""
    busy = [at for at, tick in enumerate(ticks) if tick.users or tick.count(_REQUESTS)]
    if not busy:
        return None
    last = next(tick for tick in ticks if tick.count(_REQUESTS) == ticks[-1].count(_REQUESTS))
    window = _Window(ticks[max(0, busy[0] - 1)], last)
    return window if window.length_s > 0 else None


def _whole_run(window: _Window) -> dict[str | None, Traffic]:
    """Return by endpoint what the history says of the whole run at its end."""
    return {
        name: _traffic(
            int(line.numbers[_REQUESTS]),
            int(line.numbers[_FAILURES]),
            rps=line.numbers[_REQUESTS] / window.length_s,
            **dict(zip(("median_ms", "avg_ms", "max_ms"), (line.numbers[name] for name in _TOTALS), strict=True)),
        )
        for name, line in window.last.lines.items()
    }


def _counted(window: _Window, endpoint: str | None) -> Traffic:
    """Return what was counted between the two ends of a window."""
    requests, failures = (
        window.last.count(column, endpoint) - window.first.count(column, endpoint) for column in (_REQUESTS, _FAILURES)
    )
    return _traffic(requests, failures, rps=requests / window.length_s)


def _traffic(requests: int, failures: int, **known: float | None) -> Traffic:
    """Return figures; unknown ones, and those of too few requests, are None.

    Where even the largest latency is 0, Locust had no response time at all.
    """
    if known.get("max_ms") == 0:
        known = {"rps": known.get("rps")}
    rounded = {
        metric: round(value, 4)
        for metric, value in known.items()
        if value is not None and requests >= LEAST_SAMPLES.get(PERCENTILES.get(metric, 0), 1)
    }
    return Traffic(
        requests=requests,
        failures=failures,
        failures_percent=round(100 * failures / requests, 4) if requests else None,
        failures_interval_percent=failures_interval_percent(failures, requests),
        **rounded,
    )
