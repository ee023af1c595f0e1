"""The workload of the Open Inference Protocol on a server that others wrote: MLServer, in an environment of its own."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests import foreign_clients
from tests.failures import keep_on_failure
from tests.kit import Kit, faults_of
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


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLServer with one model."""
    folder = tmp_path_factory.mktemp("mlserver")
    python = foreign_clients.install("mlserver", folder / "environment")
    model = Path(foreign_clients.__file__).with_name("mlserver_model.py")
    (folder / model.name).write_bytes(model.read_bytes())
    (folder / "model-settings.json").write_text(json.dumps(MODEL))
    ports = {name: free_port() for name in ("http_port", "grpc_port", "metrics_port")}
    (folder / "settings.json").write_text(json.dumps({"host": "127.0.0.1", "parallel_workers": 0, **ports}))
    log = folder / "mlserver.log"
    with log.open("wb") as file, keep_on_failure("mlserver", lambda: [log]):
        command = [str(python.with_name("mlserver")), "start", "."]
        process = subprocess.Popen(command, cwd=folder, stdout=file, stderr=subprocess.STDOUT)
        try:
            yield f"http://127.0.0.1:{ports['http_port']}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(START_S)


def test_a_server_of_others_is_measured(mlserver: str, tmp_path: Path) -> None:
    plan = yaml.safe_load((CONFIGS / "stress" / "oip.yaml").read_text())
    for key in ("roles", "metrics", "packages"):
        del plan[key]
    plan["targets"] = [
        {
            "name": "mlserver",
            "url": mlserver,
            "ready": ["/v2/health/ready"],
            "ready_timeout_s": START_S,
            "about": ["/v2"],
        }
    ]
    plan |= {"users": [3], "duration_s": 6, "limits": ["failures_percent <= 0"]}
    plan |= {"most_other_cpu_percent": 10_000, "most_stolen_cpu_percent": 10_000, "most_generator_late_percent": 100}
    plan["workload"] |= {
        "wait_s": [0.1, 0.2],
        "endpoints": {"infer": {"request": "POST /v2/models/brightness/infer"}},
        "options": {"model": "brightness", "encoding": "json", "pictures-per-request": 2, "picture-pool": 2},
    }
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(plan))
    ended = Kit(["run", str(path), "--out", str(tmp_path / "run")], tmp_path / "run", tmp_path).wait()
    assert ended.exit_code == 0, ended.output
    rows = ended.rows("mlserver")
    assert rows
    assert {(row.status, row.error) for row in rows} == {(200, "")}
    assert faults_of(ended.cell("mlserver")) == []
