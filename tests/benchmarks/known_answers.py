"""The kit's figures of targets whose every time and rate is known (tests/known_target.py), beside the true ones.

Fixed delays, a saturated server, an open loop with and without a stall, a search for a capacity, an overload: two
minutes. Exit codes: 0 all is as it should be, 1 something is not, 2 no conclusion: the kit was disturbed.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest.overload.figures import OverloadFigures, compute_overload
from loadtest.overload.question import OverloadFolder
from tests.benchmarks.proof import QUIET, Proof
from tests.benchmarks.report import begin, command_line, progress, run
from tests.benchmarks.service import scratch_folder
from tests.kit import Ended, known_target, run_command, run_kit, workload, write_plan
from tests.ports import free_port

DELAYS_MS = {"quick": 20.0, "slow": 100.0}
SERIAL_RPS = 50
SERIAL_USERS = 40
OPEN_RPS = 100
# Users who do not think wait for one another: n of them for n ÷ 50 s. So 3 wait for 60 ms, and 4 for 80 ms.
OBJECTIVE, CAPACITY_USERS = "serial.median_ms<=70", 3
OVERLOADED_RPS, TIMES = 40, 5
NO_THINKING = {"wait_s": [0, 0]}


def main() -> int:
    arguments = command_line("known_answers", __doc__).parse_args()
    report = begin("known_answers", arguments)
    proof = Proof(report)
    with scratch_folder() as folder:
        for show in (show_delays, show_saturation, show_open_loop, show_capacity, show_overload):
            progress(str(show.__doc__))
            show(proof, folder / show.__name__)
    return proof.conclude(arguments.json)


def show_delays(proof: Proof, folder: Path) -> None:
    """A fixed delay is measured to 2 ms and 2 %, and the load lasts as long as the plan says."""
    targets = [known_target(name, free_port(), f"--delay-ms {delay_ms}") for name, delay_ms in DELAYS_MS.items()]
    ended = measure(folder, targets, duration_s=10)
    for target, delay_ms in DELAYS_MS.items():
        cell, moments = ended.cell(target), ended.record(target).moments
        assert cell.steady
        assert cell.whole_run
        assert moments
        off_ms = delay_ms * 0.02 + 2
        proof.claim(f"{target}: median, steady", "ms", (delay_ms, off_ms), cell.steady.median_ms, cell.reasons)
        proof.claim(f"{target}: median, whole run", "ms", (delay_ms, off_ms), cell.whole_run.median_ms, cell.reasons)
        lasted_s = moments.stopping_unix_s - moments.started_unix_s
        proof.claim(f"{target}: the load lasts", "s", (10, 0.05), lasted_s, cell.reasons)


def show_saturation(proof: Proof, folder: Path) -> None:
    """A saturated server is measured at its rate, and its users' latency follows Little's law."""
    target = known_target("saturated", free_port(), f"--serial-rate {SERIAL_RPS}")
    work = workload("serial", **NO_THINKING)
    cell = measure(folder, [target], duration_s=10, users=[SERIAL_USERS], workload=work).cell("saturated")
    latency_ms, work_ms = 1000 * SERIAL_USERS / SERIAL_RPS, 1000 / SERIAL_RPS
    stages = {stage.name: stage.avg_ms for endpoint in cell.endpoints for stage in endpoint.stages}
    assert cell.steady
    proof.claim("saturated: rate", "requests/s", (SERIAL_RPS, 0.01 * SERIAL_RPS), cell.steady.rps, cell.reasons)
    proof.claim("saturated: median", "ms", (latency_ms, 0.02 * latency_ms), cell.steady.median_ms, cell.reasons)
    proof.claim(
        "saturated: in the queue", "ms", (latency_ms - work_ms, 0.05 * latency_ms), stages.get("queue"), cell.reasons
    )


def show_open_loop(proof: Proof, folder: Path) -> None:
    """In an open loop both latencies are the same, but a stall is in that from the scheduled time alone."""
    able = f"--serial-rate {OPEN_RPS / 0.8:g}"
    options = ("--rate", str(OPEN_RPS), "--arrivals", "constant", "--in-flight")
    target = known_target("steady", free_port(), able)
    steady = measure(folder / "steady", [target], *options, "50", workload=workload("serial", **NO_THINKING))
    cell = steady.cell("steady")
    assert cell.scheduled
    assert cell.steady
    proof.claim("open loop: rate", "requests/s", (OPEN_RPS, 0.01 * OPEN_RPS), cell.scheduled.rps, cell.reasons)
    proof.claim("open loop: scheduled", "ms", (cell.steady.median_ms or 0, 5), cell.scheduled.median_ms, cell.reasons)
    target = known_target("stalling", free_port(), f"{able} --stall-at 60 --stall-s 0.4")
    stalling = measure(folder / "stalling", [target], *options, "5", workload=workload("serial", **NO_THINKING))
    cell = stalling.cell("stalling")
    (endpoint,) = cell.endpoints
    assert endpoint.scheduled
    scheduled_ms, sent_ms = endpoint.scheduled.p95_ms or 0, endpoint.steady.p95_ms or 0
    # Only five requests are under way in the stall; forty more are due in it, and wait to be sent.
    told = f"a stall of 400 ms: p95 from the scheduled time {scheduled_ms:.0f} ms, from the sending {sent_ms:.0f} ms"
    proof.hold(told, scheduled_ms > max(200, 3 * sent_ms), cell.reasons)


def show_capacity(proof: Proof, folder: Path) -> None:
    """The search ends at the largest number of users that a serial server holds."""
    folder.mkdir(parents=True)
    target = known_target("serial", free_port(), f"--serial-rate {SERIAL_RPS}")
    work = workload("serial", **NO_THINKING)
    plan = write_plan(
        folder / "plan.yaml", [target], users=[2], settle_s=0.2, warmup={"duration_s": 0}, workload=work, **QUIET
    )
    out = folder / "search"
    command = ["capacity", plan, "--slo", OBJECTIVE, "--out", out, "--window", "2", "--confirm", "5"]
    ended = run_command(command, out, folder)
    found = json.loads((out / "capacity.json").read_text())["result"]
    assert found, ended.output
    reasons = [found["because"]] if found["status"] == "stopped" else []
    proof.claim("capacity", "users", (CAPACITY_USERS, 0), found["capacity"], reasons)
    proof.claim("the fewest that are too many", "users", (CAPACITY_USERS + 1, 0), found["smallest_failed"], reasons)


def show_overload(proof: Proof, folder: Path) -> None:
    """A bounded queue keeps its goodput and refuses the rest; one without end does not recover."""
    bounded, endless = (overload(folder / name, options) for name, options in OVERLOADS.items())
    (level,) = bounded.levels
    refused = (TIMES - 1) * OVERLOADED_RPS * level.window_s
    proof.claim("overload: capacity", "requests/s", (OVERLOADED_RPS, 0.1 * OVERLOADED_RPS), bounded.capacity_rps)
    proof.claim("overload: goodput", "requests/s", (OVERLOADED_RPS, 0.15 * OVERLOADED_RPS), level.goodput_rps)
    proof.claim("overload: refused", "requests", (refused, 0.25 * refused), level.refused)
    proof.hold(f"recovery of the bounded queue: {level.recovered_after_s} s", level.recovered_after_s is not None)
    (level,) = endless.levels
    told = f"endless queue: {level.refused} refused, as quick as before after {level.recovered_after_s} s"
    recovered_s = level.recovered_after_s
    proof.hold(told, level.refused == 0 and (recovered_s is None or recovered_s > 5))


OVERLOADS = {"bounded": "--most-wait-s 0.5 --refusal-ms 300", "endless": ""}


def overload(folder: Path, options: str) -> OverloadFigures:
    """Overload a serial target and return the figures."""
    folder.mkdir(parents=True)
    target = known_target("serial", free_port(), f"--serial-rate {OVERLOADED_RPS} --delay-ms 5 {options}")
    plan = write_plan(folder / "plan.yaml", [target], workload=workload("serial", "fixed", **NO_THINKING))
    out = folder / "out"
    brief = ("--times", TIMES, "--seconds", 4, "--idle-s", 2, "--tail-s", 4, "--saturating-s", 8)
    run_command(["overload", plan, "--out", out, "--heavy", "serial", "--light", "fixed", *brief], out, folder)
    return compute_overload(OverloadFolder(out))


def measure(folder: Path, targets: Sequence[dict[str, Any]], *options: str, **keys: object) -> Ended:
    """Run a plan that lets nothing disturb it."""
    folder.mkdir(parents=True)
    return run_kit(write_plan(folder / "plan.yaml", [*targets], **{**QUIET, **keys}), folder / "run", *options)


if __name__ == "__main__":
    run(main)
