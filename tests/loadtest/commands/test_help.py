"""`loadtest COMMAND --help`: what a command does, its exit codes, an example, and the default of every option."""

import argparse
import re
import shlex

import pytest

from loadtest.__main__ import _parser
from tests.kit import ask

COMMANDS = ("faults", "soak", "overload", "capacity", "tune")


def parser_of(command: str) -> argparse.ArgumentParser:
    (commands,) = [one for one in _parser()._actions if isinstance(one, argparse._SubParsersAction)]
    found: argparse.ArgumentParser = commands.choices[command]
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_has_an_example_that_the_command_accepts(command: str) -> None:
    told = ask(command, "--help")
    assert told.exit_code == 0
    assert "Exit codes: 0 " in told.stdout
    (example,) = re.findall(r"^example:\n  python -m loadtest (.+)$", told.stdout, re.MULTILINE)
    parsed = _parser().parse_args(shlex.split(example))
    assert parsed.do.__name__ == command


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_explains_the_default_of_every_option_with_a_value(command: str) -> None:
    options = [one for one in parser_of(command)._actions if one.nargs != 0]
    assert len(options) > 2
    unexplained = [one.dest for one in options if not re.search(r"\w.*\((default: .+|required)\)", one.help or "")]
    assert unexplained == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_default_in_the_help_is_the_one_that_is_used(command: str) -> None:
    for one in parser_of(command)._actions:
        told = re.search(r"\(default: ([\d.]+)\)", one.help or "")
        if told and one.default is not None:
            assert float(told[1]) == one.default, one.dest
