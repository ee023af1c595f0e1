"""Passwords that come in by any way stand in no message, log or answer; a bad address is told before Ray starts.

What needs a running service is in tests/serve_app/running/test_network.py.
"""

import json
import logging
import subprocess
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from serve_app import redeploy
from serve_app.classifier.job_settings import JobSettings
from serve_app.classifier.settings import ClassifierSettings
from serve_app.deployments import model, users
from serve_app.deployments.config_file import load_config
from serve_app.deployments.preflight import CHECKS, Start, find_faults
from serve_app.errors import JobsUnavailable, SetupError
from serve_app.jobs.outage import Outage
from serve_app.jobs.queue.submit import JobStore
from serve_app.redis.connection import connect, describe_fault
from serve_app.seed_users import main as seed_users
from serve_app.users.settings import UsersSettings
from tests.ports import free_port
from tests.redis_server import RedisServer
from tests.serve_app.users.test_users import assert_error, users_client
from tests.service import CONFIGS, ROOT, adapted, read_config, whole_config, write_config

PLANTED = "pl4nted"
RUN_S = 120

BAD_REDIS = [
    f"redis://user:{PLANTED}/x@127.0.0.1:6379/0",
    f"redis://:12/{PLANTED}@127.0.0.1:6379/0",
    f"redis://user:{PLANTED}@x@127.0.0.1:6379/0",
    f"redis://user:{PLANTED}#x@127.0.0.1:6379/0",
    f"redis://user:{PLANTED}?x@127.0.0.1:6379/0",
    f"redis://user:{PLANTED}@127.0.0.1:99999/0",
    f"redis://user:{PLANTED}@127.0.0.1:{PLANTED}/0",
    f"redis://user:{PLANTED}@127.0.0.1:6379/{PLANTED}",
    f"redis://user:{PLANTED}@127.0.0.1:6379/0?foo=bar",
    f"redis://user:{PLANTED}@127.0.0.1:6379/0?decode_responses=true",
    f"redis://user:{PLANTED}",
    f"memcached://user:{PLANTED}@127.0.0.1",
    PLANTED,
]
BAD_DATABASE = [
    f"mysql://user:{PLANTED}@127.0.0.1/x",
    f"postgresql://user:{PLANTED}@x@127.0.0.1/x",
    f"postgresql://user:12/{PLANTED}@127.0.0.1/x",
    f"postgresql://user:{PLANTED}@127.0.0.1:99999/x",
    f"postgresql://user:{PLANTED}@127.0.0.1/x?sslmode=require&channel_binding=require",
    f"postgresql://user:{PLANTED}@127.0.0.1/x?password={PLANTED}&{PLANTED}=1",
    f"postgresql://user:{PLANTED}@127.0.0.1/x?sslmode={PLANTED}",
    f"sqlite:///x.db?password={PLANTED}",
]

