"""What is recorded of each kind of folder, and which commands of the kit make its reports from the raw data.

A recorded folder holds what the kit measured, what it made from that, and in `printed/` the standard output and the
exit code of each command. Everything is relative to the folder, in which the commands run.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit import ROOT, ask

RECORDED = Path(__file__).parent
PRINTED = "printed"
LOCUSTFILE = "locustfile.py"
"""What the recorded plans name; a copy of tests/locustfiles/known.py that is not recorded."""
LOCK = "run.lock"
COLUMNS = "150"


@dataclass(frozen=True)
class Kind:
    """One recorded folder."""

    commands: Mapping[str, str]
    """What makes everything again, in this order: the command line by the name of the file in `printed/`."""
    made: tuple[str, ...] = ()
    """Patterns of the files that the commands write."""


_REPORT = ("report.md", "report.html", "report.json", "plots/*.svg")
_OVERLOAD = "overload plan.yaml --out overload --heavy serial --light fixed --times 1,5 --seconds 7"
_OVERLOAD += " --idle-s 7 --tail-s 4 --saturating-s 5"
_BY_USERS = "capacity users.yaml --slo fixed.median_ms<=150 --out users --window 1.6 --confirm 2.4 --resolution 40"
_BY_RATE = "capacity rate.yaml --slo serial.median_ms<=200 --out rate --rate 12 --in-flight 20 --window 1.6"
_BY_RATE += " --confirm 2.4 --resolution 60"
_NONE_HOLDS = "capacity none.yaml --slo fixed.median_ms<=1 --out none --window 1.6 --start 1"
TOO_STRICT = "serial.p95_ms <= 10"
OPEN_LOOP = "run plan.yaml --out run --rate 40 --in-flight 10"

KINDS = {
    "run": Kind(
        {
            "report": "report run",
            "audit": "audit run/report.json",
            "audit_json": "audit run/report.json --format json",
            "audit_markdown": "audit run/report.json --format markdown",
        },
        tuple(f"run/{name}" for name in _REPORT),
    ),
    "open_loop": Kind({"report": "report run"}, tuple(f"run/{name}" for name in _REPORT)),
    "capacity": Kind(
        {
            "users": _BY_USERS,
            "users_json": f"{_BY_USERS} --json",
            "rate": _BY_RATE,
            "rate_json": f"{_BY_RATE} --json",
            "none": _NONE_HOLDS,
        }
    ),
    "overload": Kind(
        {"overload": _OVERLOAD, "overload_json": f"{_OVERLOAD} --json"},
        ("overload/overload.json", "overload/overload.md", "overload/overload.svg"),
    ),
    "faults": Kind(
        {
            "faults": "faults plan.yaml --out faults --report",
            "faults_json": "faults plan.yaml --out faults --report --json",
        },
        ("faults/faults.json", "faults/faults.md"),
    ),
    "soak": Kind(
        {
            "soak": "soak --plan plan.yaml --out soak --report",
            "soak_json": "soak --plan plan.yaml --out soak --report --json",
            "not_started": "soak --plan not_started.yaml --out not_started --report",
        },
        tuple(f"{name}/soak.{suffix}" for name in ("soak", "not_started") for suffix in ("json", "md")),
    ),
    "tune": Kind(
        {
            "won": "tune tune.yaml --out won --write deploy.yaml",
            "won_json": "tune tune.yaml --out won --json",
            "undecided": "tune tune.yaml --out undecided",
            "no_winner": f"tune tune.yaml --out no_winner --slo {TOO_STRICT.replace(' ', '')}",
        },
        ("*/tune.json", "*/winner.yaml", "*/candidates/*.yaml", "deploy.yaml"),
    ),
    "locust_csv": Kind(
        {
            "full": "report --csv full/run --users 20 --wait 0.05 0.15 --title Plain-Locust --out full_report",
            "plain": "report --csv plain/run_stats.csv --out plain_report",
            "audit": "audit full/run_stats.csv --users 20 --wait 0.05 0.15",
            "audit_json": "audit full/run_stats.csv --users 20 --wait 0.05 0.15 --format json",
            "audit_wait": "audit full/run_stats.csv --users 20 --wait 1 5 --duration 60",
            "audit_wrong": "audit wrong/run_stats.csv --users 20 --wait 0.05 0.15",
            "audit_wrong_markdown": "audit wrong/run_stats.csv --users 20 --wait 0.05 0.15 --format markdown",
        },
        tuple(f"{folder}/{name}" for folder in ("full_report", "plain_report") for name in _REPORT),
    ),
    "audit": Kind(
        {
            "published": "audit published_report.yaml",
            "published_json": "audit published_report.yaml --format json --json audit.json",
            "published_markdown": "audit published_report.yaml --format markdown",
            "changed": "audit changed.json",
            "changed_json": "audit changed.json --format json",
        },
        ("audit.json",),
    ),
}


def lay_out(kind: str, workspace: Path) -> None:
    """Copy the raw data of a kind to the new folder `workspace`, without anything that is made from it."""
    shutil.copytree(RECORDED / kind, workspace)
    shutil.copyfile(ROOT / "tests/locustfiles/known.py", workspace / LOCUSTFILE)
    shutil.rmtree(workspace / PRINTED, ignore_errors=True)
    for pattern in KINDS[kind].made:
        for path in workspace.glob(pattern):
            path.unlink()
    for path in workspace.glob("*/capacity.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        text = json.dumps({**record, "result": None}, indent=1, ensure_ascii=False)
        path.write_text(f"{text}\n", encoding="utf-8")


def make(kind: str, workspace: Path) -> None:
    """Run the kind's commands in `workspace` and write what they print beside the rest. Raises AssertionError."""
    (workspace / PRINTED).mkdir()
    for name, command in KINDS[kind].commands.items():
        (workspace / PRINTED / f"{name}.txt").write_text(printed(command, workspace), encoding="utf-8")


def printed(command: str, workspace: Path) -> str:
    """Return what a command prints in `workspace`, with its exit code. Raises AssertionError if it cannot be used."""
    with on_one_core(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", COLUMNS)
        for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            patch.delenv(name, raising=False)
        ended = ask(*command.split(), folder=workspace, cwd=workspace)
    assert ended.exit_code in {0, 1}, f"{command}\n{ended.output}"
    assert ended.stdout, f"{command} printed nothing\n{ended.stderr}"
    return f"$ python -m loadtest {command}\n{ended.stdout}exit code {ended.exit_code}\n"


def read_files(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files by their paths in the folder, but for what belongs to a workspace only."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name not in {LOCUSTFILE, LOCK}}


@contextmanager
def on_one_core() -> Iterator[None]:
    """Let the kit see one core, on whatever machine: a search for settings is one of a machine with so many."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
