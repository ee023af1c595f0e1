"""Mistakes at the start of a service: makes each for real, and writes what it says and when into docs/operating.md.

`python -m tests.startup_mistakes` does so, and `python -m tests.startup_mistakes TEXT` for those rows only that have
TEXT in their name. tests/serve_app/deployments/test_preflight.py holds the page's messages.
"""

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py

from tests.ports import free_port
from tests.redis_server import running_redis
from tests.service import CONFIGS, ROOT

PAGE = ROOT / "docs" / "operating.md"
BEGIN, END = "<!-- startup mistakes: begin -->", "<!-- startup mistakes: end -->"
FOLDER = "/folder"
"""Stands for the folder of the files that the mistakes are about."""
LIMIT_S = 300
PORT = 8000
"""That of the shipped config; what listens on it here is not what the mistakes are about."""
LONG = 80 * "x"
NOBODY = "127.0.0.1:9"
REDIS = "redis://a-real-one"
"""Stands for a Redis that is started for the mistake."""
TWO_CORES = {"RAY_OVERRIDE_RESOURCES": '{"CPU": 2}'}
NO_INTERNET = {"https_proxy": f"http://{NOBODY}", "KERAS_HOME": f"{FOLDER}/keras"}


@dataclass(frozen=True)
class Mistake:
    """What somebody does wrong in a shipped config (a text for another), in the environment or on the machine."""

    name: str
    texts: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    end: str | None = None
    """What of the config is the last that stands in it."""
    config: str = "one_replica.yaml"
    missing_package: str | None = None
    is_port_taken: bool = False

    @contextmanager
    def made(self, folder: Path, port: int) -> Iterator[tuple[Path, dict[str, str]]]:
        """Yield the config, written into `folder`, and the environment of a start with this mistake."""
        write_files(folder)
        environment = self._variables(folder, port)
        with ExitStack() as stack:
            if self.is_port_taken:
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            if any(REDIS in value for value in environment.values()):
                url = stack.enter_context(running_redis(folder)).url.rpartition("/")[0]
                environment = {name: value.replace(REDIS, url) for name, value in environment.items()}
            yield self.write(folder, port), environment

    def write(self, folder: Path, port: int = PORT) -> Path:
        """Write the config into `folder` and return its path."""
        text = (CONFIGS / self.config).read_text(encoding="utf-8")
        for right, wrong in self.texts.items():
            assert right in text, right
            text = text.replace(right, wrong)
        if self.end is not None:
            text = text[: text.index(self.end) + len(self.end)]
        path = folder / "config.yaml"
        text = text.replace(FOLDER, str(folder)).replace(f"  port: {PORT}\n", f"  port: {port}\n")
        path.write_text(text, encoding="utf-8")
        return path

    def _variables(self, folder: Path, port: int) -> dict[str, str]:
        environment = {
            name: str(port) if value == str(PORT) else value.replace(FOLDER, str(folder))
            for name, value in self.environment.items()
        }
        if self.missing_package is not None:  # Python takes None in sys.modules for a package that is not there
            hiding = folder / "hiding"
            hiding.mkdir()
            (hiding / "sitecustomize.py").write_text(f"import sys\nsys.modules[{self.missing_package!r}] = None\n")
            environment["PYTHONPATH"] = str(hiding)
        return environment


def _model(key: str, value: str, **environment: str) -> Mistake:
    return Mistake(f"`{key}: {value}`", {f"      {key}: auto": f"      {key}: {value}"}, environment)


def _classifier(name: str, lines: str, environment: Mapping[str, str] = TWO_CORES) -> Mistake:
    return Mistake(name, {"        num_replicas: 1 ": f"        {lines} "}, environment)


def _http(text: str) -> Mistake:
    key = text.partition(":")[0]
    right = {"port": "port: 8000", "host": "host: 127.0.0.1"}.get(key, "port: 8000")
    return Mistake(f"`{text}`", {f"  {right}": f"  {text}" if right.startswith(f"{key}:") else f"  {right}\n  {text}"})