# Starts the service for each environment in one process, as `python -m serve_app` does.
START_ALL = """
import json, os, sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from serve_app.__main__ import main
for environment in json.loads(sys.stdin.read()):
    os.environ.update({"REDIS_URL": "", "DATABASE_URL": ""} | environment)
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = main()
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


def starts(config: Path, environments: list[dict[str, str]]) -> list[tuple[int, str, str]]:
    """Return exit code, output and errors of a start in each environment; output begins when Ray starts."""
    done = subprocess.run(
        [sys.executable, "-c", START_ALL, str(config)],
        input=json.dumps(environments),
        capture_output=True,
        text=True,
        timeout=RUN_S,
        cwd=ROOT,
        check=False,
    )
    assert PLANTED not in done.stderr
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_a_bad_address_stops_the_start_before_ray_and_is_not_shown(tmp_path: Path) -> None:
    config = write_config(tmp_path, adapted("one_replica.yaml", port=free_port(), model_args={}))
    bad = [{"REDIS_URL": url} for url in BAD_REDIS] + [{"DATABASE_URL": url} for url in BAD_DATABASE]
    ended = starts(config, bad)
    assert len(ended) == len(bad)
    for environment, (code, out, err) in zip(bad, ended, strict=True):
        [variable] = environment
        assert (code, out) == (2, ""), environment
        assert err.startswith(f"error: {variable}: "), environment
        assert "; use " in err
        assert err.count("\n") == 1
        assert PLANTED not in err


def test_only_addresses_that_the_config_needs_stop_its_start() -> None:
    """Another program's DATABASE_URL is nobody's business where no users are served."""
    config = read_config("one_replica.yaml")
    for number, needless, needed in ((0, "REDIS_URL", "DATABASE_URL"), (1, "DATABASE_URL", "REDIS_URL")):
        alone = {**config, "applications": [config["applications"][number]]}
        assert find_faults(Start(alone, {needless: f"mysql://user:{PLANTED}@x"}), CHECKS) == []
        [fault] = find_faults(Start(alone, {needed: f"mysql://user:{PLANTED}@x"}), CHECKS)
        assert fault.key == needed


def test_a_cache_that_needs_redis_is_told_before_ray_too(tmp_path: Path) -> None:
    config = read_config("one_replica.yaml")
    config["applications"][1]["args"]["cache"]["store"] = "redis"
    [(code, out, err)] = starts(write_config(tmp_path, config), [{}])
    assert (code, out) == (2, "")
    assert "cache.store: redis needs REDIS_URL" in err


async def start_replica(deployment: Any, settings: object) -> None:
    """Do what a replica does first; Serve makes it in a process of its own."""
    await deployment.func_or_class.__serve_build_asgi_app__(SimpleNamespace(_settings=settings))


@pytest.mark.parametrize("url", BAD_REDIS)
async def test_without_the_launcher_the_model_refuses_a_bad_redis(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """`serve run` builds the application once; a replica on another node looks again."""
    monkeypatch.setenv("REDIS_URL", url)
    settings = ClassifierSettings(auth="none")
    with pytest.raises(SetupError, match=r"^REDIS_URL: ") as built:
        model.build(settings)
    with pytest.raises(SetupError, match=r"^REDIS_URL: ") as started:
        await start_replica(model.ClassifierDeployment, settings)
    assert PLANTED not in str(built.value) + str(started.value)


@pytest.mark.parametrize("url", BAD_DATABASE)
async def test_without_the_launcher_users_refuse_a_bad_database(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    settings = UsersSettings(auth="none")
    with pytest.raises(SetupError, match=r"^DATABASE_URL: ") as built:
        users.build(settings)
    with pytest.raises(SetupError, match=r"^DATABASE_URL: ") as started:
        await start_replica(users.UsersDeployment, settings)
    assert PLANTED not in str(built.value) + str(started.value)


@pytest.mark.parametrize("url", BAD_DATABASE)
def test_the_seeding_command_shows_no_password(capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert seed_users(["--database-url", url]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("seed_users: DATABASE_URL: ")
    assert PLANTED not in out + err


async def test_a_database_that_is_not_there_shows_no_password(caplog: pytest.LogCaptureFixture) -> None:
    """In the answer, in the log, and in the tracebacks there."""
    with caplog.at_level(logging.DEBUG):
        for place in ("127.0.0.1:1", "host.invalid", "[::1]:1"):
            for address in (f"user:{PLANTED}@{place}/{PLANTED}", f"{PLANTED}@{place}/x?sslmode=require"):
                async with users_client(f"postgresql://{address}") as client:
                    detail = assert_error(await client.get("/ready"), 503, "database_unavailable")
                    assert PLANTED not in detail
    assert "users database" in caplog.text
    assert PLANTED not in caplog.text


# --- URLs of weights and labels, and whatever else stands in a config ---

BAD_URLS = [
    f"https://user:{PLANTED}/x@host/w.h5",
    f"https://user:12/{PLANTED}@host/w.h5",
    f"https://user:{PLANTED}@x@host/w.h5",
    f"https://user:{PLANTED}@host:99999/w.h5",
    f"https://user:{PLANTED}@host/w.h5#{PLANTED}",
    f"https://user:{PLANTED}@/w.h5",
    f"ftp://user:{PLANTED}@host/w.h5",
    f"//user:{PLANTED}@host/w.h5",
    f"user:{PLANTED}@host/w.h5",
    f"https:/user:{PLANTED}@host/w.h5",
    f"https//user:{PLANTED}@host/w.h5",
    f"s3:/user:{PLANTED}@host/w.h5",
    f"/user:{PLANTED}@host/w.h5",
    f"https:/user:12/{PLANTED}@host/w.h5",
    f"https://user:{PLANTED}@host/w.h5",  # without its checksum
    {"user": PLANTED},
    [PLANTED],
]


def refusal(tmp_path: Path, config: dict[str, Any]) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(SetupError) as caught:
        load_config(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("field", "url"),
    [("weights", f"https://user:{PLANTED}@host/w.bin"), *product(("weights", "labels"), BAD_URLS)],
    ids=str,
)
def test_a_url_that_cannot_be_used_is_refused_by_its_key_and_not_shown(tmp_path: Path, field: str, url: object) -> None:
    config = read_config("one_replica.yaml")
    config["applications"][1]["args"][field] = url
    told = refusal(tmp_path, config)
    assert f"applications[model].args.{field}" in told or f"{field} is a URL" in told or f"{field} must be" in told
    assert PLANTED not in told


def leaves(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the paths of all values in a config that are neither lists nor mappings."""
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))]
    if isinstance(value, list):
        return [leaf for number, inner in enumerate(value) for leaf in leaves(inner, (*path, number))]
    return [path]


