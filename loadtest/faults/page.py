"""The tables of faults and soaks: as Markdown for docs/, and on the terminal."""

from collections.abc import Iterator, Sequence

from loadtest.faults.figures import AllFaults, EndpointFigures, FaultFigures
from loadtest.faults.recovery import CALM_WINDOWS, HUNG_MS, SLOW_EXTRA_MS, SLOW_FACTOR, SLOW_SHARE, WINDOW_S
from loadtest.faults.soak import MEAN_S, YOUNG_S, DriftFigures, MemoryFigures, SoakFigures
from loadtest.page.markdown import make_table
from loadtest.page.terminal import columns_of, print_table
from loadtest.rows.run_folder import Environment

_DEFINITIONS = f"""How it is counted:

- A request is one that a user wanted, in the second in which it was sent. From the fault's moment to the end of its
  load, all count, also those that were under way at that moment. A request has failed when its answer was not 200 with
  the JSON asked for, or when none came within the client's 60 s.
- The load generator never sends a failed POST again. Its HTTP library sends a GET again, at most twice, when the
  connection closes before a byte of the answer has come, which HTTP allows (RFC 9110, 9.2.2) and every browser does;
  such a lookup counts once, with its whole latency, and as failed only if the last try fails.
- Quiet is the stretch between the load's completion and the fault. Usual is a latency up to {SLOW_FACTOR:g} times the
  p95 of the quiet stretch plus {SLOW_EXTRA_MS:g} ms.
- Recovered is the service when the first of {CALM_WINDOWS} windows of {WINDOW_S} s, one a second, begins that are all
  calm: no request failed or took {HUNG_MS / 1000:g} s longer than usual, and of each kind at most {SLOW_SHARE:.0%} took
  longer than usual. It is not recovered before the last disturbed request of earlier has ended, and each of the roles
  in `steady_roles` has as many processes as before the fault. 0 s: nothing was disturbed.
"""


def faults_as_markdown(figures: AllFaults, command: str) -> str:
    """Return faults.md."""
    headings = _headings(figures)
    lines = [
        f"# {figures.title}",
        "",
        f"`{command}`, {figures.users} users, {_machine(figures.environment)}.",
        "",
        make_table(headings, (_cells(fault, figures) for fault in figures.faults), range(2, len(headings))),
        "",
        _DEFINITIONS,
        "What was seen:",
        "",
        *(f"- **{fault.title}** ({fault.name}, {fault.group}): {_story(fault)}" for fault in figures.faults),
    ]
    return "\n".join(lines) + "\n"


def print_faults(figures: AllFaults) -> None:
    """Print one row for each fault, and what does not hold."""
    styles = ["red" if fault.missed or fault.status == "failed" else "" for fault in figures.faults]
    cells = [_cells(fault, figures) for fault in figures.faults]
    print_table(figures.title, columns_of(_headings(figures), words=2), cells, styles)
    for fault in figures.faults:
        for miss in fault.missed:
            print(f"MISSED {fault.name}: {miss}: {_errors(fault)}")
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
    lines += [
        f"Memory is the resident memory of a role's processes together, MB = 10⁶ bytes, as means of {MEAN_S:g} s. The",
        "slope is the median of the slopes between any two of them in the same life of the processes (Sen 1968; lives",
        "in the place of seasons as in Hirsch, Slack & Smith 1982), with its 95 % interval, which takes the means for",
        "independent; beside it ordinary least squares within lives ± one standard error. A life ends when a process",
        f"of the role comes or goes; its first {YOUNG_S:g} s and the warm-up are left out.",
        "Drift compares the requests of the first and the last quarter, faults included.",
        "",
        _DEFINITIONS,
    ]
    return "\n".join(lines)


def print_soak(figures: SoakFigures) -> None:
    """Print requests, memory and faults, and what does not hold."""
    for title, headings, rows in _soak_tables(figures):
        above = f"{figures.title}: {title}" if headings is _DRIFT_HEADINGS else title
        print_table(above, columns_of(headings, words=1), rows)
    for miss in figures.missed:
        print(f"MISSED {miss}")
    if figures.reason:
        print(f"FAILED {figures.reason}")


_DRIFT_HEADINGS = (
    "requests", "sent", "failed", "median, first quarter", "last", "p95, first quarter", "last", "longest",
)  # fmt: skip
_MEMORY_HEADINGS = ("role", "first MB", "last MB", "MB/hour", "95 % interval", "least squares", "lives")
_SOAK_FAULT_HEADINGS = ("fault", "sent", "failed", "longest", "recovered after")


def _soak_tables(figures: SoakFigures) -> Iterator[tuple[str, Sequence[str], list[list[str]]]]:
    """Yield what each table is of, its headings and its rows."""
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
    return f"{text} ({found.failed_under_way} under way)" if found.failed_under_way else text


def _recovered(fault: FaultFigures) -> str:
    return f"{fault.recovered_after_s:.1f} s" if fault.recovered_after_s is not None else f"> {fault.watched_s:.0f} s"


def _story(fault: FaultFigures) -> str:
    if fault.status != "finished":
        return f"{fault.status}{': ' + fault.reason if fault.reason else ''}"
    errors = _errors(fault)
    quiet = ", ".join(f"{found.endpoint} {_ms(found.quiet_p95_ms)}" for found in fault.endpoints)
    parts = [*fault.struck, f"p95 in the quiet stretch: {quiet}", *fault.seen, *([errors] if errors else [])]
    return "; ".join([*parts, *[f"MISSED: {miss}" for miss in fault.missed]])


def _errors(fault: FaultFigures) -> str:
    lines = [
        f"{found.endpoint}: {count} × {error} (at most after {_ms(found.longest_failed_ms)})"
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


def _machine(environment: Environment) -> str:
    return f"{environment.cores} cores of {environment.cpu_model}, {environment.os}, Python {environment.python}"
