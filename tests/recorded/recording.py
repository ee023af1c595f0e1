"""Records new raw data: real runs of a few seconds on known targets, and made rows where real ones are too many.

What names the machine (folders, host, processor, packages) is replaced by neutral values before anything is made of it.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from loadtest.rows.columns import ResourceRow, RowWriter, read_rows
from loadtest.tune.halving import Round
from loadtest.tune.search import Search
from loadtest.tune.tune_file import load_tuning
from tests.kit import ROOT, known_target, target_metrics, workload, write_plan
from tests.loadtest.faults.test_faults_run import load
from tests.loadtest.figures.test_locust_csv import SOME_WRONG, has_a_steady_window
from tests.loadtest.test_locustfile import LOOKUP, run_locust
from tests.loadtest.tune.test_tune_run import RATE, write_made_round, write_search
from tests.made_run import MadeCell, made_plan, write_made_run
from tests.ports import free_port
from tests.recorded.kinds import KINDS, LOCK, LOCUSTFILE, OPEN_LOOP, RECORDED, TOO_STRICT, on_one_core

RUN_S = 600
ENVIRONMENT = {
    "cpu_model": "Recorded CPU @ 2.60GHz",
    "cores": 2,
    "usable_cores": 2.0,
    "ram_bytes": 8 * 2**30,
    "os": "Linux 6.1",
    "python": "3.11.9",
    "packages": {"locust": "2.47.0", "numpy": "2.4.6", "ray": "2.60.0"},
    "git_commit": "0123456789abcdef0123456789abcdef01234567",
    "git_changed": False,
}


def record(kind: str, workspace: Path) -> None:
    """Fill the empty folder `workspace` with raw data of a kind that names no machine."""
    shutil.copyfile(ROOT / "tests/locustfiles/known.py", workspace / LOCUSTFILE)
    with chdir(workspace):
        _RECORDERS[kind]()
    for path in workspace.rglob("*"):
        if path.is_file() and path.name not in {LOCK, LOCUSTFILE}:
            _scrub(path, workspace)


def _scrub(path: Path, workspace: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for place, neutral in {
        f"{workspace}/": "",
        str(workspace): ".",
        str(ROOT): "/srv/checkout",
        sys.prefix: "/srv/checkout/.venv",
        sys.base_prefix: "/usr",
        str(Path.home()): "/home/tester",
    }.items():
        text = text.replace(place, neutral)
    text = re.sub(rf"\b{re.escape(platform.node())}\b", "machine", text)
    if path.suffix == ".json" and '"cpu_model"' in text:
        text = json.dumps(_neutral(json.loads(text)), indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def _neutral(value: Any) -> Any:
    """Return JSON values with ENVIRONMENT in the place of each machine."""
    if isinstance(value, dict):
        return ENVIRONMENT if "cpu_model" in value else {key: _neutral(part) for key, part in value.items()}
    return [_neutral(part) for part in value] if isinstance(value, list) else value


def _run(command: str) -> None:
    """Run a command of the kit in this folder. Raises AssertionError when it cannot be used, or takes too long."""
    done = subprocess.run(
        [sys.executable, "-m", "loadtest", *command.split()],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode in {0, 1}, command


def _plan(name: str, targets: list[dict[str, Any]], *endpoints: str, pace: dict[str, Any], **keys: Any) -> None:
    work = {**workload(*endpoints, **pace), "locustfile": LOCUSTFILE}
    write_plan(Path(name), targets, settle_s=0.2, workload=work, **keys)


def _record_run() -> None:
    """Two targets, three levels, three repetitions: one cell is invalid, one failed, and the last level has errors."""
    plan = made_plan(
        users=[5, 20, 60],
        duration_s=30,
        settle_s=2,
        repetitions=3,
        workload={**made_plan().workload.model_dump(mode="json"), "wait_s": [1, 3]},
        limits=["failures_percent <= 0", "predict.p95_ms <= 400", "lookup.p95_ms <= 50", "rps >= 2"],
    )
    folder = write_made_run(Path("run"), plan, _spoil)
    run = json.loads((folder / "run.json").read_text())
    first = run["sessions"][0]
    resumed = {**first["environment"], "git_changed": True, "os": "Linux 6.2"}
    run["sessions"].append({**first, "started_unix_s": first["started_unix_s"] + 300, "environment": resumed})
    (folder / "run.json").write_text(json.dumps(run, indent=1) + "\n")


def _spoil(made: MadeCell) -> None:
    cell = made.record.cell
    if (cell.target, cell.users) == ("one_replica", 60):
        made.requests = [
            replace(row, status=503, error="status 503", server_timing="") if number % 50 == 0 else row
            for number, row in enumerate(made.requests)
        ]
    if cell.id == "one_replica-20users-2":
        made.generator = [replace(row, lag_ms=120.0) for row in made.generator]
        made.record.notes = ["2 processes had to be killed"]
    if cell.id == "two_replicas-5users-2":
        made.record.status, made.record.moments = "failed", None
        made.record.reason = "the target ended with code 1; its last lines:\nno memory"
        made.requests, made.generator, made.resources = [], [], []


def _record_open_loop() -> None:
    port, other = free_port(), free_port()
    targets = [
        known_target("stalling", port, "--serial-rate 50 --stall-at 100 --stall-s 0.6", about=["/about"]),
        known_target("failing", other, "--serial-rate 60 --fail-every 20", label="fails now and then"),
    ]
    roles = [{"name": "target", "command": "tests.known_target"}]
    _plan("plan.yaml", targets, "serial", pace={"wait_s": [0, 0]}, metrics=target_metrics(port), roles=roles,
          repetitions=2, limits=["failures_percent <= 0", "serial.p95_ms <= 2000"], duration_s=4)  # fmt: skip
    _run(OPEN_LOOP)


def _record_capacity() -> None:
    """By users, of which a target dies once in a while; by rate; and of a target that no load holds."""
    pace, few = {"wait_s": [0.2, 0.2]}, {"duration_s": 0}
    crowded = "--delay-ms 5 --crowd 5 --slow-ms 300 --die-at 200"
    _plan("users.yaml", [known_target("crowded", free_port(), crowded)], "fixed", pace=pace, warmup=few, users=[3])
    _plan("rate.yaml", [known_target("serial", free_port(), "--serial-rate 40")], "serial", pace=pace, warmup=few)
    _plan("none.yaml", [known_target("slow", free_port(), "--delay-ms 20")], "fixed", pace=pace, warmup=few, users=[2])
    for name in ("users", "rate", "none"):
        _run(KINDS["capacity"].commands[name])


def _record_overload() -> None:
    options = "--serial-rate 40 --delay-ms 5 --most-wait-s 0.5 --refusal-ms 300"
    roles = [{"name": "known", "command": "tests.known_target"}]
    target = known_target("bounded", free_port(), options)
    _plan("plan.yaml", [target], "serial", "fixed", pace={"wait_s": [0, 0]}, roles=roles)
    _run(KINDS["overload"].commands["overload"])


def _load(name: str, **keys: Any) -> None:
    work = {**workload("fixed", wait_s=[0.1, 0.3]), "locustfile": LOCUSTFILE}
    Path(name).write_text(yaml.safe_dump(load(**{"users": 3, "workload": work, **keys})))


def _record_faults() -> None:
    faults: list[dict[str, Any]] = [
        {"name": "freeze", "freeze": {"role": "server", "for_s": 2}, "before_s": 3, "after_s": 20},
        {"name": "kill", "kill": {"role": "worker"}, "undo": "true", "hold_s": 0.3, "recover_within_s": 2},
        {"name": "broken", "command": "false"},
        {"name": "end", "kill": {"role": "server"}, "recover_within_s": 1},
    ]
    known = {"name": "known", "target": known_target("known", free_port(), "--workers 2"), "faults": faults}
    lapses: list[dict[str, Any]] = [
        {"name": "inexcusable", "title": "A command, and failures", "command": "sleep 0.5"},
        {"name": "excused", "command": "true", "may_fail": {"fixed": {"within_ms": 5000}}},
        {"name": "sent_late", "command": "true", "may_fail": {"fixed": {"sent_within_s": 0.5, "error": "50."}}},
    ]
    failing_target = known_target("failing", free_port(), "--workers 2 --fail-every 10")
    failing = {"name": "failing", "target": failing_target, "faults": lapses}
    elsewhere: dict[str, Any] = {**known, "name": "elsewhere", "faults": [{"name": "nothing", "command": "true"}]}
    elsewhere["services"] = [{"name": "the impossible", "start": "false", "stop": "true"}]
    _load("plan.yaml", before_s=1, after_s=2, groups=[known, failing, elsewhere])
    _run("faults plan.yaml --out faults")


def _record_soak() -> None:
    faults = [{"name": "freeze", "freeze": {"role": "server", "for_s": 0.2}}, {"name": "command", "command": "true"}]
    soak = {"minutes": 1.5, "every_s": 25, "warmup_s": 5, "faults": faults}
    _load("plan.yaml", target=known_target("known", free_port(), "--workers 2"), **soak)
    absent = known_target("absent", free_port(), "--exit-after-s 0")
    _load("not_started.yaml", target=absent, **soak)
    for command in ("soak --plan plan.yaml --out soak", "soak --plan not_started.yaml --out not_started"):
        _run(command)

    _let_workers_grow(Path("soak/faults/soak/resources.csv"))


def _let_workers_grow(path: Path) -> None:
    """Add to the memory of the workers 20 kB a second, unevenly: the known target's own stays as it is."""
    rows = list(read_rows(path, ResourceRow))
    writer = RowWriter(path, ResourceRow)
    for number, row in enumerate(rows):
        grown = int(20_000 * (row.unix_s - rows[0].unix_s)) + 10_000 * (number % 7)
        writer.write(replace(row, rss_bytes=row.rss_bytes + grown) if row.role == "worker" else row)
    writer.close()