def test_no_value_of_any_setting_comes_back_in_a_refusal(tmp_path: Path) -> None:
    """Somebody may have put a key there, or a URL with a password."""
    settings = [leaf for leaf in leaves(whole_config("one_replica.yaml")) if "args" in leaf]
    assert len(settings) > 30
    for leaf in settings:
        config = inner = whole_config("one_replica.yaml")
        for step in leaf[:-1]:
            inner = inner[step]  # type: ignore[index]
        inner[leaf[-1]] = f"https://user:{PLANTED}@host:99999/x"  # type: ignore[index]
        told = refusal(tmp_path, config)
        assert str(leaf[-1]) in told
        assert PLANTED not in told


@pytest.mark.parametrize(
    "runtime_env",
    [
        {"env_vars": {"REDIS_URL": f"redis://:{PLANTED}@host"}},
        {"env_vars": {"DATABASE_URL": f"postgresql://u:{PLANTED}@host/x"}},
        {"env_vars": {"API_KEYS": PLANTED}},
        {"working_dir": f"user:{PLANTED}@host/x.zip"},
        {"py_modules": [f"git://user:{PLANTED}@host/x"]},
    ],
)
@pytest.mark.parametrize("level", ["application", "deployment"])
def test_what_ray_would_write_into_its_logs_is_refused(tmp_path: Path, runtime_env: dict[str, Any], level: str) -> None:
    config = whole_config("one_replica.yaml")
    application = config["applications"][1]
    application["args"]["auth"] = {"keys_env": "API_KEYS"}
    options = application["deployments"][0]["ray_actor_options"] if level == "deployment" else application
    options["runtime_env"] = runtime_env
    told = refusal(tmp_path, config)
    assert "runtime_env" in told
    assert PLANTED not in told


