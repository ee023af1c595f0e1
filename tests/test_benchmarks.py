"""What the benchmarks share: rounds of the kit's load, their table, and a config of several variants."""

import importlib.util
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from loadtest.machine.environment import read_environment
from loadtest.rows.run_folder import RunFolder
from loadtest.verdict.summary import summarize
from serve_app.classifier.batcher import BatchLimits
from serve_app.classifier.images import decode_image
from serve_app.deployments.preflight import startable_config
from tests.benchmarks import agreement, batching, cache, gpu
from tests.benchmarks.report import Report, render
from tests.benchmarks.serve_batch_app import ServeBatcher
from tests.benchmarks.service import SHIPPED, WITH_REDIS, Rounds, roles_of, write_config
from tests.benchmarks.wrk import WrkLoad
from tests.recorded.kinds import RECORDED
from tests.redis_server import RedisServer
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


@pytest.mark.parametrize("benchmark", [batching, cache])
def test_a_config_of_several_classifiers_can_be_started(
    benchmark: ModuleType, tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    path = write_config(tmp_path, SHIPPED[0], benchmark.variants(SHIPPED[0]))
    config, warnings = startable_config(path, is_to_listen=False)
    assert len(config["applications"]) > 1
    assert not any("CPU" in str(warning) for warning in warnings)


def test_the_redis_of_the_benchmarks_is_the_kits() -> None:
    assert importlib.util.find_spec(WITH_REDIS.rpartition(" ")[2])


def test_what_stands_for_the_batcher_has_all_that_the_classifier_asks_of_it() -> None:
    limits = BatchLimits(8, 2)
    batcher = ServeBatcher(lambda pictures: np.zeros((len(pictures), 1), np.float32), ThreadPoolExecutor(1), limits, 0)
    asked = re.findall(r"self\._batcher\.(\w+)", (ROOT / "serve_app/classifier/classifier.py").read_text())
    assert len(asked) > 3
    assert [name for name in asked if not hasattr(batcher, name)] == []


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
