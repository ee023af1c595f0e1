"""What runs the client in the test's own process: another one takes a third of a second of CPU."""

from collections.abc import Callable

import pytest

from serve_app.client.__main__ import main

Client = Callable[..., tuple[int, str, str]]
"""Runs the client with a server and further arguments; returns exit code, standard output and standard error."""


@pytest.fixture
def client(capsys: pytest.CaptureFixture[str]) -> Client:
    """Return what runs the client."""

    def run(server: str, *arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["--server", server, *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
