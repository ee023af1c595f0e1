"""Drives requests with wrk, a generator light enough to share two cores with the service."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("wrk_report.lua")
# wrk counts a request as timed out after this many seconds.
TIMEOUT_S = 10


@dataclass(frozen=True)
class WrkLoad:
    """What wrk saw in one round. `failures`: answers that were not 2xx or 3xx, and requests without an answer."""

    rps: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    requests: int
    failures: int


def require_wrk() -> None:
    """Raise RuntimeError if wrk is not installed."""
    if shutil.which("wrk") is None:
        raise RuntimeError("wrk is needed: apt-get install wrk (or https://github.com/wg/wrk)")


def run_lookups(url: str, *, connections: int, duration_s: float, pause_ms: int = 0) -> WrkLoad:
    """Request `url` over kept connections, each asking again `pause_ms` after its last answer.

    wrk takes whole seconds: `duration_s` is rounded up. Raises RuntimeError if wrk fails.
    """
    return _run(url, [str(pause_ms)], connections, duration_s)


def post_pictures(  # noqa: PLR0913 where, what, and how much of it
    url: str, folder: Path, count: int, *, connections: int, duration_s: float, pause_ms: int = 0
) -> WrkLoad:
    """Post the pictures 0.jpg, 1.jpg, … of `folder`, `count` in all, in turn. As `run_lookups`.

    `pause_ms` is the mean of random pauses.
    """
    return _run(url, [str(pause_ms), str(folder), str(count)], connections, duration_s)


def _run(url: str, arguments: list[str], connections: int, duration_s: float) -> WrkLoad:
    whole_s = max(1, -int(-duration_s // 1))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{whole_s}s", f"--timeout={TIMEOUT_S}s", f"-s{SCRIPT}", url]
    done = subprocess.run([*command, "--", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"wrk ended with code {done.returncode}: {done.stderr or done.stdout}")
    found = json.loads(done.stdout.splitlines()[-1])
    took_s = found["duration_us"] / 1e6
    return WrkLoad(
        rps=found["requests"] / took_s,
        p50_ms=found["p50_us"] / 1000,
        p95_ms=found["p95_us"] / 1000,
        p99_ms=found["p99_us"] / 1000,
        requests=found["requests"],
        failures=found["bad_status"] + found["broken"],
    )
