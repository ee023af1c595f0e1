"""Machines on this machine: each has its own network, process ids, mounts, host name, /tmp, /dev/shm and home.

A machine's files are this machine's with a layer of its own on top (overlayfs), so that it has all programs, and what
it writes is its own. Its checkout and venv are this one's in the same way: nothing is downloaded. Needs root and Linux.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
USER, USER_ID = "ubuntu", 1900
HOME = Path("/home") / USER
BRIDGE, GATEWAY = "switch", "192.0.2.1"
BOOT_S = 30
_VENV = Path(sys.prefix)

# $1: folder of the machine, $2: its name, $3: its address, $4: the checkout, $5: program to run as its first child.
_BOOT = """
set -e
mount --make-rprivate /
hostname "$2"
until ip link show eth0 > /dev/null 2>&1; do sleep 0.02; done
ip link set lo up
ip address add "$3/24" dev eth0
ip link set eth0 up
ip route add default via {gateway}
new="$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$new"
mount -t proc proc "$new/proc"
mount -t sysfs sysfs "$new/sys"
mount --rbind /dev "$new/dev"
mount -t tmpfs -o mode=1777 tmpfs "$new/dev/shm"
mount -t tmpfs -o mode=1777 tmpfs "$new/tmp"
mount -t tmpfs -o mode=755 tmpfs "$new/run"
mkdir -p "$new/run/sshd" "$new$4"
mount -t overlay overlay -o "lowerdir=$4,upperdir=$1/upper-checkout,workdir=$1/work-checkout" "$new$4"
exec chroot "$new" /bin/bash -c 'cd /; eval "$1"; touch /run/booted; while :; do sleep 3600 & wait $!; done' boot "$5"
"""
_SSHD = "/usr/sbin/sshd -f /etc/ssh/machine_config"
_SSHD_CONFIG = """HostKey /etc/ssh/machine_key
PidFile none
PasswordAuthentication no
AuthorizedKeysFile .ssh/authorized_keys
AllowUsers {user}
MaxStartups 100
"""


class Machine:
    """One machine, off at first. `folder` must be on another file system than /, and stays when it is off."""

    def __init__(self, folder: Path, name: str, address: str) -> None:
        self.name, self.address = name, address
        self._folder = folder
        self._first: subprocess.Popen[bytes] | None = None

    @property
    def home(self) -> Path:
        """The user's home as seen from outside, also while the machine is off."""
        return self._folder / "upper" / HOME.relative_to("/")

    @property
    def temporary(self) -> Path:
        """The machine's /tmp as seen from outside, while it is on."""
        return Path(f"/proc/{self._pid()}/root/tmp")

    @property
    def is_on(self) -> bool:
        return self._first is not None and self._first.poll() is None

    def set_up(self, public_key: str = "") -> None:
        """Make what a machine has before it is first started: a user who may log in with the key, and a venv."""
        for name in ("root", "upper", "work", "upper-checkout", "work-checkout"):
            (self._folder / name).mkdir(parents=True)
        upper = self._folder / "upper"
        _write(
            upper / "etc/passwd", Path("/etc/passwd").read_text() + f"{USER}:x:{USER_ID}:{USER_ID}::{HOME}:/bin/bash\n"
        )
        _write(upper / "etc/group", Path("/etc/group").read_text() + f"{USER}:x:{USER_ID}:\n")
        _write(upper / "etc/hostname", f"{self.name}\n")
        _write(upper / "etc/hosts", f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        _write(upper / "etc/ssh/machine_config", _SSHD_CONFIG.format(user=USER))
        key = upper / "etc/ssh/machine_key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        (upper / "root").mkdir(mode=0o755)  # Python may be in there
        _write(self.home / ".ssh/authorized_keys", public_key)
        _write(self.home / ".bashrc", "")
        (self.home / "serve-app").mkdir()
        (self.home / "serve-app" / ".venv").symlink_to(_VENV)
        _own(self.home)
        self._let_user_install()

    def _let_user_install(self) -> None:
        """Give the user the folders that `pip install --editable` writes: the layer's, not those below it."""
        if not _VENV.is_relative_to(ROOT):
            raise SystemExit(f"error: run it with the venv of the checkout: {ROOT}/.venv/bin/python")
        packages = Path(sysconfig.get_path("purelib"))
        installed = [Path(folder) for each in packages.glob("serve_app-*.dist-info") for folder, _, _ in os.walk(each)]
        for folder in (_VENV / "bin", packages, packages / "__pycache__", *installed):
            inner = self._folder / "upper-checkout" / folder.relative_to(ROOT)
            inner.mkdir(parents=True, exist_ok=True)
            os.chown(inner, USER_ID, USER_ID)

    def start(self, first: str = _SSHD) -> None:
        """Switch it on; return when it can be logged in."""
        script = _BOOT.format(gateway=GATEWAY)
        command = [
            "setpriv",
            "--pdeathsig=KILL",
            "unshare",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount",
            "--uts",
            "--ipc",
            "--",
        ]
        told = [str(self._folder), self.name, self.address, str(ROOT), first]
        log = (self._folder / "console.log").open("ab")
        self._first = subprocess.Popen(
            [*command, "bash", "-c", script, "boot", *told], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        deadline = time.monotonic() + BOOT_S
        for is_done in (self._is_unshared, self._is_wired, self._is_booted):
            while not is_done():
                assert self.is_on, self._console()
                assert time.monotonic() < deadline, self._console()
                time.sleep(0.02)

    def power_off(self) -> None:
        """Take its power away: every process ends at once, and its address answers nothing."""
        if self._first is not None:
            self._first.kill()
            self._first.wait()
            subprocess.run(["ip", "link", "delete", self._cable], check=False, stderr=subprocess.DEVNULL)
        self._first = None

    def unplug(self) -> None:
        """Take its network cable out."""
        subprocess.run(["ip", "link", "set", self._cable, "down"], check=True)

    def plug(self) -> None:
        subprocess.run(["ip", "link", "set", self._cable, "up"], check=True)

    def command(self, *words: str, user: str = USER, **environment: str) -> list[str]:
        """Return the command that runs `words` on the machine, in the user's home."""
        names = [f"HOME={HOME if user == USER else '/root'}", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"]
        names += [f"{name}={value}" for name, value in environment.items()]
        enter = ["nsenter", f"--target={self._pid()}", "--all", "--root", f"--wdns={HOME}"]
        become = ["setpriv", f"--reuid={USER_ID}", f"--regid={USER_ID}", "--clear-groups"] if user == USER else []
        return [*enter, *become, "env", "-i", *names, *words]

    def run(self, *words: str, user: str = USER, check: bool = True, **environment: str) -> str:
        """Return what a command on the machine prints."""
        ended = subprocess.run(
            self.command(*words, user=user, **environment), stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        output = (ended.stdout + ended.stderr).decode(errors="replace")
        assert not check or ended.returncode == 0, f"{self.name}: {' '.join(words)}: {ended.returncode}\n{output}"
        return ended.stdout.decode(errors="replace") if check else output

    def put(self, path: Path, content: str) -> None:
        """Write a file of the user, at `path` below the home, that nobody else reads."""
        _write(self.home / path, content)
        (self.home / path).chmod(0o600)
        if path.parts[0].startswith("."):
            (self.home / path.parts[0]).chmod(0o700)
        _own(self.home / path.parts[0])

    @property
    def _cable(self) -> str:
        return f"to-{self.name}"[:15]

    def _pid(self) -> int:
        """Return the id, here, of the first process inside."""
        assert self._first is not None, f"{self.name} is off"
        children = Path(f"/proc/{self._first.pid}/task/{self._first.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def _is_unshared(self) -> bool:
        pid = self._pid()
        return pid != 0 and Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()

    def _is_wired(self) -> bool:
        """Wire the machine to the switch."""
        ends = ["type", "veth", "peer", "name", "eth0", "netns", str(self._pid())]
        subprocess.run(["ip", "link", "add", self._cable, *ends], check=True)
        subprocess.run(["ip", "link", "set", self._cable, "master", BRIDGE, "up"], check=True)
        return True

    def _is_booted(self) -> bool:
        return Path(f"/proc/{self._pid()}/root/run/booted").exists()

    def _console(self) -> str:
        return f"{self.name} does not start: {(self._folder / 'console.log').read_text()}"


def make_network() -> None:
    """Make the switch that machines are wired to, in this process' own network."""
    for command in (
        ["ip", "link", "set", "lo", "up"],
        ["ip", "link", "add", BRIDGE, "type", "bridge"],
        ["ip", "address", "add", f"{GATEWAY}/24", "dev", BRIDGE],
        ["ip", "link", "set", BRIDGE, "up"],
    ):
        subprocess.run(command, check=True)


def missing_programs(
    needed: Sequence[str] = ("ip", "unshare", "nsenter", "setpriv", "sshd", "rsync", "ssh"),
) -> list[str]:
    """Return the programs that are not here."""
    return [name for name in needed if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def _own(top: Path) -> None:
    for path in (top, *top.rglob("*")):
        os.chown(path, USER_ID, USER_ID, follow_symlinks=False)
    if (keys := top / ".ssh").is_dir():
        keys.chmod(0o700)
