"""What too many engine threads do: two replicas with all cores each, beside the shipped two replicas that share them.

The stress kit measures both configs with so many users that the classifier has no rest, and says what limits each.
--json gives the numbers; the kit's whole report stays in the folder that --out names.
"""

import argparse
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from loadtest.figures.figures import CellFigures, Figures, RoleFigures
from tests.benchmarks.report import ROOT, Report, begin, command_line, finish, progress, run
from tests.benchmarks.service import CONFIGS, scratch_folder, write_config

SHARED, OVERSUBSCRIBED = "two_replicas", "oversubscribed"
CONFIG = CONFIGS / "two_replicas.yaml"
PLAN = CONFIGS / "stress" / "quick.yaml"
TRAFFIC = (("rps", "requests/s"), ("median_ms", "ms"), ("p95_ms", "ms"))
THREADS = (("cpu_percent", "%"), ("busy_threads", "threads"), ("runqueue_wait_percent", "%"))


def main() -> int:
    parser = command_line("oversubscribed", __doc__)
    parser.add_argument("--users", type=int, default=250, help="(default: %(default)s)")
    parser.add_argument("--duration-s", type=int, default=30, help="of a cell, whole seconds (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=1, help="of each config (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="keep the run folder here (default: a temporary one)")
    arguments = parser.parse_args()
    report = begin("oversubscribed", arguments)
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder())
        plan = folder / "plan.yaml"
        plan.write_text(yaml.safe_dump(make_plan(folder, arguments), sort_keys=False), encoding="utf-8")
        for cell in measure(plan, arguments.out or folder / "run").cells:
            append_cell(report, cell)
            tell_bottleneck(cell)
    report.notes.append("CPU and waiting for a core are of the role classifier, in percent of one core")
    return finish(report, arguments.json)


def make_plan(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the shipped quick plan with the two configs as its targets."""
    plan: dict[str, Any] = yaml.safe_load(PLAN.read_text(encoding="utf-8"))
    shared = next(target for target in plan["targets"] if target["name"] == SHARED)
    shared["environment"] = {"SERVE_APP_DATA_DIR": str(folder)}
    config = write_config(folder, oversubscribe(CONFIG))
    changed = {
        "name": OVERSUBSCRIBED,
        "label": f"2 replicas × {os.cpu_count()} threads",
        "start": f"{{python}} -m serve_app {config}",
        "files": [str(config)],
    }
    plan.pop("baseline")  # it stands beside the shipped plan
    return {
        **plan,
        "title": "Two replicas that share the cores, and two with all cores each",
        "targets": [shared, {**shared, **changed}],
        "users": [arguments.users],
        "duration_s": arguments.duration_s,
        "repetitions": arguments.repetitions,
        "limits": [],
    }


def oversubscribe(shipped: Path) -> dict[str, Any]:
    """Return a config in which each classifier replica has an engine thread for every core of this machine."""
    config: dict[str, Any] = yaml.safe_load(shipped.read_text(encoding="utf-8"))
    model = next(application for application in config["applications"] if application["name"] == "model")
    model["args"]["threads"] = max(2, os.cpu_count() or 1)
    return config


def measure(plan: Path, out: Path) -> Figures:
    """Run the kit and return its figures. Raises RuntimeError if it makes none."""
    progress("the kit measures both configs")
    command = [sys.executable, "-m", "loadtest", "run", str(plan), "--out", str(out)]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    figures = out / "report.json"
    if not figures.is_file():
        raise RuntimeError(f"the kit ended with code {code} and wrote no report")
    return Figures.model_validate_json(figures.read_text(encoding="utf-8"))


def append_cell(report: Report, cell: CellFigures) -> None:
    """Add what a cell measured; a cell that is not valid is a fault."""
    for metric, unit in TRAFFIC:
        if (value := getattr(cell.steady, metric, None)) is not None:
            report.append("All requests", cell.target, metric, unit, value)
    classifier: RoleFigures | None = next((role for role in cell.roles if role.role == "classifier"), None)
    for metric, unit in THREADS:
        if (value := getattr(classifier, metric, None)) is not None:
            report.append("Classifier", cell.target, metric, unit, value)
    report.faults += [f"{cell.target}: {reason}" for reason in cell.reasons]


def tell_bottleneck(cell: CellFigures) -> None:
    """Print what limits a cell and the evidence."""
    print(f"\n{cell.target}, repetition {cell.repetition}:")
    if cell.bottleneck is None:
        print("nothing was answered")
        return
    print(cell.bottleneck.sentence)
    for sentence in cell.bottleneck.evidence:
        print(f"- {sentence}")


if __name__ == "__main__":
    run(main)
