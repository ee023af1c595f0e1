"""The tables of `faults` and `soak`, as Markdown and on the terminal."""

from collections.abc import Iterator, Sequence

from loadtest.faults.figures import AllFaults, EndpointFigures, FaultFigures
from loadtest.faults.recovery import CALM_WINDOWS, HUNG_MS, SLOW_EXTRA_MS, SLOW_FACTOR, SLOW_SHARE, WINDOW_S
from loadtest.faults.soak import MEAN_S, YOUNG_S, DriftFigures, MemoryFigures, SoakFigures
from loadtest.page.markdown import make_table
from loadtest.page.terminal import columns_of, print_table
from loadtest.rows.run_folder import Environment

_DEFINITIONS = f"""Definitions:

- A request counts for a fault if it was in progress when the fault began, or was sent later, until the load ended or
  the next fault began. It failed if its answer was not a 200 with the expected JSON, or if no answer arrived within the
  client's timeout of 60 s.
- The load generator does not retry a POST. Its HTTP library retries a GET, at most twice, if the connection closes
  before the first byte of the answer, which HTTP permits (RFC 9110, 9.2.2) and browsers do. Such a lookup is one
  request: its latency includes the retries, and it failed if the last retry failed.
- The quiet period begins when the load is complete and ends with the fault. A latency is normal up to
  {SLOW_FACTOR:g} times the p95 of the quiet period plus {SLOW_EXTRA_MS:g} ms.
- The service has recovered when the first of {CALM_WINDOWS} consecutive windows begins (each {WINDOW_S} s long,
  one every second) in which no request failed or exceeded the normal latency by more than {HUNG_MS / 1000:g} s,
  and at most {SLOW_SHARE:.0%} of the requests of each endpoint exceeded it, or one of them, if that is more. Earlier
  requests that failed or exceeded it must have ended, and each role in `steady_roles` must have as many processes as
  before the fault. 0 s: the first of these windows begins with the fault.
"""

_MEMORY = f"""Memory is the resident memory of all processes of a role, MB = 10⁶ bytes. The first and the last are
single readings, after the warm-up and at the end of the load: a process that a fault has just ended is not in them. The
slope is the median of the slopes between all pairs of means of {MEAN_S:g} s in the same life of the processes
(Sen 1968; lives take the place of the seasons in Hirsch, Slack & Smith 1982), with its 95 % interval, which assumes
independent means. Least squares is the ordinary least squares slope within lives ± one standard error. A life ends when
a process of the role starts or ends; its first {YOUNG_S:g} s and the warm-up are excluded. The table of requests
compares the first with the last quarter of the soak, faults included.
"""


def faults_as_markdown(figures: AllFaults, command: str) -> str:
    """Return faults.md."""
    headings = _headings(figures)
    lines = [
        f"# {figures.title}",
        "",
        f"`{command}`, {figures.users} users, {_machine(figures.environment)}.",
        "",
        *([_tell_differing(figures.differing), ""] if figures.differing else []),
        make_table(headings, (_cells(fault, figures) for fault in figures.faults), range(2, len(headings))),
        "",
        _DEFINITIONS,
        "Observations:",
        "",
        *(f"- **{fault.title}** ({fault.name}, {fault.group}): {_story(fault)}" for fault in figures.faults),
    ]
    return "\n".join(lines) + "\n"


def print_faults(figures: AllFaults) -> None:
    """Print one row for each fault, and the limits that are missed."""
    styles = ["red" if fault.missed or fault.status == "failed" else "" for fault in figures.faults]
    cells = [_cells(fault, figures) for fault in figures.faults]
    print_table(figures.title, columns_of(_headings(figures), words=2), cells, styles)
    for fault in figures.faults:
        for miss in fault.missed:
            print(f"MISSED {fault.name}: {miss}")
        if fault.missed and (errors := _errors(fault)):
            print(f"FAILED REQUESTS {fault.name}, from the fault on: {errors}")
        if fault.reason:
            print(f"{fault.status.upper()} {fault.name}: {fault.reason}")


def soak_as_markdown(figures: SoakFigures, command: str) -> str:
    """Return soak.md."""
    lines = [
        f"# {figures.title}",
        "",
        f"`{command}`: {figures.minutes:g} minutes, {figures.users} users, {_machine(figures.environment)}.",
        "",
    ]
    if figures.reason:
        lines += [f"The soak failed: {figures.reason}", ""]
    for title, headings, rows in _soak_tables(figures):
        lines += [f"## {title.capitalize()}", "", make_table(headings, rows, range(1, len(headings))), ""]
    return "\n".join([*lines, _MEMORY, _DEFINITIONS])


def print_soak(figures: SoakFigures) -> None:
    """Print requests, memory and faults, and the limits that are missed."""
    for title, headings, rows in _soak_tables(figures):
        above = f"{figures.title}: {title}" if headings is _DRIFT_HEADINGS else title
        print_table(above, columns_of(headings, words=1), rows)
    for miss in figures.missed:
        print(f"MISSED {miss}")
    if figures.reason:
        print(f"FAILED {figures.reason}")


