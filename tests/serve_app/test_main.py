"""The command line of `serve-app`."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from serve_app.__main__ import _check, build_parser
from serve_app.deployments.cores import usable_cores
from serve_app.places import CONFIGS
from tests.ports import free_port
from tests.service import ROOT, read_config

RUN_S = 120


def test_the_help_has_examples_that_can_be_typed_exit_codes_and_defaults() -> None:
    help_text = build_parser("serve-app").format_help()
    examples = re.findall(r"^  serve-app(.*?)(?:  +\S.*)?$", help_text.partition("examples:")[2], re.MULTILINE)
    read = [build_parser("serve-app").parse_args(shlex.split(example)) for example in examples]
    assert [(one.config, one.check) for one in read] == [
        ("configs/one_replica.yaml", False), ("my_service.yaml", False), ("two_models", True),
    ]  # fmt: skip
    assert (CONFIGS / "two_models.yaml").is_file()
    assert re.findall(r"^  (\d)  \w+", help_text.partition("exit codes:")[2], re.MULTILINE) == ["0", "1", "2"]
    assert "default: 1800" in help_text
    assert "default: 20:" in help_text


def test_a_check_tells_the_threads_of_each_model_and_that_they_do_not_fit_the_cores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, cores = read_config("two_models.yaml"), usable_cores()
    config["http_options"]["port"] = free_port()
    for application, threads in zip(config["applications"][1:], ("auto", cores), strict=True):
        application["args"] |= {"threads": threads, "weights": "random"}
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(config))
    assert _check(path) == 0
    warning, *lines = capsys.readouterr().out.splitlines()
    assert warning.startswith("WARNING: THREADS: ")
    assert lines == [
        f"model: 1 replica(s) × {cores} thread(s) on {cores} core(s)",
        f"cats: 1 replica(s) × {cores} thread(s) on {cores} core(s)",
        f"{path} can be used",
    ]


@pytest.mark.parametrize(("number", "code", "told"), [(signal.SIGINT, 130, "stopped\n"), (signal.SIGTERM, 143, "")])
def test_a_check_that_is_ended_shows_no_traceback_and_its_code_is_not_that_of_a_usable_config(
    tmp_path: Path, number: signal.Signals, code: int, told: str
) -> None:
    labels = tmp_path / "labels"
    os.mkfifo(labels)  # who opens it waits for whoever opens its other end
    config = read_config("one_replica.yaml")
    config["applications"][1]["args"] |= {"weights": "random", "labels": str(labels)}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "serve_app", "--check", str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as checking, labels.open("w"):
        checking.send_signal(number)
        assert checking.communicate(timeout=RUN_S) == ("", told)
    assert checking.returncode == code


def test_it_is_printed_without_ray() -> None:
    code = "import sys; from serve_app.__main__ import main\ntry: main()\nfinally: print('ray' in sys.modules)"
    command = [sys.executable, "-c", code, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_S, check=True)
    assert "exit codes:" in done.stdout
    assert done.stdout.endswith("False\n")
