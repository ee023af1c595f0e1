"""API keys: who must name them, where they stand, how they are exchanged, and that no text shows them."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from serve_app.deployments.config_file import load_config
from serve_app.entrance.guard import Guard
from serve_app.entrance.keys import ApiKeys, KeySource, is_loopback
from serve_app.errors import SetupError
from serve_app.users.settings import UsersSettings
from tests.service import read_config

FIRST, SECOND = "the-first-key-of-ours", "the-second-key-of-ours"


def keys_in(path: Path, text: str) -> ApiKeys:
    path.write_text(text)
    return ApiKeys(KeySource(keys_file=str(path)))


def config_with(tmp_path: Path, host: str | None, auth: dict[str, Any]) -> Path:
    """Write the shipped config with another host and `auth` by application (absent: none given)."""
    config = read_config("one_replica.yaml")
    if host is None:
        del config["http_options"]["host"]
    else:
        config["http_options"]["host"] = host
    for application in config["applications"]:
        if application["name"] in auth:
            application["args"]["auth"] = auth[application["name"]]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "192.0.2.1", "example.com", None])
def test_an_open_address_needs_an_answer_to_who_may_come_in(tmp_path: Path, host: str | None) -> None:
    with pytest.raises(SetupError) as caught:
        load_config(config_with(tmp_path, host, {}))
    for words in ("applications[users].args.auth", "applications[model].args.auth", "keys_env", "auth: none"):
        assert words in str(caught.value)


def test_one_application_alone_must_answer_too(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"\[model\]\.args\.auth") as caught:
        load_config(config_with(tmp_path, "0.0.0.0", {"users": "none"}))
    assert "[users].args.auth" not in str(caught.value)


@pytest.mark.parametrize("auth", ["none", {"keys_env": "API_KEYS"}, {"keys_file": "/etc/keys"}])
def test_any_answer_will_do(tmp_path: Path, auth: object) -> None:
    assert load_config(config_with(tmp_path, "0.0.0.0", {"users": auth, "model": auth}))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.53", "::1", "localhost"])
def test_loopback_needs_nothing(tmp_path: Path, host: str) -> None:
    assert is_loopback(host)
    assert load_config(config_with(tmp_path, host, {}))


@pytest.mark.parametrize(
    "auth",
    [
        FIRST,
        {"keys": FIRST},
        {"keys_env": FIRST},
        {"keys_file": f"./{FIRST}"},
        {},
        {"keys_env": "A", "keys_file": "/b"},
    ],
)
def test_a_key_that_stands_in_the_config_is_refused_and_not_shown(tmp_path: Path, auth: object) -> None:
    with pytest.raises(SetupError, match="auth") as caught:
        load_config(config_with(tmp_path, "0.0.0.0", {"users": auth, "model": "none"}))
    assert FIRST not in str(caught.value)
    with pytest.raises(ValidationError) as invalid:
        UsersSettings.model_validate({"auth": auth})
    assert FIRST not in str(invalid.value)


async def test_a_replica_on_an_open_address_does_not_start_without_an_answer() -> None:
    """`serve run` and `serve deploy` do not ask the launcher."""

    async def everywhere() -> str:
        return "0.0.0.0"

    with pytest.raises(SetupError, match=r"http_options.host: 0\.0\.0\.0.*auth: none"):
        await Guard.of(None, everywhere)
    assert await Guard.of("none", everywhere)
    with pytest.raises(SetupError, match="holds no API key"):
        await Guard.of(KeySource(keys_env="NOT_SET_AT_ALL"), everywhere)


def test_several_keys_are_valid_at_once_by_comma_line_or_space(tmp_path: Path) -> None:
    for text in (f"{FIRST},{SECOND}", f"{FIRST}\n{SECOND}\n", f"# ours\n  {FIRST} , {SECOND}  # two\r\n"):
        keys = keys_in(tmp_path / "keys", text)
        assert keys.admit(FIRST)
        assert keys.admit(SECOND)
        for wrong in ("", FIRST[:-1], f"{FIRST},{SECOND}", "# ours", "ours", "\udcff" * 20):
            assert not keys.admit(wrong)


def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYS_OF_THIS_TEST", f"{FIRST},{SECOND}")
    assert ApiKeys(KeySource(keys_env="KEYS_OF_THIS_TEST")).admit(SECOND)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no API key"),
        ("# only a comment\n", "holds no API key"),
        (f"{FIRST}\nfifteen-letters", "API key 2 in the file"),
        ("key-with-an-umläut", "printable ASCII"),
    ],
)
def test_bad_keys_stop_the_start_and_are_not_shown(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SetupError, match=words) as caught:
        keys_in(tmp_path / "keys", text)
    assert FIRST not in str(caught.value)
    assert "fifteen" not in str(caught.value)


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot be read"):
        ApiKeys(KeySource(keys_file=str(tmp_path / "nothing")))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SetupError, match="is not UTF-8 text; write one key a line"):
        ApiKeys(KeySource(keys_file=str(tmp_path / "binary")))


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    keys = keys_in(path, FIRST)
    path.write_text(f"{FIRST}\n{SECOND}")
    assert keys.admit(SECOND)
    other = tmp_path / "other"
    other.write_text(SECOND)
    other.replace(path)
    assert keys.admit(SECOND)
    assert not keys.admit(FIRST)


def test_a_file_that_breaks_locks_nobody_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys"
    keys = keys_in(path, FIRST)
    path.write_text("short")
    assert keys.admit(FIRST)
    assert not keys.admit("short")
    path.unlink()
    assert keys.admit(FIRST)
    assert "API keys stay as they were" in caplog.text
    assert FIRST not in caplog.text
    path.write_text(SECOND)
    os.utime(path, ns=(1, 1))
    assert keys.admit(SECOND)
    assert not keys.admit(FIRST)