@pytest.mark.parametrize(
    "line", [f"weights: https://user:{PLANTED}: x", f"weights: 'https://{PLANTED}", f"weights: @{PLANTED}", "\x00"]
)
def test_a_line_that_is_no_yaml_is_told_by_its_number_only(tmp_path: Path, line: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text((CONFIGS / "one_replica.yaml").read_text() + f"\n{line}\n")
    with pytest.raises(SetupError, match=r"config.yaml is not YAML: ") as caught:
        load_config(path)
    assert PLANTED not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        f"modle.weights=https://user:{PLANTED}@host/w.h5",
        f"https://user:{PLANTED}@host/w.h5",
        f"model.weights=https://user:{PLANTED}@host/w.h5",
        f"model.weights=https://user:{PLANTED}: x",
        f"model.cache={{store: {PLANTED}}}",
    ],
)
def test_a_change_that_is_refused_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["redeploy", str(CONFIGS / "one_replica.yaml"), "--set", change])
    assert redeploy.main() == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert PLANTED not in out + err


@pytest.mark.parametrize("by", ["option", "environment"])
@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{PLANTED}@127.0.0.1:1",
        f"http://{PLANTED}@127.0.0.1:1",
        f"http://user:{PLANTED}/x@127.0.0.1:1",
        f"http://user:12/{PLANTED}@127.0.0.1:1",
        f"http://127.0.0.1:1/?token={PLANTED}",
        f"ftp://user:{PLANTED}@127.0.0.1:1",
        PLANTED,
    ],
)
def test_a_dashboard_with_a_login_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], by: str, url: str
) -> None:
    if by == "environment":
        monkeypatch.setenv("RAY_DASHBOARD_ADDRESS", url)
    options = ["--dashboard", url] if by == "option" else []
    monkeypatch.setattr(sys, "argv", ["redeploy", str(CONFIGS / "one_replica.yaml"), *options])
    assert redeploy.main() == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: the dashboard (--dashboard or RAY_DASHBOARD_ADDRESS): ")
    assert PLANTED not in out + err


# --- a real Redis ---

PASSWORD = "a/b@c#d?e&f%41 ä:"
ESCAPED = "a%2Fb%40c%23d%3Fe%26f%2541%20%C3%A4%3A"


@pytest.fixture
async def guarded_redis(own_redis: RedisServer) -> RedisServer:
    """Return a Redis that asks for PASSWORD."""
    client = connect(own_redis.url, 30)
    await client.config_set("requirepass", PASSWORD)
    await client.aclose()
    return own_redis


async def test_a_password_that_is_escaped_opens_redis_whatever_is_in_it(guarded_redis: RedisServer) -> None:
    for login in (f":{ESCAPED}", f"default:{ESCAPED}"):
        client = connect(f"redis://{login}@127.0.0.1:{guarded_redis.port}/1", 30)
        assert await client.set("key", b"\xff")
        assert await client.get("key") == b"\xff"
        await client.aclose()


@pytest.mark.parametrize(
    ("login", "db", "words"),
    [
        (f":{PLANTED}@", 0, "it rejects user or password"),
        ("", 0, "it rejects user or password"),
        (f":{ESCAPED}@", 9999, "no database with the number"),
    ],
)
async def test_what_redis_refuses_is_logged_in_words_of_ours(
    guarded_redis: RedisServer, login: str, db: int, words: str
) -> None:
    client = connect(f"redis://{login}127.0.0.1:{guarded_redis.port}/{db}", 30)
    with pytest.raises(Exception) as caught:  # noqa: PT011 whatever redis-py raises
        await client.ping()
    await client.aclose()
    assert words in describe_fault(caught.value)


@pytest.mark.parametrize(
    ("place", "words"),
    [("127.0.0.1:1", "Connection refused"), ("host.invalid", "host name cannot be resolved")],
)
async def test_a_redis_that_is_not_there_is_logged_without_its_address(
    caplog: pytest.LogCaptureFixture, place: str, words: str
) -> None:
    store = JobStore(f"redis://{PLANTED}:{PLANTED}@{place}/7", JobSettings())
    outage = Outage()
    with pytest.raises(JobsUnavailable) as caught:
        await store.counts()
    outage.begin(caught.value)
    await store.close()
    assert words in caplog.text
    assert place not in caplog.text
    assert PLANTED not in caplog.text + str(caught.value)
