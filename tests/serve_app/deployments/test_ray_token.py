"""Ray's token is for its user alone: made so, and closed where Ray has left it open."""

import os
import stat
from pathlib import Path

import pytest

from serve_app.deployments.ray_token import FILE_VARIABLE, VARIABLES, default_file, keep_token_private, read_token
from serve_app.errors import SetupError


@pytest.fixture(autouse=True)
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where the token of a user is who has none yet, and whose new files everyone may read."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return default_file(tmp_path)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_token_and_its_folder_are_for_its_user_alone(token: Path) -> None:
    keep_token_private()
    assert (mode(token), mode(token.parent)) == (0o600, 0o700)
    assert len(read_token()) == 64


def test_a_token_that_is_there_stays_and_is_closed_to_others(token: Path) -> None:
    token.parent.mkdir()
    token.write_text("of before")
    token.chmod(0o644)
    keep_token_private()
    assert (mode(token), token.read_text()) == (0o600, "of before")


def test_a_token_in_a_file_that_cannot_be_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FILE_VARIABLE, f"/{300 * 'x'}")
    assert read_token() == ""


def test_ray_writes_and_reads_it_where_we_do(token: Path) -> None:
    from ray._private.authentication import authentication_token_setup

    assert authentication_token_setup._get_default_token_path() == token


@pytest.mark.parametrize("variable", VARIABLES)
def test_with_a_token_that_a_variable_gives_none_is_made(
    token: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "given")
    keep_token_private()
    assert not token.parent.exists()


def test_a_home_that_takes_no_token_is_told_in_one_line(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", os.devnull)
    with pytest.raises(
        SetupError, match=r"^HOME: /dev/null/\.ray/auth_token cannot be made: Not a directory; set HOME"
    ):
        keep_token_private()
    assert not token.exists()
