"""The kit names the bottleneck that a target was built with (tests/bottleneck_target.py), each measured live.

Exit codes: 0 all are named, 1 one is not, 2 no conclusion: where another verdict was given, the kit was disturbed.
"""

import argparse
from pathlib import Path

from loadtest.figures.figures import CellFigures
from tests.benchmarks.proof import QUIET, Proof
from tests.benchmarks.report import begin, command_line, progress, run
from tests.benchmarks.service import scratch_folder
from tests.kit import known_target, run_kit, workload, write_plan
from tests.ports import free_port

EXPECTED = {
    "cpu": ("role_cpu", "worker"),
    "lock": ("serial_section", None),
    "proxy": ("role_cpu", "proxy"),
    "database": ("stage", "db"),
    "threads": ("thread_oversubscription", "worker"),
}
"""Limit, and the role or stage that it is in, of each kind."""

USERS = 20
# So short that saturating 50 requests/s takes all 20 users, so long that one second is not full of requests.
WAIT_S = [0.05, 0.15]


def main() -> int:
    parser = command_line("bottlenecks", __doc__)
    parser.add_argument("--seconds", type=int, default=5, help="of each load (default: %(default)s)")
    arguments = parser.parse_args()
    report = begin("bottlenecks", arguments)
    proof = Proof(report)
    with scratch_folder() as folder:
        ended = run_kit(plan_in(folder, arguments), folder / "run")
        cells = {kind: ended.cell(kind) for kind in EXPECTED}
    for kind, cell in cells.items():
        judge(proof, cell, EXPECTED[kind])
    if all(cell.bottleneck for cell in cells.values()):
        blind, seeing = (cells[kind].bottleneck for kind in ("cpu", "lock"))
        assert blind
        assert seeing
        unexplained = (blind.unexplained_percent or 0, seeing.unexplained_percent or 0)
        told = f"stages leave {unexplained[0]:.0f} % of cpu's and {unexplained[1]:.0f} % of lock's latency unexplained"
        proof.hold(told, unexplained[0] > 50 > unexplained[1], [*cells["cpu"].reasons, *cells["lock"].reasons])
    return proof.conclude(arguments.json)


def plan_in(folder: Path, arguments: argparse.Namespace) -> Path:
    """Write the plan that measures a target of each kind."""
    start = "{python} -m tests.bottleneck_target"
    ports = {kind: (free_port(), free_port()) for kind in EXPECTED}
    targets = [
        known_target(kind, port, start=f"{start} {kind} --port {port} --behind {behind}")
        for kind, (port, behind) in ports.items()
    ]
    return write_plan(
        folder / "plan.yaml",
        targets,
        users=[USERS],
        duration_s=arguments.seconds,
        warmup={"duration_s": 0},
        workload=workload("fixed", wait_s=WAIT_S),
        roles=[{"name": name, "command": f"--role {name}"} for name in ("worker", "proxy", "database")],
        **QUIET,
    )


def judge(proof: Proof, cell: CellFigures, expected: tuple[str, str | None]) -> None:
    """Print what was found to limit a cell, and claim that it is what was expected."""
    found = cell.bottleneck
    progress(f"{cell.target}: {found.sentence if found else 'nothing was measured'}")
    for line in found.evidence if found else cell.reasons:
        progress(f"  {line}")
    held = bool(found and (found.limit, found.where) == expected)
    proof.hold(f"{cell.target}: {found.sentence if found else 'nothing was measured'}", held, cell.reasons)


if __name__ == "__main__":
    run(main)
