"""What the benchmarks share: rounds of the kit's load, their table, and a config of several variants."""

import importlib.util
import json
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import httpx
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
from tests.benchmarks.clients import ANSWERED, LOST, Outcome, describe
from tests.benchmarks.report import Report, part_of, render
from tests.benchmarks.serve_batch_app import ServeBatcher
from tests.benchmarks.service import SHIPPED, WITH_REDIS, Rounds, check_config, roles_of, write_config
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


def measured(*, share: float = 0.9, rate: float = 7000, decoding: float = 8000, p99_ms: float = 50) -> Report:
    """Return a report of `benchmarks.gpu` with one round of everything."""
    report = Report("gpu", {}, read_environment())
    report.append(gpu.SHARE, "limit: Bare engine", "share", "ratio", share)
    report.append(gpu.DECODING, "16 process(es)", "rate", "img/s", decoding)
    report.append(gpu.SERVICE, "256 connections", "rate", "img/s", rate)
    report.append(gpu.SERVICE, gpu.HALF, "p99", "ms", p99_ms)
    report.append(gpu.LOOKUPS, f"beside {gpu.HALF}", "p99", "ms", 9.5)
    for deployment in gpu.KILLED:
        report.append(gpu.KILLS, f"of {deployment}", "lost", "requests", 0)
    return report


def test_the_report_says_of_each_aim_of_a_gpu_whether_it_is_met() -> None:
    assert gpu.judge_aims(measured(), 64, has_gpu=True) == [
        "aim: service ÷ the smaller limit ≥ 0.8: 0.90, met",
        "aim: best rate ≥ 6,000 img/s: 7,000 img/s, met",
        "aim: p99 at half of the best rate ≤ 100 ms: 50.00 ms, met",
        "aim: p99 of lookups beside it ≤ 10 ms: 9.50 ms, met",
        "aim: requests lost with a killed Classifier ≤ 0: 0.00, met",
        "aim: requests lost with a killed Engine ≤ 128: 0.00, met",
    ]
    share, rate, p99, *_ = gpu.judge_aims(measured(share=0.79, rate=5999, p99_ms=101), 64, has_gpu=True)
    assert [share[-7:], rate[-7:], p99[-7:]] == ["not met"] * 3


def test_no_rate_is_asked_for_that_decoding_does_not_allow() -> None:
    _, rate, *_ = gpu.judge_aims(measured(rate=5000, decoding=5598), 64, has_gpu=True)
    assert rate.endswith("5,000 img/s, not judged: decoding alone gives 5,598 img/s")


def test_without_a_gpu_only_what_is_lost_is_judged() -> None:
    report = measured()
    for deployment in gpu.KILLED:
        report.append(gpu.KILLS, f"of {deployment}", "lost", "requests", 2)  # of the two rounds, the median is 1
    *others, of_classifier, of_engine = gpu.judge_aims(report, 8, has_gpu=False)
    assert all(line.endswith("not judged: no GPU") for line in others)
    assert of_classifier.endswith("Classifier ≤ 0: 1.00, not met")
    assert of_engine.endswith("Engine ≤ 16: 1.00, met")  # it had so many in the GPU


def test_an_aim_without_a_figure_is_not_measured_and_hides_no_other() -> None:
    report = Report("gpu", {}, read_environment())
    report.append(gpu.KILLS, "of Classifier", "lost", "requests", 1)
    *others, of_classifier, of_engine = gpu.judge_aims(report, 64, has_gpu=True)
    assert len(others) == 4
    assert all(line.endswith(": not measured") for line in (*others, of_engine))
    assert of_classifier.endswith(": 1.00, not met")


