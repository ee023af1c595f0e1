"""The plan for one's own service in docs/stress_kit.md works as it stands there, on a service that is none of ours."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from starlette.responses import PlainTextResponse

from loadtest.plan.plan import load_plan
from loadtest.rows.run_folder import RunFolder
from loadtest.verdict.summary import summarize
from tests.failures import keep_on_failure
from tests.kit import ROOT, RUN_S, faults_of
from tests.simple_service import simple_service


def blocks(language: str) -> list[str]:
    """Return the code blocks in the section for one's own service."""
    section = (ROOT / "docs" / "stress_kit.md").read_text().partition("## A plan for your own service")[2]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


@pytest.mark.timeout(2 * RUN_S)
def test_the_minimal_plan_of_the_manual_measures_any_http_service(tmp_path: Path) -> None:
    plan, locustfile = blocks("yaml")[0], blocks("python")[0]
    (tmp_path / "my_locustfile.py").write_text(locustfile)
    with simple_service(lambda _: PlainTextResponse("hello")) as service:
        (tmp_path / "my_plan.yaml").write_text(plan.replace("http://127.0.0.1:9000", service.url))
        command = [sys.executable, "-m", "loadtest", "run", "my_plan.yaml", "--duration", "8"]
        with keep_on_failure("minimal plan", lambda: [tmp_path / "runs"]):
            ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=RUN_S, check=False)
            (cell,) = summarize(RunFolder(tmp_path / "runs" / "my_plan")).cells
    assert faults_of(cell) == [], ended.stderr
    assert cell.whole_run
    assert cell.whole_run.requests > 0
    assert cell.whole_run.failures == 0
    assert service.lines() == {"GET /"}
    assert (tmp_path / "runs" / "my_plan" / "report.html").is_file()


def test_the_further_keys_of_the_manual_fit_the_minimal_plan(tmp_path: Path) -> None:
    minimal, further, *_ = (yaml.safe_load(block) for block in blocks("yaml"))
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({**minimal, **further}))
    plan = load_plan(path)
    assert plan.targets[0].replicas
    assert len(plan.limits) == 2
