"""`--help` of run, report and compare: an example that parses, and the default of every option."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from loadtest.commands import compare, report, run
from loadtest.measure.runner import run_plan
from loadtest.plan.plan import load_plan
from loadtest.rows.run_folder import RunFolder
from tests.kit import ROOT

COMMANDS = {"run": run, "report": report, "compare": compare}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_and_every_default(name: str) -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    COMMANDS[name].add_command(commands)
    command = commands.choices[name]
    assert command.epilog
    for example in re.findall(r"Example: loadtest ([^.]+(?:\\.yaml[^.]*)?)", command.epilog):
        parser.parse_args(shlex.split(example))
    options = [action for action in command._actions if action.option_strings and action.dest != "help"]
    assert options
    assert [action.dest for action in options if "default" not in (action.help or "")] == []


def test_run_tells_how_long_it_takes_before_it_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "configs/stress/quick.yaml"
    plan = load_plan(path, {"users": [1, 2], "duration_s": 60, "repetitions": 1})
    run_plan(plan, path, RunFolder(tmp_path / "run"), may_begin=lambda _: False)
    told = capsys.readouterr().err
    assert re.search(r"^\d+ cell\(s\) to measure: about \d[\d:]* (min|h), at most \d[\d:]* (min|h)", told, re.MULTILINE)
