"""A cluster by `ray up ray_cluster.yaml`: head and workers, PostgreSQL and Redis, and the laptop it is run from."""

import json
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from tests.certificates import write_certificate
from tests.cluster.node import HOME, ROOT, Machine, make_network
from tests.redis_server import redis_server_program
from tests.serve_app.classifier.small_networks import SIDE, write_onnx

API_KEY = "the-key-of-the-test-cluster"
NEW_ADDRESS = "192.0.2.13"
"""Of a machine that comes later."""
PASSWORD = "the-password-of-redis"
REDIS_PORT = 6380
LAPTOP, SERVICES = ("laptop", "192.0.2.2"), ("services", "192.0.2.20")
PROJECT = HOME / "serve-app"
PYTHON = str(PROJECT / ".venv/bin/python")
SECRETS = Path(".serve-app-cluster")
_SHIPPED = ("ray_cluster.yaml", "pyproject.toml", "requirements.lock", "README.md", "LICENSE")


class Cluster:
    """The machines, and what can be done to them. `nodes[0]` is the head; their addresses are those of the file."""

    def __init__(self, folder: Path, say: Callable[[str], None] = print, *, is_encrypted: bool = False) -> None:
        """Make none of it yet. Encrypted: Ray's processes speak TLS with each other, `RAY_USE_TLS`."""
        self._folder = folder
        self._is_encrypted = is_encrypted
        self._say = say
        provider = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())["provider"]
        self.laptop, self.services = (Machine(folder / name, name, address) for name, address in (LAPTOP, SERVICES))
        self.nodes = [Machine(folder / "head", "head", provider["head_ip"])]
        for number, address in enumerate(provider["worker_ips"], 1):
            self.nodes.append(Machine(folder / f"worker{number}", f"worker{number}", address))

    @property
    def head(self) -> Machine:
        return self.nodes[0]

    @property
    def machines(self) -> list[Machine]:
        return [self.laptop, self.services, *self.nodes]

    def start(self) -> None:
        """Start the machines and the two servers, and put onto the laptop what a user has there."""
        key = self._folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        self._public_key = key.with_suffix(".pub").read_text()
        for machine in self.machines:
            machine.set_up(self._public_key)
            machine.start()
        self.start_postgres()
        self.start_redis()
        self._fill_laptop(key.read_text())

    def add_machine(self, address: str) -> Machine:
        """Start one more machine, of which Ray does not know yet."""
        name = f"worker{len(self.nodes)}"
        machine = Machine(self._folder / name, name, address)
        machine.set_up(self._public_key)
        machine.start()
        self.nodes.append(machine)
        return machine

    def ray_up(self, *options: str) -> None:
        """Run `ray up ray_cluster.yaml` on the laptop. Raises AssertionError with the end of its output."""
        output = self._folder / "ray_up.txt"
        with output.open("ab") as file:
            up = f"cd {PROJECT} && .venv/bin/ray up --yes {' '.join(options)} ray_cluster.yaml"
            command = self.laptop.command("bash", "-c", up)
            ended = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False)
        assert ended.returncode == 0, output.read_text()[-4000:]

    def start_postgres(self) -> None:
        self._postgres("start")

    def stop_postgres(self) -> None:
        self._postgres("stop")

    def _postgres(self, do: str) -> None:
        words = ["python", "-m", "tests.postgres_server", "/srv/postgres", do, "--listen", SERVICES[1]]
        self.services.run("bash", "-c", f"cd {ROOT} && .venv/bin/{' '.join(words)}", user="root")

    def start_redis(self) -> None:
        """Start Redis, with the data of before."""
        words = [redis_server_program(), "--port", str(REDIS_PORT), "--bind", SERVICES[1], "--dir", "/srv"]
        words += ["--appendonly", "yes", "--requirepass", PASSWORD, "--daemonize", "yes", "--logfile", "/srv/redis.log"]
        self.services.run(*words, user="root")

    def stop_redis(self) -> None:
        self.services.run("pkill", "-TERM", "valkey-server", user="root")

    def status(self) -> dict[str, Any]:
        """Return Serve's applications by name, asked on the head. Raises AssertionError while it does not answer."""
        token = (self.head.home / ".ray" / "auth_token").read_text().strip()
        found: dict[str, Any] = self._ask_dashboard("/api/serve/applications/", token)["applications"]
        return found

    def alive(self) -> dict[str, str]:
        """Return the ids of the nodes that Ray takes for living, by address. Raises as `status` does."""
        token = (self.head.home / ".ray" / "auth_token").read_text().strip()
        nodes = self._ask_dashboard("/api/v0/nodes", token)["data"]["result"]["result"]
        return {node["node_ip"]: node["node_id"] for node in nodes if node["state"] == "ALIVE"}

    def _ask_dashboard(self, path: str, token: str) -> dict[str, Any]:
        words = ["curl", "--silent", "--fail", "--max-time", "20", "-H", f"Authorization: Bearer {token}"]
        answer: dict[str, Any] = json.loads(self.head.run(*words, f"http://127.0.0.1:8265{path}"))
        return answer

    def drain(self, machine: Machine) -> None:
        """Have Ray move everything away from a node, and stop it."""
        ray = f"{PROJECT}/.venv/bin/ray"
        words = ["drain-node", f"--node-id={self.alive()[machine.address]}", "--reason=DRAIN_NODE_REASON_PREEMPTION"]
        words += ["--reason-message=reboot", "--deadline-remaining-seconds=60", "--address=127.0.0.1:6379"]
        self.head.run(ray, *words, RAY_AUTH_MODE="token")

    def is_whole(self) -> bool:
        """Tell whether each node that is on has one running replica of each deployment, and its HAProxy answers."""
        there = sorted(machine.address for machine in self.nodes if machine.is_on)
        applications = self.status().values()
        return all(
            application["status"] == "RUNNING"
            and all(_places(found) == there for found in application["deployments"].values())
            for application in applications
        ) and all(self.ask(machine, "/user/1")[0] == 200 for machine in self.nodes if machine.is_on)

    def ask(self, machine: Machine, path: str, *options: str) -> tuple[int, str]:
        """Return status and body of one request that the laptop sends to a node's HAProxy; status 0: no answer."""
        url = f"http://{machine.address}:8000{path}"
        words = [
            "curl",
            "--silent",
            "--max-time",
            "15",
            "--write-out",
            r"\n%{http_code}",
            "-H",
            f"X-API-Key: {API_KEY}",
        ]
        output = self.laptop.run(*words, *options, url, check=False)
        body, _, status = output.rpartition("\n")
        return int(status or 0), body

    def wait_until(self, condition: Callable[[], bool], what: str, within_s: float) -> float:
        """Return after how many seconds a condition held. Raises AssertionError if it does not in time."""
        begun = time.monotonic()
        while True:
            with suppress(AssertionError):  # the head does not answer
                if condition():
                    return time.monotonic() - begun
            assert time.monotonic() - begun < within_s, f"waited {within_s:g} s in vain for {what}"
            time.sleep(1)

    def stop(self) -> None:
        """Take every machine's power away."""
        for machine in self.machines:
            machine.power_off()

    def _fill_laptop(self, key: str) -> None:
        project = self.laptop.home / "serve-app"
        for name in ("serve_app", "loadtest", "configs"):
            shutil.copytree(ROOT / name, project / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        for name in _SHIPPED:
            shutil.copy(ROOT / name, project / name)
        self.laptop.put(Path(".ssh/serve-app-cluster"), key)
        address = SERVICES[1]
        secrets = {
            "DATABASE_URL": f"postgresql://postgres:any@{address}/postgres",
            "REDIS_URL": f"redis://:{PASSWORD}@{address}:{REDIS_PORT}/1",
            "RAY_REDIS_ADDRESS": f"{address}:{REDIS_PORT}",
            "RAY_REDIS_PASSWORD": PASSWORD,
        }
        if self._is_encrypted:
            secrets |= self._certificates()
        lines = (f"{name}={shlex.quote(value)}\n" for name, value in secrets.items())
        self.laptop.put(SECRETS / "secrets.env", "".join(lines))
        self.laptop.put(SECRETS / "api_keys", f"{API_KEY}\n")
        write_onnx(self.laptop.home / SECRETS / "colours.onnx")
        self.laptop.put(SECRETS / "colours.txt", "red\ngreen\nblue\n")
        self.laptop.put(Path("serve-app/configs/cluster.yaml"), self._config())
        self.laptop.run("bash", "-c", f"umask 077 && {PROJECT}/.venv/bin/ray get-auth-token --generate")

    def _certificates(self) -> dict[str, str]:
        """Put a certificate of the nodes onto the laptop, and return the variables by which Ray uses it."""
        files = {"cert": SECRETS / "node.crt", "key": SECRETS / "node.key"}
        cert, key = self._folder / "node.crt", self._folder / "node.key"
        write_certificate(cert, key, "127.0.0.1", NEW_ADDRESS, *(node.address for node in self.nodes))
        self.laptop.put(files["cert"], cert.read_text())
        self.laptop.put(files["key"], key.read_text())
        cert_path, key_path = (str(HOME / path) for path in files.values())
        return {
            "RAY_USE_TLS": "1",
            "RAY_TLS_SERVER_CERT": cert_path,
            "RAY_TLS_SERVER_KEY": key_path,
            "RAY_TLS_CA_CERT": cert_path,
        }

    def _config(self) -> str:
        """Return configs/cluster.yaml with a network that fits four times into this machine; the rest as it is."""
        config = yaml.safe_load((ROOT / "configs" / "cluster.yaml").read_text())
        args = config["applications"][1]["args"]
        del args["weights"]
        folder = HOME / SECRETS
        args |= {"model": f"{folder}/colours.onnx", "labels": f"{folder}/colours.txt", "engine": "onnxruntime"}
        args |= {"preprocessing": "scale_0_1", "crop": SIDE, "resize": SIDE}
        return yaml.safe_dump(config)


def _places(deployment: dict[str, Any]) -> list[str]:
    """Return the node address of each replica of a deployment, whatever its state; "" where it does not run."""
    replicas = deployment["replicas"]
    return sorted(replica["node_ip"] if replica["state"] == "RUNNING" else "" for replica in replicas)


@contextmanager
def running_cluster(
    folder: Path, say: Callable[[str], None] = print, *, is_encrypted: bool = False
) -> Iterator[Cluster]:
    """Yield a cluster that serves. `folder` is empty; the calling process is alone in its network and mounts."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], check=True)
    make_network()
    cluster = Cluster(folder, say, is_encrypted=is_encrypted)
    try:
        say("starting the machines")
        cluster.start()
        say("ray up ray_cluster.yaml")
        begun = time.monotonic()
        cluster.ray_up()
        say(f"`ray up` has returned after {time.monotonic() - begun:.0f} s")
        yield cluster
    finally:
        cluster.stop()
        subprocess.run(["umount", "--lazy", str(folder)], check=False)
