"""One, two and four load generators with a fifth of a core each: the same figures, and together more than one can send.

At a light load all must measure a fixed delay alike: none of their differences may leave its interval, nor may
medians differ by more than 5 %. A server that serves a known number of requests a second must be measured at that rate
by four, while one generator, which cannot send so many, must have an INVALID cell, and two must send more than one.
Needs root: the fifth of a core is the quota of a control group.

Exit codes: 0 all is as it should be, 1 something is not, 2 no conclusion: the kit was disturbed.
"""

import argparse
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from loadtest.errors import BadInputError
from loadtest.figures.figures import CellFigures, ReasonCode
from loadtest.verdict.run_comparison import compare_runs
from tests.benchmarks.proof import QUIET, Proof
from tests.benchmarks.report import Report, begin, command_line, progress, run
from tests.benchmarks.service import scratch_folder
from tests.control_groups import limited_cores
from tests.kit import Ended, known_target, run_kit, workload, write_plan
from tests.ports import free_port

NUMBERS = (1, 2, 4)
DELAY_MS = 20.0
LIGHT_RPS = 40
TRUE_RPS = 900
USERS = 24
GENERATOR_MODULES = {"loadtest.load.recorder", "loadtest.load.worker"}
POLL_S = 0.05
MOST_OFF_PERCENT = 5.0
"""Between medians of the fixed delay; an interval that holds 0 may be wide."""
LEAST_GAIN = 1.2
"""Of two generators over one."""
BY_THE_GENERATOR: set[ReasonCode] = {"generator_late", "generator_cpu", "generator_held_back"}