MISTAKES = (
    _model("weights", f"{FOLDER}/missing.h5"),
    _model("weights", f"{FOLDER}/garbage.h5"),
    _model("weights", f"{FOLDER}/another_network.h5"),
    _model("weights", f"{FOLDER}/directory.h5"),
    Mistake("`weights: imagenet` without internet access", {"weights: auto": "weights: imagenet"}, NO_INTERNET),
    Mistake("`model: resnet5`", {"      labels: auto": "      model: resnet5"}),
    Mistake("`model: /folder/m.onnx` on TensorFlow", {"      labels: auto": f"      model: {FOLDER}/m.onnx"}),
    Mistake(
        "`model: /folder/garbage.keras`",
        {"      labels: auto": f"      model: {FOLDER}/garbage.keras\n      preprocessing: none"},
    ),
    Mistake(
        "`engine: openvino`, not installed",
        {"engine: tensorflow": "engine: openvino"},
        missing_package="openvino",
    ),
    Mistake(
        "`precision: int8`, `calibration: /folder/missing`",
        {"engine: tensorflow": f"engine: openvino\n      precision: int8\n      calibration: {FOLDER}/missing"},
    ),
    _model("labels", f"{FOLDER}/missing.txt"),
    _model("labels", f"{FOLDER}/999_labels.txt"),
    Mistake("`DATABASE_URL` of another kind", environment={"DATABASE_URL": "mysql://user:secret@db/users"}),
    Mistake(
        "`DATABASE_URL`: PostgreSQL without its driver",
        environment={"DATABASE_URL": "postgresql://user:secret@db/users"},
        missing_package="asyncpg",
    ),
    Mistake("`DATABASE_URL`: nobody listens", environment={"DATABASE_URL": f"postgresql://user:secret@{NOBODY}/users"}),
    Mistake("`DATABASE_URL`: no SQLite file", environment={"DATABASE_URL": f"sqlite:///{FOLDER}/garbage.h5"}),
    Mistake(
        "`DATABASE_URL`: SQLite in no folder", environment={"DATABASE_URL": f"sqlite:///{FOLDER}/file/users.sqlite3"}
    ),
    Mistake("`REDIS_URL` of another kind", environment={"REDIS_URL": "memcached://cache:11211"}),
    Mistake(
        "`REDIS_URL`: nobody listens, with `store: redis`",
        {"store: auto ": "store: redis "},
        {"REDIS_URL": f"redis://{NOBODY}/0"},
    ),
    Mistake("`REDIS_URL`: database 99 of a Redis with 16", environment={"REDIS_URL": f"{REDIS}/99"}),
    Mistake(
        "two models with one job queue",
        {"      jobs:\n        queue: cats ": "      # "},
        {"REDIS_URL": f"redis://{NOBODY}/0"},
        config="two_models.yaml",
    ),
    Mistake("`store: redis` without `REDIS_URL`", {"store: auto ": "store: redis "}),
    Mistake("another program listens on the port", is_port_taken=True),
    Mistake(
        "`RAY_SERVE_HAPROXY_METRICS_PORT` is the service's own",
        environment={"RAY_SERVE_HAPROXY_METRICS_PORT": str(PORT), "RAY_SERVE_ENABLE_HA_PROXY": "1"},
    ),
    *map(
        _http,
        (
            "port: 70000",
            "port: 0",
            "keep_alive_timeout_s: -1",
            "host: 127.0.0.1.5",
            'host: "::1"',
        ),
    ),
    Mistake(
        "`http_options.ssl_certfile`",
        {"  port: 8000": f"  port: 8000\n  ssl_keyfile: {FOLDER}/file\n  ssl_certfile: {FOLDER}/file"},
    ),
    Mistake("`proxy_location: Disabled`", {"\napplications:": "\nproxy_location: Disabled\napplications:"}),
    Mistake("`route_prefix: null`", {"route_prefix: /model": "route_prefix: null"}),
    Mistake("`route_prefix: model`", {"route_prefix: /model": "route_prefix: model"}),
    Mistake("deployment `Clasifier`", {"name: Classifier": "name: Clasifier"}),
    Mistake("`import_path: serve_app.deployments.modle:build`", {"deployments.model:build": "deployments.modle:build"}),
    Mistake("`import_path: my_app:build`, which is not there", {"serve_app.deployments.model:build": "my_app:build"}),
    _classifier("`num_replicas: true`", "num_replicas: true"),
    _classifier("`num_replicas: 0`", "num_replicas: 0"),
    _classifier(
        "`autoscaling_config: {min_replicas: 5, max_replicas: 2}`",
        "autoscaling_config: {min_replicas: 5, max_replicas: 2}",
    ),
    _classifier("`num_cpus: 99`", "ray_actor_options: {num_cpus: 99}"),
    _classifier("`num_gpus: 1` on a machine without GPU", "ray_actor_options: {num_gpus: 1}"),
    _classifier("40 replicas of 0.1 CPUs on 2 cores", "num_replicas: 40"),
    Mistake("no applications", {"\napplications:": "\napplications: []"}, end="applications: []"),
    Mistake("`auth: None`", {"threads: 2 ": "auth: None\n      threads: 2 "}),
    Mistake(
        "`auth: {keys_env: API_KEYS}`, not set",
        {"threads: 2 ": "auth: {keys_env: API_KEYS}\n      threads: 2 "},
    ),
    Mistake("`HOME` is not there", environment={"HOME": f"{FOLDER}/nothing", "RAY_AUTH_TOKEN_PATH": ""}),
    Mistake("`RAY_AUTH_MODE=disabled`", environment={"RAY_AUTH_MODE": "disabled"}),
    Mistake(
        "`RAY_SERVE_HAPROXY_BINARY_PATH` names no program",
        environment={"RAY_SERVE_HAPROXY_BINARY_PATH": f"{FOLDER}/haproxy", "RAY_SERVE_ENABLE_HA_PROXY": "1"},
    ),
    Mistake("`SERVE_APP_CACHE_DIR` cannot be written", environment={"SERVE_APP_CACHE_DIR": f"{FOLDER}/file/cache"}),
    Mistake("`SERVE_APP_RUN_DIR` cannot be written", environment={"SERVE_APP_RUN_DIR": "/dev/null/run"}),
    Mistake("`SERVE_APP_RUN_DIR` is too long for sockets", environment={"SERVE_APP_RUN_DIR": "/tmp/" + 40 * "x"}),
    Mistake("`RAY_TMPDIR` is too long for sockets", environment={"RAY_TMPDIR": "/tmp/" + 40 * "x"}),
    Mistake("`SERVE_APP_RUN_DIR: ~/run`", environment={"SERVE_APP_RUN_DIR": "~/run"}),
    Mistake("`RAY_TMPDIR: ray`", environment={"RAY_TMPDIR": "ray"}),
    Mistake("`TMPDIR` is too long for sockets", environment={"TMPDIR": f"{FOLDER}/{LONG}"}),
    Mistake(
        "three at once",
        {"port: 8000": "port: 0", "labels: auto": f"labels: {FOLDER}/999_labels.txt"},
        {"REDIS_URL": "memcached://cache:11211"},
    ),
)


