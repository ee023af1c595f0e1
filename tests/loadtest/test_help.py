"""`--help` of run, report and compare: an example that parses, and the default of every option."""

import argparse
import re
import shlex
from datetime import timedelta
from pathlib import Path

import pytest

from loadtest.commands import compare, report, run
from loadtest.plan.longest import longest_cell_s
from loadtest.rows.run_folder import RunFolder
from tests.made_run import made_plan, write_made_run

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
    assert [
        action.dest for action in options if "default" not in (action.help or "") and action.dest != "in_flight"
    ] == []


def test_run_tells_how_long_the_cells_that_are_left_take_at_most(tmp_path: Path) -> None:
    plan = made_plan(baseline=None)
    folder = RunFolder(tmp_path)
    each_s = longest_cell_s(plan, plan.targets[0])
    assert run.tell_time(plan, folder) == f"8 of 8 cells to measure, in at most {timedelta(seconds=8 * each_s)} h"
    write_made_run(tmp_path, plan.model_copy(update={"users": [10, 25]}))
    assert run.tell_time(plan, folder) == f"4 of 8 cells to measure, in at most {timedelta(seconds=4 * each_s)} h"