_DRIFT_HEADINGS = (
    "endpoint", "sent", "failed", "median, first quarter", "last", "p95, first quarter", "last", "longest",
)  # fmt: skip
_MEMORY_HEADINGS = ("role", "first MB", "last MB", "MB/hour", "95 % interval", "least squares", "lives")
_SOAK_FAULT_HEADINGS = ("fault", "sent", "failed", "longest", "recovered after")


def _soak_tables(figures: SoakFigures) -> Iterator[tuple[str, Sequence[str], list[list[str]]]]:
    """Yield the subject of each table, its headings and its rows."""
    yield "requests", _DRIFT_HEADINGS, [_drift_cells(found) for found in figures.endpoints]
    yield "memory", _MEMORY_HEADINGS, [_memory_cells(row) for row in figures.memory]
    yield "faults", _SOAK_FAULT_HEADINGS, [_soak_fault_cells(fault) for fault in figures.faults]


def _headings(figures: AllFaults) -> list[str]:
    endpoints = next((fault.endpoints for fault in figures.faults if fault.endpoints), [])
    failed = [f"failed {found.endpoint}s" for found in endpoints]
    longest = [f"longest {found.endpoint}" for found in endpoints]
    return ["fault", "setting", "requests", *failed, *longest, "recovered after", "within limits"]


def _cells(fault: FaultFigures, figures: AllFaults) -> list[str]:
    if fault.status != "finished":
        blank = [""] * (len(_headings(figures)) - 4)
        return [fault.title, fault.group, "", *blank, fault.status]
    return [
        fault.title,
        fault.group,
        str(sum(found.requests for found in fault.endpoints)),
        *[_failed(found) for found in fault.endpoints],
        *[_ms(found.longest_ms) for found in fault.endpoints],
        _recovered(fault),
        "no" if fault.missed else "yes",
    ]


def _failed(found: EndpointFigures) -> str:
    text = f"{found.failed} of {found.requests}"
    return f"{text} ({found.failed_under_way} in progress)" if found.failed_under_way else text


def _recovered(fault: FaultFigures) -> str:
    return f"{fault.recovered_after_s:.1f} s" if fault.recovered_after_s is not None else f"> {fault.watched_s:.0f} s"


def _story(fault: FaultFigures) -> str:
    if fault.status != "finished":
        return f"{fault.status}{': ' + fault.reason if fault.reason else ''}"
    errors = _errors(fault)
    quiet = ", ".join(f"{found.endpoint} {_ms(found.quiet_p95_ms)}" for found in fault.endpoints)
    parts = [*fault.struck, f"p95 in the quiet period: {quiet}", *fault.seen, *([errors] if errors else [])]
    return "; ".join([*parts, *[f"MISSED: {miss}" for miss in fault.missed]])


def _errors(fault: FaultFigures) -> str:
    lines = [
        f"{found.endpoint}: {count} × {error} (longest {_ms(found.longest_failed_ms)})"
        for found in fault.endpoints
        for error, count in found.errors.items()
    ]
    return ", ".join(lines)


def _drift_cells(found: DriftFigures) -> list[str]:
    times_ms = (found.first_median_ms, found.last_median_ms, found.first_p95_ms, found.last_p95_ms, found.longest_ms)
    return [found.endpoint, str(found.requests), str(found.failed), *map(_ms, times_ms)]


def _memory_cells(row: MemoryFigures) -> list[str]:
    slope = ["too few points", "", ""]
    if row.slope_mb_per_h is not None:
        slope = [
            f"{row.slope_mb_per_h:+.1f}",
            f"{row.low_mb_per_h:+.1f} to {row.high_mb_per_h:+.1f}",
            f"{row.least_squares_mb_per_h:+.1f} ± {row.least_squares_error_mb_per_h:.1f}",
        ]
    return [row.role, f"{row.first_mb:.0f}", f"{row.last_mb:.0f}", *slope, str(row.lives)]


def _soak_fault_cells(fault: FaultFigures) -> list[str]:
    if not fault.endpoints:
        return [fault.title, "", "", "", fault.reason or ""]
    longest = max((found.longest_ms or 0 for found in fault.endpoints), default=None)
    return [
        fault.title,
        str(sum(found.requests for found in fault.endpoints)),
        str(sum(found.failed for found in fault.endpoints)),
        _ms(longest),
        _recovered(fault),
    ]


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} ms" if value < 10 else f"{value:,.0f} ms"  # noqa: PLR2004


def _tell_differing(names: list[str]) -> str:
    changed = ", ".join(names)
    return f"**The run was resumed where this had changed:** {changed}. The line above shows the first start."


def _machine(environment: Environment) -> str:
    return f"{environment.cores} cores of {environment.cpu_model}, {environment.os}, Python {environment.python}"