def write_files(folder: Path) -> None:
    """Write the files that the mistakes name."""
    for name in ("garbage.h5", "garbage.keras"):
        (folder / name).write_bytes(b"neither weights nor a database" * 1000)
    for name in ("directory.h5", LONG):
        (folder / name).mkdir(exist_ok=True)
    (folder / "999_labels.txt").write_text("label\n" * 999, encoding="utf-8")
    (folder / "file").touch()
    write_weights(folder / "another_network.h5", convolutions=13, classes=1000)


def write_weights(path: Path, convolutions: int, classes: int) -> None:
    """Write what looks like Keras weights of a ResNet with so many convolutions and classes."""
    with h5py.File(path, "w") as file:
        for index in range(convolutions):
            file.create_dataset(f"layers/conv{index}", (1, 1, 1, 1))
        file.create_dataset("layers/predictions", (2048, classes))


def shown(text: str, folder: Path, port: int = PORT) -> str:
    """Return what a start has printed without the folder's own name and the port's own number."""
    return text.replace(str(folder), FOLDER).replace(str(port), str(PORT))


def rows(page: str) -> Iterator[tuple[str, str, str]]:
    """Yield mistake, message and seconds of each row of the page's table."""
    table = page.partition(BEGIN)[2].partition(END)[0]
    for row, seconds in re.findall(r"^\| (.*) \| ([\d.–]+) \|$", table, re.MULTILINE):
        name, _, message = row.partition(" | ")
        yield name, message, seconds


def cell(lines: list[str]) -> str:
    """Return messages as a cell of a Markdown table."""
    return "<br>".join(line.replace("|", "\\|") for line in lines)


def main() -> int:
    """Make the mistakes and write the table; 1 if one of them has started Ray."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    page = PAGE.read_text(encoding="utf-8")
    known = {name: (message, seconds) for name, message, seconds in rows(page)}
    started = []
    for mistake in MISTAKES:
        if wanted in mistake.name:
            lines, took_s, is_refused = _start(mistake)
            known[mistake.name] = cell(lines), f"{took_s:.1f}"
            print(f"{took_s:5.1f} s  {mistake.name}\n" + "\n".join(f"         {line}" for line in lines), flush=True)
            started += [] if is_refused else [mistake.name]
    table = [f"| {one.name} | {' | '.join(known[one.name])} |" for one in MISTAKES if one.name in known]
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    head = ["| mistake | message | s |", "|---|---|---|"]
    PAGE.write_text("\n".join([before + BEGIN, *head, *table, END + after]), encoding="utf-8")
    print(f"started all the same: {started}" if started else f"written into {PAGE}")
    return 1 if started else 0


def _start(mistake: Mistake) -> tuple[list[str], float, bool]:
    """Return the lines of a start, its seconds, and whether it was refused before anything was started."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        with mistake.made(folder, port) as (config, environment):
            begun = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-m", "serve_app", str(config)],
                env={**os.environ, **environment}, cwd=ROOT,
                capture_output=True, text=True, timeout=LIMIT_S, check=False,
            )  # fmt: skip
            took_s = time.monotonic() - begun
        lines = [line.removeprefix("error: ") for line in shown(done.stderr, folder, port).splitlines()]
    return lines, took_s, done.returncode == 2 and not done.stdout


if __name__ == "__main__":
    sys.exit(main())
