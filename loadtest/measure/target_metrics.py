"""Reads what the target exports in Prometheus' text format, and keeps the metrics that the plan wants."""

import json
import re
from pathlib import Path

import httpx

from loadtest.plan.targets import TargetMetrics, discovery_path

_READ_TIMEOUT_S = 10.0
_SAMPLE_NAME = re.compile(r"(?:# (?:HELP|TYPE) )?([A-Za-z_:][\w:]*)")


def save_metrics(metrics: TargetMetrics, url: str, path: Path) -> str | None:
    """Write the metrics of the target at `url` into the file. Returns what went wrong, if anything.

    Raises OSError of the file.
    """
    keep = re.compile(metrics.keep)
    texts, faults = [], []
    discovery = discovery_path(metrics.discovery, url) if metrics.discovery else None
    try:
        urls = [*metrics.urls, *discover(discovery)]
    except (OSError, ValueError, LookupError, TypeError) as exc:
        return f"metrics: {discovery} cannot be read: {exc}"
    for exporter in urls:
        try:
            answer = httpx.get(exporter, timeout=_READ_TIMEOUT_S, trust_env=False)
            answer.raise_for_status()
        except httpx.HTTPError as exc:
            faults.append(f"metrics: {exporter}: {exc or type(exc).__name__}")
            continue
        texts.append(_kept(answer.text, keep))
    path.write_text("".join(texts), encoding="utf-8")
    return "; ".join(faults) or None


def discover(file: Path | None) -> list[str]:
    """Return the addresses in a file of Prometheus' file-based service discovery.

    https://prometheus.io/docs/prometheus/latest/configuration/configuration/#file_sd_config
    Raises OSError, ValueError, LookupError or TypeError when it is missing or not of that form.
    """
    if file is None:
        return []
    groups = json.loads(file.read_text(encoding="utf-8"))
    return [f"http://{address}/metrics" for group in groups for address in group["targets"]]


def _kept(text: str, keep: re.Pattern[str]) -> str:
    lines = []
    for line in text.splitlines():
        name = _SAMPLE_NAME.match(line)
        if name and keep.search(name[1]):
            lines.append(line + "\n")
    return "".join(lines)
