"""The kit against the real service, with the shipped smoke plan: real Ray, real Locust, both configs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.rows.columns import RequestRow, ResourceRow, read_rows
from loadtest.rows.run_folder import Cell, CellRecord, RunFolder
from tests.service import ROOT

SMOKE_S = 1200
CELLS = [Cell(target=name, users=20, repetition=1) for name in ("one_replica", "two_replicas")]
pytestmark = pytest.mark.timeout(SMOKE_S + 20)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The folder of a run of configs/stress/smoke.yaml, whose exit code said that all was well."""
    folder = tmp_path_factory.mktemp("smoke") / "run"
    command = [sys.executable, "-m", "loadtest", "run", "configs/stress/smoke.yaml", "--out", str(folder)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SMOKE_S, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return RunFolder(folder)


def record_of(smoke: RunFolder, cell: Cell) -> CellRecord:
    record = smoke.read_cell(cell)
    assert record is not None
    return record


@pytest.mark.long
def test_every_cell_ran_as_many_replicas_as_its_config_says(smoke: RunFolder) -> None:
    assert smoke.read_record().order == CELLS
    assert [record_of(smoke, cell).replicas_found for cell in CELLS] == [1, 2]
    assert [record_of(smoke, cell).notes for cell in CELLS] == [[], []]


@pytest.mark.long
def test_every_request_was_answered_right(smoke: RunFolder) -> None:
    for cell in CELLS:
        rows = list(read_rows(smoke.cell_path(cell) / "requests.csv", RequestRow))
        assert len(rows) >= cell.users
        assert {(row.endpoint, row.status, row.error) for row in rows} == {("lookup", 200, ""), ("predict", 200, "")}
        assert all("inference;dur=" in row.server_timing for row in rows if row.endpoint == "predict")


@pytest.mark.long
def test_every_role_of_the_service_is_told_apart(smoke: RunFolder) -> None:
    for cell, replicas in zip(CELLS, (1, 2), strict=True):
        rows = list(read_rows(smoke.cell_path(cell) / "resources.csv", ResourceRow))
        processes = {row.role: row.processes for row in rows if row.threads}
        ours = {"classifier", "users", "ingress", "ray_system", "load_generator", "kit"}
        assert ours == set(processes) - {"database", "redis"}  # those that run on this machine count wherever they are
        assert processes["classifier"] == replicas
        assert processes["users"] == 2
        assert sum(row.cpu_percent for row in rows if row.role == "classifier") > 10


@pytest.mark.long
def test_the_metrics_of_the_service_are_kept(smoke: RunFolder) -> None:
    for cell in CELLS:
        assert (smoke.cell_path(cell) / "metrics_after.prom").read_text().count("ray_serve_") > 50


def test_in_the_committed_report_the_service_counts_what_locust_counts() -> None:
    """That run waited for Ray's exporter, which the smoke plan does not."""
    figures = json.loads((ROOT / "docs" / "reports" / "published" / "report.json").read_text())
    routes = {"lookup": "/user/", "predict": "/model/predict"}
    for cell in figures["cells"]:
        counted = {counter["labels"].get("route"): counter["increase"] for counter in cell["counters"]}
        for endpoint in cell["endpoints"]:
            requests = endpoint["whole_run"]["requests"]
            assert counted[routes[endpoint["endpoint"]]] == pytest.approx(requests, rel=0.01)


@pytest.mark.long
def test_the_report_says_that_the_weights_were_random(smoke: RunFolder) -> None:
    for name in ("report.md", "report.html"):
        assert "random" in (smoke.path / name).read_text()


@pytest.mark.long
def test_the_run_folder_holds_the_config_that_was_served(smoke: RunFolder) -> None:
    for cell in CELLS:
        kept = smoke.cell_path(cell) / "files"
        for name in (f"{cell.target}.yaml", "serve.env"):
            assert (kept / name).read_bytes() == (ROOT / "configs" / name).read_bytes()


@pytest.mark.long
def test_no_path_of_the_machine_is_in_the_report(smoke: RunFolder) -> None:
    for name in ("report.md", "report.html", "report.json"):
        text = (smoke.path / name).read_text()
        assert str(ROOT) not in text
        assert str(smoke.path) not in text
        assert str(Path.home()) + "/" not in text