@pytest.mark.parametrize("part", [*gpu.LIMITS, gpu.SERVICE])
def test_what_was_measured_in_part_judges_nothing(part: str) -> None:
    report = Report("gpu", {}, read_environment())
    report.append(gpu.ENGINE, "batches of 64", "rate", "img/s", 18_000)
    report.append(gpu.SERVICE, "256 connections", "rate", "img/s", 5000)
    report.append(gpu.DECODING, "1 process(es)", "rate", "img/s", 390)
    with part_of(report, part, None):
        raise RuntimeError("a helper process ended")
    gpu.append_share(report)
    share, rate, *_ = gpu.judge_aims(report, 64, has_gpu=True)
    assert share.endswith(": not measured")
    assert rate.endswith(
        {
            gpu.ENGINE: "5,000 img/s, not judged: decoding alone gives 390 img/s",
            gpu.DECODING: "5,000 img/s, not judged: what decoding allows was not measured",
            gpu.SERVICE: ": not measured",
        }[part]
    )


def test_what_a_kill_does_is_told_of_the_requests_under_way_and_of_later_ones() -> None:
    outcomes = [
        Outcome(8, 9, ANSWERED), Outcome(9, 10.5, ANSWERED), Outcome(9.5, 13, "504 deadline_exceeded"),
        Outcome(10.5, 11, LOST), Outcome(11, 14, ANSWERED), Outcome(12, 13.5, ANSWERED),
    ]  # fmt: skip
    report = Report("gpu", {}, read_environment())
    gpu.append_kill(report, "Engine", gpu.Killed(outcomes, unix_s=10, is_replaced=True))
    assert {found.column: found.values for found in report.measurements} == {
        "under way": [2], "answered": [3], "lost": [1], "refused: 504 deadline_exceeded": [1], gpu.AGAIN: [3.5]
    }  # fmt: skip
    assert report.faults == []
    told = gpu.judge_aims(report, 64, has_gpu=True)[-1]
    assert told == "aim: requests lost with a killed Engine ≤ 128: 1.00, met; refused: 1 × 504 deadline_exceeded"


def test_a_kill_without_answers_before_or_after_it_or_without_a_new_process_is_not_to_be_trusted() -> None:
    report = Report("gpu", {}, read_environment())
    outcomes = [Outcome(9, 11, ANSWERED), Outcome(11, 12, "503 not_ready")]
    gpu.append_kill(report, "Engine", gpu.Killed(outcomes, unix_s=10, is_replaced=False))
    before, process, after = report.faults
    assert "not every prediction was answered before: none" in before
    assert "no other process had taken its place after" in process
    assert "no prediction was answered within" in after
    assert gpu.AGAIN not in {found.column for found in report.measurements}


def test_a_refusal_is_one_in_the_error_shape_and_anything_else_is_lost() -> None:
    assert describe(httpx.Response(200, json={})) == ANSWERED
    assert describe(httpx.Response(503, json={"code": "not_ready", "detail": "…"})) == "503 not_ready"
    assert describe(httpx.Response(503, text="<html>")) == LOST
    assert describe(httpx.Response(500, json=["code"])) == LOST


def test_what_the_ingress_says_was_lost_with_its_replica_is_lost() -> None:
    assert describe(httpx.Response(502, json={"code": "replica_lost"})) == LOST


def test_a_part_that_fails_is_a_fault_of_the_report_and_keeps_what_others_measured(tmp_path: Path) -> None:
    report, path = measured(), tmp_path / "gpu.json"
    with part_of(report, gpu.SERVICE, path):
        raise RuntimeError("the target ended")
    assert "7,000" in render(report)
    written = json.loads(path.read_text())
    assert written["faults"] == report.faults == ["Service: the target ended"]
    assert written["failed_parts"] == [gpu.SERVICE]
    assert 7000 in [found["median"] for found in written["measurements"]]


def test_a_service_that_cannot_start_here_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    path = write_config(tmp_path, SHIPPED[0], {"one": {"args": {"threads": 0}}})
    with pytest.raises(RuntimeError, match=r"the service cannot start here:\nerror: .*threads"):
        check_config(path, tmp_path)
    check_config(write_config(tmp_path, SHIPPED[0], {"one": {}}), tmp_path)
