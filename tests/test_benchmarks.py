"""What the benchmarks share: rounds of the kit's load, their table, and a config of several variants."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from loadtest.machine.environment import read_environment
from loadtest.rows.run_folder import RunFolder
from loadtest.verdict.summary import summarize
from serve_app.classifier.images import decode_image
from tests.benchmarks import agreement, gpu
from tests.benchmarks.report import Report, render
from tests.benchmarks.service import SHIPPED, Rounds, roles_of, write_config
from tests.benchmarks.wrk import WrkLoad
from tests.recorded.kinds import RECORDED
from tests.service import ROOT
from tests.simple_service import simple_service

BENCHMARKS = sorted((ROOT / "tests/benchmarks").glob("*.py"))
OWN_LOAD = re.compile(r"http\.client|percentile\(|quantiles\(|-m.{,4}locust|csv\.|memory_info\(\)|cpu_times")


def test_no_benchmark_makes_load_figures_or_samples_of_its_own() -> None:
    assert len(BENCHMARKS) > 10
    assert [path.name for path in BENCHMARKS if OWN_LOAD.search(path.read_text())] == []


def answer(request: Request) -> Response:
    if request.method == "POST":
        return JSONResponse({"prediction": "cat", "predictions": []})
    return Response()


def test_a_round_is_predictions_of_the_kits_own_load(tmp_path: Path) -> None:
    with simple_service(answer) as service:
        rounds = Rounds(tmp_path, SHIPPED[0])
        cells = [rounds.measure(service.url, users=2, round_s=1, pause_s=0.01) for _ in range(2)]
        assert service.lines() == {"GET /model/ready", "POST /model/predict"}
    for cell in cells:
        assert cell.steady
        assert cell.steady.requests > 0
        assert cell.steady.failures == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-1", "round-2"]


def test_a_round_is_in_the_table_and_its_doubts_make_the_report_untrustworthy() -> None:
    cells = summarize(RunFolder(RECORDED / "run/run")).cells
    doubtful = next(cell for cell in cells if cell.steady and not cell.valid)
    report = Report("known", {}, read_environment())
    rate = report.append_cell("Rounds", "one", doubtful)
    assert doubtful.steady
    assert rate == doubtful.steady.rps
    text = render(report)
    assert "rate, img/s" in text
    assert f"NOT TO BE TRUSTED: Rounds, one: {doubtful.reasons[0]}" in text
    assert ("Rounds, CPU", "classifier") in {(found.table, found.row) for found in report.measurements}


def test_variants_stand_in_place_of_the_applications_where_the_kits_workload_finds_them(tmp_path: Path) -> None:
    path = write_config(tmp_path, SHIPPED[0], {"off": {"args": {"threads": 1}}, "on": {}})
    shipped, written = (yaml.safe_load(each.read_text()) for each in (SHIPPED[0], path))
    model = next(each for each in shipped["applications"] if each["name"] == "model")
    assert written["applications"] == [
        {**model, "name": "off", "route_prefix": "/off/model", "args": {"threads": 1}},
        {**model, "name": "on", "route_prefix": "/on/model"},
    ]
    assert [role.name for role in roles_of(path)][:2] == ["off", "on"]


def test_the_pictures_of_the_agreement_are_those_that_reduced_decoding_is_for() -> None:
    for size in agreement.SIZES_PX:
        data, scene = agreement.draw_jpeg(7, size)
        reduced, whole = (decode_image(data, 10**8, draft=draft) for draft in (True, False))
        assert (reduced != whole).any()
        assert scene < agreement.SCENES


def test_sigterm_ends_a_benchmark_after_what_it_started() -> None:
    code = """
import signal, subprocess, sys
from tests.benchmarks.report import run
from tests.benchmarks.service import running_child

def main():
    with running_child([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"],
                       stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        print(child.pid, flush=True)
        child.wait()
    return 0

run(main)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as benchmark:
        assert benchmark.stdout
        child = Path("/proc", benchmark.stdout.readline().strip())
        assert child.is_dir()
        benchmark.send_signal(signal.SIGTERM)
        assert benchmark.wait(60) == 128 + signal.SIGTERM
        assert not child.is_dir()


@pytest.mark.parametrize(("rps", "pause_ms"), [(8.0, 150), (4.0, 0), (0.0, None)])
def test_half_of_the_best_rate_is_measured_only_if_there_are_answers(rps: float, pause_ms: int | None) -> None:
    """Two connections that ask every 200 ms are 10/s; an answer of 50 ms makes them 8/s, one of 300 ms 4/s."""
    load = WrkLoad(rps=rps, p50_ms=0, p95_ms=0, p99_ms=0, requests=0, failures=0)
    assert gpu.correct_pause_ms(200, 2, load) == pause_ms
