"""`loadtest COMMAND --help`: what a command does, its exit codes, examples that it accepts, and every default."""

import argparse
import re
import shlex

import pytest

from loadtest.__main__ import _parser
from tests.kit import ask


def commands() -> dict[str, argparse.ArgumentParser]:
    (found,) = [one for one in _parser([])._actions if isinstance(one, argparse._SubParsersAction)]
    return dict(found.choices)


COMMANDS = commands()


def test_every_command_is_made_alike() -> None:
    assert len(COMMANDS) == 11
    assert {command.formatter_class for command in COMMANDS.values()} == {argparse.RawDescriptionHelpFormatter}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_has_examples_that_the_command_accepts(command: str) -> None:
    told = ask(command, "--help")
    assert told.exit_code == 0
    assert "\nExit codes: 0 " in told.stdout
    examples = told.stdout.partition("\nexamples:\n")[2].splitlines()
    assert examples
    for example in examples:
        words = shlex.split(example)
        assert words[:4] == ["python", "-m", "loadtest", command]
        assert _parser([]).parse_args(words[3:]).do.__name__ == command


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_explains_the_default_of_every_option(command: str) -> None:
    optional = [one for one in COMMANDS[command]._actions if one.option_strings and one.dest != "help"]
    optional += [one for one in COMMANDS[command]._actions if one.default is not None and one.nargs == "?"]
    assert optional
    unexplained = [one.dest for one in optional if not re.search(r"\w.*\((default: .+|required)\)", one.help or "")]
    assert unexplained == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_default_in_the_help_is_the_one_that_is_used(command: str) -> None:
    for one in COMMANDS[command]._actions:
        told = re.search(r"\(default: ([\d.]+)\)", one.help or "")
        if told and one.default is not None:
            assert float(told[1]) == one.default, one.dest
