"""An audit says "0 findings" of what it has checked: not of nothing, and not of a file with something twice."""

import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.audit.audit import audit_file
from loadtest.audit.locust_stats import RunFacts
from loadtest.errors import BadInputError
from loadtest.rows.run_folder import RunFolder
from loadtest.verdict.summary import summarize
from tests.audits.closed_loop import Experiment, locust_csv, simulate
from tests.loadtest.audit.test_audit import run_command
from tests.made_run import made_plan, write_made_run

ROW = "title: t\nresults:\n- {instances: 1, users: 5, %s}\n"


def refusal(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInputError) as refused:
        audit_file(path, RunFacts())
    return str(refused.value)


@pytest.mark.parametrize(
    ("figures", "why"),
    [
        ("requests: 150", "does not print two figures that could be compared"),
        ("requests: 150, median_ms: 3", "does not print two figures that could be compared"),
        ("requests: 0", "counts no request"),
        ("requests: 0, failures: 0, rps: 0", "counts no request"),
    ],
)
def test_a_table_with_nothing_to_check_is_refused(tmp_path: Path, figures: str, why: str) -> None:
    assert f"table.yaml: {why}, so there is nothing to check" in refusal(tmp_path, "table.yaml", ROW % figures)


def test_one_check_is_enough_and_how_many_there_were_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(ROW % "requests: 150, failures: 3", encoding="utf-8")
    assert run_command(str(path)) == 0
    assert capsys.readouterr().out.endswith("0 findings in 1 checks\n")


def test_a_locust_csv_without_a_request_is_refused(tmp_path: Path) -> None:
    header = locust_csv(simulate(Experiment(seed=1, users=1))).splitlines()[0]
    zeros = ",".join("0" for _ in header.split(",")[2:])
    text = f"{header}\n,Aggregated,{zeros}\n"
    assert "counts no request, so there is nothing to check" in refusal(tmp_path, "run_stats.csv", text)


def test_a_line_and_a_column_that_stand_twice_in_locusts_csv_are_refused(tmp_path: Path) -> None:
    text = locust_csv(simulate(Experiment(seed=1, users=5)))
    header, lookup, *others = text.splitlines()
    again = "\n".join([header, lookup, lookup.replace(",0,", ",1,", 1), *others])
    assert "line 3: GET /lookup stands there twice, first in line 2" in refusal(tmp_path, "run_stats.csv", again)
    columns = "\n".join(f"{line},{line.split(',')[2]}" for line in text.splitlines())
    assert "the column Request Count stands there twice" in refusal(tmp_path, "run_stats.csv", columns)


def test_kinds_of_requests_that_read_alike_are_kept_apart(tmp_path: Path) -> None:
    text = locust_csv(simulate(Experiment(seed=1, users=5))).replace("GET,/lookup", ",GET /predict")
    path = tmp_path / "run_stats.csv"
    path.write_text(text, encoding="utf-8")
    found = audit_file(path, RunFacts())
    assert found.findings == []
    assert "type 'GET', name '/predict'" in found.rows[0].endpoints


def test_a_key_that_stands_twice_in_a_report_is_refused(tmp_path: Path) -> None:
    figures: dict[str, Any] = summarize(RunFolder(write_made_run(tmp_path / "run", made_plan(users=[10])))).model_dump(
        mode="json"
    )
    text = json.dumps(figures, indent=1)
    assert '"title": "' in text
    again = text.replace('"all_valid": true', '"all_valid": false,\n "all_valid": true')
    assert again != text
    assert "the key 'all_valid' stands twice in an object" in refusal(tmp_path, "report.json", again)
    assert "Infinity is no number of JSON" in refusal(
        tmp_path, "report.json", text.replace('"cores": 2', '"cores": Infinity')
    )