def main() -> int:
    parser = command_line("generators", __doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of each cell (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=15, help="of each load (default: %(default)s)")
    parser.add_argument("--share", type=float, default=0.2, help="cores for each generator (default: %(default)s)")
    other = QUIET["most_other_cpu_percent"]
    meaning = "of one core that other work may use until a cell is INVALID (default: %(default)s)"
    parser.add_argument("--most-other-percent", type=float, default=other, help=meaning)
    arguments = parser.parse_args()
    report = begin("generators", arguments)
    proof = Proof(report)
    with scratch_folder() as folder, limited_generators(arguments.share):
        show_light_load(report, proof, folder, arguments)
        show_heavy_load(report, proof, folder, arguments)
    return proof.conclude(arguments.json)


def show_light_load(report: Report, proof: Proof, folder: Path, arguments: argparse.Namespace) -> None:
    """A load that one generator can make has the same figures whoever makes it."""
    ended = {}
    for number in NUMBERS:
        progress(f"{LIGHT_RPS} requests/s from {number} generator(s)")
        target = f"--delay-ms {DELAY_MS:g}"
        work = workload("fixed", rate_rps=LIGHT_RPS)
        ended[number] = measure(folder / f"light-{number}", target, number, arguments, workload=work)
        for cell in ended[number].figures().cells:
            append(report, f"{LIGHT_RPS} requests/s", number, cell)
    for number in NUMBERS[1:]:
        try:
            (level,) = compare_runs(ended[1].folder, ended[number].folder).levels
        except BadInputError as exc:  # of the valid cells, too few
            reasons = reasons_of(ended[1]) + reasons_of(ended[number])
            proof.hold(f"{number} generators: {exc}", held=False, reasons=reasons)
            continue
        for difference in level.comparison.differences:
            interval = difference.interval_percent
            if interval is None or difference.difference_percent is None:
                continue
            told = f"{number} generators, {difference.metric}: {difference.difference_percent:+.1f} % from one's"
            report.notes.append(f"{told} ({interval[0]:+.1f} to {interval[1]:+.1f})")
            proof.hold(told, interval[0] <= 0 <= interval[1])
            if difference.metric.endswith(".median_ms"):
                allowed = f"{told}, ± {MOST_OFF_PERCENT:g} % are allowed"
                proof.hold(allowed, abs(difference.difference_percent) <= MOST_OFF_PERCENT)


def show_heavy_load(report: Report, proof: Proof, folder: Path, arguments: argparse.Namespace) -> None:
    """A load that one cannot make is measured at the server's true rate by four, and one's cell is INVALID.

    Two get further than one, by a fifth at least.
    """
    most_rps = dict.fromkeys(NUMBERS, 0.0)
    for number in NUMBERS:
        progress(f"a server of {TRUE_RPS} requests/s, saturated by {number} generator(s)")
        work = workload("serial", wait_s=[0, 0])
        target = f"--serial-rate {TRUE_RPS}"
        ended = measure(folder / f"heavy-{number}", target, number, arguments, workload=work)
        for cell in ended.figures().cells:
            append(report, f"server of {TRUE_RPS} requests/s", number, cell)
            rps = (cell.steady.rps if cell.steady else None) or 0.0
            most_rps[number] = max(most_rps[number], rps)
            if number == max(NUMBERS):
                proof.claim(
                    f"{number} generators: rate", "requests/s", (TRUE_RPS, 0.01 * TRUE_RPS), rps, reasons_of(ended)
                )
            if number == 1:
                codes = {reason.code for reason in cell.reasons}
                told = f"1 generator: {rps:.0f} requests/s, {'; '.join(cell.reasons) or 'VALID'}"
                report.notes.append(told)
                proof.hold(told, rps < 0.95 * TRUE_RPS and bool(codes & BY_THE_GENERATOR))
            if number == 2:
                told = f"2 generators: {rps:.0f} requests/s, one {most_rps[1]:.0f}"
                proof.hold(told, LEAST_GAIN * most_rps[1] <= rps < 0.99 * TRUE_RPS)


def measure(folder: Path, options: str, number: int, arguments: argparse.Namespace, **keys: object) -> Ended:
    """Run a plan with so many generators that lets nothing disturb it."""
    folder.mkdir()
    plan = write_plan(
        folder / "plan.yaml",
        [known_target("known", free_port(), options)],
        users=[USERS],
        duration_s=arguments.seconds,
        settle_s=2,
        repetitions=arguments.rounds,
        warmup={"duration_s": 0},
        generators=number,
        **{**QUIET, "most_other_cpu_percent": arguments.most_other_percent, **keys},
    )
    return run_kit(plan, folder / "run")


def append(report: Report, table: str, number: int, cell: CellFigures) -> None:
    """Add a cell to a table."""
    steady = cell.steady
    if steady is None:
        return
    row = f"{number} generator(s)"
    report.append(table, row, "valid", "cells", cell.valid)
    for column, unit, value in (
        ("rate", "requests/s", steady.rps),
        ("p50", "ms", steady.median_ms),
        ("p95", "ms", steady.p95_ms),
        ("late", "%", cell.generator_late_percent),
    ):
        if value is not None:
            report.append(table, row, column, unit, value)


def reasons_of(ended: Ended) -> list[str]:
    """Return why cells of a run are INVALID."""
    return [reason for cell in ended.figures().cells for reason in cell.reasons]


@contextmanager
def limited_generators(share: float) -> Iterator[None]:
    """Give each load generator below this process a group of its own with so many cores, as soon as it is there."""
    with ExitStack() as stack:
        groups = [stack.enter_context(limited_cores(share, str(number))) for number in range(max(NUMBERS))]
        ended = threading.Event()
        thread = threading.Thread(target=_limit, args=(groups, ended))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _limit(groups: list[Path], ended: threading.Event) -> None:
    known: set[int] = set()
    while not ended.wait(POLL_S):
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error, OSError):
                words = process.cmdline()
                module = GENERATOR_MODULES & {*words}
                if module and process.pid not in known:
                    number = words[words.index(module.pop()) + 1]
                    group = groups[int(number) - 1 if number.isdecimal() else 0]
                    (group / "cgroup.procs").write_text(str(process.pid))
                    known.add(process.pid)


if __name__ == "__main__":
    run(main)
