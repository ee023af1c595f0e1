"""What the client takes and where it writes: names with dashes, pipes, standard input and output, lists with a BOM."""

import io
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from serve_app.__main__ import main as service_main
from serve_app.client import options
from serve_app.client.__main__ import main as client_main
from serve_app.client.connection import Connection, parse
from serve_app.client.evaluate import options as evaluate_options
from serve_app.client.options import read_options
from tests.known_service import KnownService, known_service
from tests.serve_app.client.conftest import Client

RUN_S = 120.0


@pytest.fixture
def known() -> Iterator[KnownService]:
    with known_service() as running:
        yield running


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jpg").write_bytes(b"label:file:")


def client_process(known: KnownService, *arguments: str, stdin: bytes) -> tuple[int, str, str]:
    """Run the client in a process of its own; return exit code, standard output and standard error."""
    command = [sys.executable, "-m", "serve_app.client", "--server", known.url, *arguments]
    ended = subprocess.run(command, input=stdin, capture_output=True, timeout=RUN_S, check=False)
    return ended.returncode, ended.stdout.decode(), ended.stderr.decode()


def found(out: str) -> list[tuple[str, str]]:
    """Return file and prediction of each row of CSV output."""
    rows = [line.split(",") for line in out.splitlines()]
    assert rows[0][:2] == ["file", "prediction"]
    return [(row[0], row[1]) for row in rows[1:]]


def test_a_name_that_begins_with_a_dash_comes_after_two_dashes(known: KnownService, client: Client) -> None:
    Path("-dash.jpg").write_bytes(b"label:dash:")
    Path("--urls").write_bytes(b"label:urls:")
    code, out, err = client(known.url, "a.jpg", "--format", "csv", "--", "-dash.jpg", "--urls", "--")
    assert (code, "--: no such file" in err) == (2, True)
    code, out, err = client(known.url, "a.jpg", "--format", "csv", "--", "-dash.jpg", "--urls")
    assert (code, found(out)) == (0, [("a.jpg", "file"), ("./-dash.jpg", "dash"), ("./--urls", "urls")]), err
    code, out, err = client(known.url, "-dash.jpg")
    assert (code, out) == (2, "")
    assert "error: -dash.jpg: no such option" in err
    assert "a file whose name begins with - comes after --" in err


def test_a_pipe_is_read_like_a_file(known: KnownService, client: Client) -> None:
    os.mkfifo("pipe.jpg")
    writer = subprocess.Popen(["/bin/sh", "-c", "printf label:pipe: > pipe.jpg"])
    code, out, err = client(known.url, "pipe.jpg", "--format", "csv")
    assert (code, found(out)) == (0, [("pipe.jpg", "pipe")]), err
    assert writer.wait(RUN_S) == 0


def test_a_process_substitution_is_read_like_a_file(known: KnownService) -> None:
    python = shlex.quote(sys.executable)
    line = f"{python} -m serve_app.client --server {known.url} --format csv <(printf label:one:) a.jpg"
    ended = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=RUN_S, check=True)
    assert [prediction for _, prediction in found(ended.stdout)] == ["one", "file"]


def test_ctrl_c_ends_it_while_a_pipe_has_no_writer(known: KnownService) -> None:
    os.mkfifo("silent.jpg")
    command = [sys.executable, "-m", "serve_app.client", "--server", known.url, "silent.jpg", "a.jpg"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline_s = time.monotonic() + RUN_S
    while not known.requests("POST", "/model/predict"):  # the file beside it is there: so the pipe is waited for
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=RUN_S)
    assert (process.returncode, err.splitlines()[-1]) == (130, "stopped by Ctrl-C")


@pytest.mark.parametrize("mode", [[], ["--jobs"]], ids=["predict", "jobs"])
def test_a_dash_is_standard_input_and_standard_output(known: KnownService, mode: list[str]) -> None:
    given = ["-", "a.jpg", "--output", "-", "--format", "csv", *mode]
    code, out, err = client_process(known, *given, stdin=b"label:piped:")
    assert (code, found(out)) == (0, [("stdin", "piped"), ("a.jpg", "file")]), err
    assert not Path("-").exists()


