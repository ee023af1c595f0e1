"""Mistakes at the start of a service: makes each for real, and writes what it says and when into docs/operating.md.

`python -m tests.startup_mistakes` does so; tests/serve_app/deployments/test_preflight.py holds the page's messages.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import h5py

from tests.ports import free_port
from tests.service import CONFIGS, ROOT

PAGE = ROOT / "docs" / "operating.md"
BEGIN, END = "<!-- startup mistakes: begin -->", "<!-- startup mistakes: end -->"
FOLDER = "/folder"
"""Stands for the folder of the files that the mistakes are about."""
LIMIT_S = 300
PORT = 8000
"""That of the shipped config; what listens on it here is not what the mistakes are about."""
NOBODY = "127.0.0.1:9"
TWO_CORES = {"RAY_OVERRIDE_RESOURCES": '{"CPU": 2}'}
NO_INTERNET = {"https_proxy": f"http://{NOBODY}", "KERAS_HOME": f"{FOLDER}/keras"}


@dataclass(frozen=True)
class Mistake:
    """What somebody does wrong in one_replica.yaml (a text for another) or in the environment."""

    name: str
    texts: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    end: str | None = None
    """What of the config is the last that stands in it."""

    def write(self, folder: Path, port: int = PORT) -> Path:
        """Write the config into `folder` and return its path."""
        text = (CONFIGS / "one_replica.yaml").read_text(encoding="utf-8")
        for right, wrong in self.texts.items():
            assert right in text, right
            text = text.replace(right, wrong)
        if self.end is not None:
            text = text[: text.index(self.end) + len(self.end)]
        path = folder / "config.yaml"
        text = text.replace(FOLDER, str(folder)).replace(f"  port: {PORT}\n", f"  port: {port}\n")
        path.write_text(text, encoding="utf-8")
        return path

    def variables(self, folder: Path) -> dict[str, str]:
        """Return the environment of the start."""
        return {name: value.replace(FOLDER, str(folder)) for name, value in self.environment.items()}


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
    Mistake("`weights: imagenet` without internet access", {"weights: auto": "weights: imagenet"}, NO_INTERNET),
    Mistake("`model: resnet5`", {"      labels: auto": "      model: resnet5"}),
    Mistake("`model: /folder/m.onnx` on TensorFlow", {"      labels: auto": f"      model: {FOLDER}/m.onnx"}),
    _model("labels", f"{FOLDER}/missing.txt"),
    _model("labels", f"{FOLDER}/999_labels.txt"),
    Mistake("`DATABASE_URL` of another kind", environment={"DATABASE_URL": "mysql://user:secret@db/users"}),
    Mistake("`DATABASE_URL`: nobody listens", environment={"DATABASE_URL": f"postgresql://user:secret@{NOBODY}/users"}),
    Mistake("`DATABASE_URL`: no SQLite file", environment={"DATABASE_URL": f"sqlite:///{FOLDER}/garbage.h5"}),
    Mistake("`REDIS_URL` of another kind", environment={"REDIS_URL": "memcached://cache:11211"}),
    Mistake(
        "`REDIS_URL`: nobody listens, with `store: redis`",
        {"store: auto ": "store: redis "},
        {"REDIS_URL": f"redis://{NOBODY}/0"},
    ),
    Mistake("`store: redis` without `REDIS_URL`", {"store: auto ": "store: redis "}),
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
    Mistake("`SERVE_APP_CACHE_DIR` cannot be written", environment={"SERVE_APP_CACHE_DIR": f"{FOLDER}/file/cache"}),
    Mistake("`SERVE_APP_RUN_DIR` is too long for sockets", environment={"SERVE_APP_RUN_DIR": "/tmp/" + 40 * "x"}),
    Mistake("`RAY_TMPDIR` is too long for sockets", environment={"RAY_TMPDIR": "/tmp/" + 40 * "x"}),
    Mistake(
        "three at once",
        {"port: 8000": "port: 0", "labels: auto": f"labels: {FOLDER}/999_labels.txt"},
        {"REDIS_URL": "memcached://cache:11211"},
    ),
)


def write_files(folder: Path) -> None:
    """Write the files that the mistakes name."""
    (folder / "garbage.h5").write_bytes(b"neither weights nor a database" * 1000)
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


def rows(page: str) -> Iterator[tuple[str, str]]:
    """Yield mistake and message of each row of the page's table."""
    table = page.partition(BEGIN)[2].partition(END)[0]
    for row in re.findall(r"^\| (.*) \| [\d.–]+ \|$", table, re.MULTILINE):
        name, _, message = row.partition(" | ")
        yield name, message


def cell(lines: list[str]) -> str:
    """Return messages as a cell of a Markdown table."""
    return "<br>".join(line.replace("|", "\\|") for line in lines)


def main() -> int:
    """Make every mistake and write the table; 1 if one of them has started Ray."""
    table, started = ["| mistake | message | s |", "|---|---|---|"], []
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        write_files(folder)
        for mistake in MISTAKES:
            begun = time.monotonic()
            done = _start(mistake, folder, port)
            took_s = time.monotonic() - begun
            lines = [line.removeprefix("error: ") for line in shown(done.stderr, folder, port).splitlines()]
            table.append(f"| {mistake.name} | {cell(lines)} | {took_s:.1f} |")
            print(f"{took_s:5.1f} s  {mistake.name}\n" + "\n".join(f"         {line}" for line in lines), flush=True)
            if done.returncode != 2 or done.stdout:
                started.append(mistake.name)
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    PAGE.write_text("\n".join([before + BEGIN, *table, END + after]), encoding="utf-8")
    print(f"started all the same: {started}" if started else f"written into {PAGE}")
    return 1 if started else 0


def _start(mistake: Mistake, folder: Path, port: int) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "serve_app", str(mistake.write(folder, port))]
    environment = {**os.environ, **mistake.variables(folder)}
    return subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


if __name__ == "__main__":
    sys.exit(main())
