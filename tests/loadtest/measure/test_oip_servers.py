"""The workload of the Open Inference Protocol on a server that others wrote: MLServer, in an environment of its own."""

import json
import shlex
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests import foreign_clients
from tests.failures import keep_on_failure
from tests.kit import ask, faults_of, run_command, run_kit
from tests.ports import free_port
from tests.service import CONFIGS

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
START_S = 300
MODEL = {
    "name": "brightness",
    "implementation": "mlserver_model.Brightness",
    "inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}],
    "outputs": [{"name": "brightness", "datatype": "FP32", "shape": [-1]}],
}


@dataclass(frozen=True)
class MLServer:
    """An MLServer with one model, not started yet."""

    folder: Path
    program: Path
    ports: dict[str, int]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['http_port']}"

    def settings(self) -> str:
        return json.dumps({"host": "127.0.0.1", "parallel_workers": 0, **self.ports})


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory: pytest.TempPathFactory) -> MLServer:
    folder = tmp_path_factory.mktemp("mlserver")
    python = foreign_clients.install("mlserver", folder / "environment")
    model = Path(foreign_clients.__file__).with_name("mlserver_model.py")
    (folder / model.name).write_bytes(model.read_bytes())
    (folder / "model-settings.json").write_text(json.dumps(MODEL))
    ports = {name: free_port() for name in ("http_port", "grpc_port", "metrics_port")}
    return MLServer(folder, python.with_name("mlserver"), ports)


@pytest.fixture
def started(mlserver: MLServer) -> Iterator[MLServer]:
    (mlserver.folder / "settings.json").write_text(mlserver.settings())
    log = mlserver.folder / "mlserver.log"
    with log.open("wb") as file, keep_on_failure("mlserver", lambda: [log]):
        command = [str(mlserver.program), "start", "."]
        process = subprocess.Popen(command, cwd=mlserver.folder, stdout=file, stderr=subprocess.STDOUT)
        try:
            yield mlserver
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(START_S)


def write_plan(path: Path, mlserver: MLServer, **target: object) -> Path:
    """Write configs/stress/oip.yaml for MLServer, as docs/stress_kit.md says, with short cells."""
    plan = yaml.safe_load((CONFIGS / "stress" / "oip.yaml").read_text())
    for key in ("roles", "metrics", "packages"):
        del plan[key]
    named = {"name": "mlserver", "url": mlserver.url, "ready": ["/v2/health/ready"], "ready_timeout_s": START_S}
    plan["targets"] = [named | {"about": ["/v2"]} | target]
    plan |= {"users": [3], "duration_s": 6, "limits": ["failures_percent <= 0"]}
    plan |= {"most_other_cpu_percent": 10_000, "most_stolen_cpu_percent": 10_000, "most_generator_late_percent": 100}
    plan["workload"] |= {
        "wait_s": [0.1, 0.2],
        "endpoints": {"infer": {"request": "POST /v2/models/brightness/infer"}},
        "options": {"model": "brightness", "encoding": "json", "pictures-per-request": 2, "picture-pool": 2},
    }
    path.write_text(yaml.safe_dump(plan))
    return path


def test_a_server_of_others_is_measured_and_its_report_audited(started: MLServer, tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "plan.yaml", started)
    ended = run_kit(plan, tmp_path / "run")
    assert ended.exit_code == 0, ended.output
    rows = ended.rows("mlserver")
    assert rows
    assert {(row.status, row.error) for row in rows} == {(200, "")}
    assert faults_of(ended.cell("mlserver")) == []
    audited = ask("audit", tmp_path / "run" / "report.json")
    assert audited.exit_code == 0, audited.output


def test_the_capacity_of_a_server_of_others_is_found(started: MLServer, tmp_path: Path) -> None:
    """So few users that it holds all of them: the search ends at the largest number that it may measure."""
    plan, out = write_plan(tmp_path / "plan.yaml", started), tmp_path / "search"
    options = ["--slo", "failures_percent<=0", "--start", "2", "--most", "4", "--window", "5", "--confirm", "5"]
    ended = run_command(["capacity", plan, "--out", out, *options], out, tmp_path)
    assert ended.exit_code == 0, ended.output
    assert json.loads((out / "capacity.json").read_text())["result"]["capacity"] == 4


def test_the_settings_of_a_server_of_others_are_tuned(mlserver: MLServer, tmp_path: Path) -> None:
    base = mlserver.folder / "base.json"
    base.write_text(mlserver.settings())
    start = f"cp {base} {mlserver.folder}/settings.json && exec {mlserver.program} start {mlserver.folder}"
    target = {"start": f"sh -c {shlex.quote(start)}", "stop_timeout_s": START_S, "files": [str(base)]}
    plan = write_plan(tmp_path / "plan.yaml", mlserver, **target)
    tune = {
        "plan": str(plan),
        "base": str(base),
        "vary": [{"name": "workers", "path": "parallel_workers", "values": [0, 1]}],
        "users": 3,
        "objective": "minimise infer.p95_ms",
        "limits": ["failures_percent <= 0"],
        "minutes": 20,
        "repetitions": 2,
        "overhead_s": 10,
    }
    (tmp_path / "tune.yaml").write_text(yaml.safe_dump(tune))
    out = tmp_path / "search"
    ended = run_command(["tune", tmp_path / "tune.yaml", "--out", out], out, tmp_path)
    assert ended.exit_code == 0, ended.output
    assert yaml.safe_load((out / "winner.yaml").read_text())["parallel_workers"] in {0, 1}
    tuned = json.loads((out / "tune.json").read_text())
    assert tuned["status"] == "winner found"
    assert len(tuned["candidates"]) == 2