def test_standard_input_that_is_too_large_or_closed_fails_alone(known: KnownService) -> None:
    code, out, _ = client_process(known, "-", "a.jpg", "--format", "csv", stdin=bytes(known.max_upload_bytes + 1))
    assert (code, found(out)) == (1, [("stdin", ""), ("a.jpg", "file")])
    line = f"exec {shlex.quote(sys.executable)} -m serve_app.client --server {known.url} --format csv - a.jpg <&-"
    ended = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=RUN_S, check=False)
    assert (ended.returncode, found(ended.stdout)) == (1, [("stdin", ""), ("a.jpg", "file")]), ended.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-", "-"], "-: standard input can be read only once"),
        (["-", "--urls", "-"], "-: standard input can be read only once"),
        (["a.jpg", "--output", "-", "--resume"], "--resume: needs the file to resume"),
    ],
)
def test_standard_input_and_output_have_their_limits(
    known: KnownService, client: Client, arguments: list[str], words: str
) -> None:
    code, out, err = client(known.url, *arguments)
    assert (code, out) == (2, "")
    assert words in err


@pytest.mark.parametrize("mark", ["\ufeff", "\ufeff# a comment\r\n\r\n"])
def test_a_list_may_begin_with_a_byte_order_mark(
    known: KnownService, client: Client, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = f"{mark}{known.url}/model/\r\n{known.url}/model/\r\n".encode()
    Path("urls.txt").write_bytes(lines)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines), "utf-8"))
    for given in ("urls.txt", "-"):
        code, out, err = client(known.url, "--urls", given, "--format", "csv")
        assert (code, [file for file, _ in found(out)]) == (0, [f"{known.url}/model/"] * 2), err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--url", "urls.txt"], "error: --url: no such option; did you mean --urls?"),
        (["--url=http://user:pl4nted@host/a.jpg"], "error: --url: no such option; did you mean --urls?"),
        (["a.jpg", "--outptu=b.csv"], "error: --outptu: no such option; did you mean --output?"),
        (["a.jpg", "--zzz"], "error: --zzz: no such option; python -m serve_app.client --help lists the options"),
        (["a.jpg", "--top-k"], "error: --top-k: expected one argument"),
    ],
)
def test_an_unknown_option_is_told_in_one_line(
    known: KnownService, client: Client, arguments: list[str], words: str
) -> None:
    code, out, err = client(known.url, *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert words in err


def test_every_option_has_an_example_and_its_default_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    parser = options.make_parser()
    for action in parser._actions:
        assert action.help is not None
        if action.dest == "help":
            continue
        assert "for example: " in action.help, action.dest
        assert action.dest == "what" or "(default: " in action.help, action.dest
        for option in action.option_strings:
            assert option in action.help.rpartition("for example: ")[2]
    with pytest.raises(SystemExit):
        read_options(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith("usage: python -m serve_app.client [")
    assert "(default: 120 for an answer, 10 for the first contact, 60 for a download)" in shown


@pytest.mark.parametrize(
    ("command", "kind"), [(options, options.Options), (evaluate_options, evaluate_options.EvaluateOptions)]
)
def test_every_example_in_the_help_is_parsed(command: ModuleType, kind: type[Connection]) -> None:
    parser = command.make_parser()
    examples = parser.format_help().partition("\nexamples:\n")[2].splitlines()
    examples += [
        f"{parser.prog} {action.help.rpartition('for example: ')[2]}"
        for action in parser._actions
        if action.help and action.dest != "help"
    ]
    assert len(examples) > 10
    for example in examples:
        words = shlex.split(example.rpartition("|")[2], comments=True)
        prog = parser.prog.split()
        assert words[: len(prog)] == prog
        assert isinstance(parse(command.make_parser(), kind, words[len(prog) :]), kind), example


@pytest.mark.parametrize(
    ("main", "typed", "module"),
    [(client_main, "serve-app-client", "serve_app.client"), (service_main, "serve-app", "serve_app")],
)
def test_the_usage_names_the_program_that_was_typed(
    main: Callable[[], int],
    typed: str,
    module: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path, shown in ((f"bin/{typed}", typed), (f"{module}/__main__.py", f"python -m {module}")):
        monkeypatch.setattr(sys, "argv", [path, "--help"])
        with pytest.raises(SystemExit):
            main()
        assert capsys.readouterr().out.startswith(f"usage: {shown} [")
