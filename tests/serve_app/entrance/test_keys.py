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
        assert keys.find_name(FIRST)
        assert keys.find_name(SECOND)
        for wrong in ("", FIRST[:-1], f"{FIRST},{SECOND}", "# ours", "ours", "\udcff" * 20):
            assert not keys.find_name(wrong)


def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYS_OF_THIS_TEST", f"{FIRST},{SECOND}")
    source = KeySource(keys_env="KEYS_OF_THIS_TEST")
    assert ApiKeys(source).find_name(SECOND)
    monkeypatch.setenv("KEYS_OF_THIS_TEST", f"shop: {FIRST} {SECOND}")
    with pytest.raises(SetupError, match="write `name: KEY`, separated by commas"):
        ApiKeys(source)


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    for text, name in ((f"\ufeffshop: {FIRST}", "shop"), (f"\ufeff{FIRST}", "key-1")):
        assert keys_in(tmp_path / "keys", text).find_name(FIRST) == name


def test_a_long_name_of_letters_is_no_key(tmp_path: Path) -> None:
    name = "recommendations-of-the-shop"
    assert keys_in(tmp_path / "keys", f"{name}: {FIRST}").find_name(FIRST) == name


def test_a_key_has_the_name_that_stands_before_it_or_that_of_its_place(tmp_path: Path) -> None:
    third = "a-third-key: no-name"  # the space makes it two words, of which none is a key
    for text in (f"# ours\nshop: {FIRST}  # the shop's\n{SECOND}\n", f"shop:  {FIRST},{SECOND}"):
        keys = keys_in(tmp_path / "keys", text)
        assert (keys.find_name(FIRST), keys.find_name(SECOND), keys.count_clients()) == ("shop", "key-2", 2)
        assert not {keys.find_name(each) for each in ("shop", "shop:", f"shop: {FIRST}", third)} - {None}


def test_a_client_that_exchanges_its_key_stays_one_client(tmp_path: Path) -> None:
    keys = keys_in(tmp_path / "keys", f"shop: {FIRST}\nshop: {SECOND}\n")
    assert (keys.find_name(FIRST), keys.find_name(SECOND), keys.count_clients()) == ("shop", "shop", 1)


def test_a_key_that_stands_there_twice_is_one_key(tmp_path: Path) -> None:
    named = f"shop: {FIRST}"
    for text, name in ((f"{FIRST},{FIRST}", "key-1"), (f"{named}\n{FIRST}", "shop"), (f"{FIRST}\n{named}", "shop")):
        keys = keys_in(tmp_path / "keys", text)
        assert (keys.find_name(FIRST), keys.count_clients()) == (name, 1)


def test_a_key_with_a_colon_in_it_is_a_key_and_the_log_tells_how_to_name_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = keys_in(tmp_path / "keys", f"{FIRST}\nshop:{SECOND}")
    assert (keys.find_name(f"shop:{SECOND}"), keys.find_name(SECOND)) == ("key-2", None)
    assert "key-2 in the file" in caplog.text
    assert "`name: KEY`, with a space" in caplog.text
    assert SECOND not in caplog.text


def test_the_log_has_the_names_of_the_keys_and_no_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        keys_in(tmp_path / "keys", f"shop: {FIRST}\n{SECOND}")
    assert "named shop, key-2" in caplog.text
    assert FIRST not in caplog.text
    assert SECOND not in caplog.text


@pytest.mark.parametrize(
    ("share", "words"),
    [(0, "greater than 0"), (1.01, "less than or equal to 1"), ("half", "a valid number"), (True, "a number")],
)
def test_a_share_that_is_none_is_refused_by_name(tmp_path: Path, share: object, words: str) -> None:
    auth = {"keys_env": "API_KEYS", "share": share}
    with pytest.raises(SetupError, match=rf"applications\[model\]\.args\.auth\.share: must be {words}"):
        load_config(config_with(tmp_path, "127.0.0.1", {"model": auth}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no API key"),
        (f"shop:\n{FIRST}", "API key 1 in the file .* has a name with 0 words behind it"),
        (f"{FIRST}\nshop: {SECOND} {FIRST}", "API key 2 in the file .* has a name with 2 words behind it"),
        (f"{FIRST} fifteen-letters: {SECOND}", "API key 1 in the file .* is followed by a name without a separator"),
        (f"{FIRST} {SECOND}:", "API key 1 in the file .* is followed by a name without a separator"),
        (f"{FIRST}:{FIRST}:", "a name with 0 words"),
        (f"fifteen{FIRST}{FIRST}: {SECOND}", "a name that cannot be used"),
        (f"key-1: {FIRST}", "names such as key-1 are those of keys without a name"),
        (f"1st: {FIRST}", "begins with a letter"),
        (f"shop: {FIRST}\nweb: {FIRST}", "API key 2 in the file .* stands there as shop and as web"),
        (f"shop : {SECOND}", "API key 1 in the file .* has a colon that stands alone; write `name: KEY`, one a line"),
        (f"{FIRST}1: {SECOND}", "has a name that looks like a key.* take a name without digits"),
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
    assert keys.find_name(SECOND)
    other = tmp_path / "other"
    other.write_text(SECOND)
    other.replace(path)
    assert keys.find_name(SECOND)
    assert not keys.find_name(FIRST)


def test_a_file_that_breaks_locks_nobody_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys"
    keys = keys_in(path, FIRST)
    path.write_text("short")
    assert keys.find_name(FIRST)
    assert not keys.find_name("short")
    path.unlink()
    assert keys.find_name(FIRST)
    assert "API keys stay as they were" in caplog.text
    assert FIRST not in caplog.text
    path.write_text(SECOND)
    os.utime(path, ns=(1, 1))
    assert keys.find_name(SECOND)
    assert not keys.find_name(FIRST)