def _record_tune() -> None:
    """Three searches with made rows: twice as many workers serve twice as much, just as much, and never enough."""
    write_search(Path(), minutes=60)
    plan = yaml.safe_load(Path("plan.yaml").read_text())
    plan["workload"]["locustfile"] = LOCUSTFILE
    Path("plan.yaml").write_text(yaml.safe_dump(plan))
    for folder, seconds, two, limits in (
        ("won", 10, 2 * RATE, []),
        ("undecided", 6, RATE, []),
        ("no_winner", 6, RATE, [TOO_STRICT]),
    ):
        with on_one_core():
            tuning = load_tuning(Path("tune.yaml"), {"limits": limits} if limits else None)
            search = Search(tuning, Path(folder), print)
            write_made_round(search, 1, Round(4, 1, 6), {"c01": RATE, "c02": 0, "c03": two, "c04": 0})
            write_made_round(search, 2, Round(2, 3, seconds), {"c01": RATE, "c03": two})
    for cell in Path().glob("*/*/cells/*"):  # one that did not start has measured nothing
        if json.loads((cell / "cell.json").read_text())["status"] == "failed":
            for path in cell.glob("*.[!j]*"):
                path.unlink()


def _record_locust_csv() -> None:
    for name, options in (("full", ["--csv-full-history"]), ("plain", [])):
        folder = Path(name).absolute()
        folder.mkdir()
        run_locust(
            SOME_WRONG,
            folder,
            *options,
            users=20,
            enough=lambda server, folder=folder: (  # type: ignore[misc]
                len(server.requests) > 500 and has_a_steady_window(folder / "run")
            ),
        )

    wrong = Path("wrong/run_stats.csv")
    wrong.parent.mkdir()
    text = Path("full/run_stats.csv").read_text()
    wrong.write_text("".join(_with_a_wrong_median(line) for line in text.splitlines(keepends=True)))


def _with_a_wrong_median(line: str) -> str:
    cells = line.split(",")
    return ",".join([*cells[:4], "9999", *cells[5:]]) if cells[1] == LOOKUP else line


def _record_audit() -> None:
    """A published report, and one of ours that somebody has changed."""
    shutil.copyfile(ROOT / "tests/audits/published_report.yaml", "published_report.yaml")
    report = json.loads((RECORDED / "run/run/report.json").read_text())
    whole_run = report["cells"][-1]["whole_run"]
    whole_run |= {"requests": 2 * whole_run["requests"], "median_ms": 900.0}
    Path("changed.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


_RECORDERS: dict[str, Callable[[], None]] = {
    "run": _record_run,
    "open_loop": _record_open_loop,
    "capacity": _record_capacity,
    "overload": _record_overload,
    "faults": _record_faults,
    "soak": _record_soak,
    "tune": _record_tune,
    "locust_csv": _record_locust_csv,
    "audit": _record_audit,
}
