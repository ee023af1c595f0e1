"""The services under test in a plan: how one is started, its roles, and the metrics that it exports."""

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveInt,
    field_validator,
)

from loadtest.plan.base_url import address_of, read_base_url
from loadtest.plan.keys import Name, NonNegativeFinite, Pattern, PositiveFinite, Strict

STOLEN = "stolen"
KIT_ROLES = ("load_generator", "kit", "target_other", "machine", STOLEN)
"""Roles that the kit names itself: Locust, the kit, the target's processes that no pattern matches, everything that
runs on this machine, and the CPU time that its host gave to other machines instead."""

_LOGIN = re.compile(r"://[^/?#:]*:[^@]+@|(?<![\w+.-])(?!postgres)[\w+.-]+://[^/?#]+@|[?&]password=", re.IGNORECASE)
"""An address with a password that is not empty, or with a user, who may be a token, unless it is a database's."""

_Path = Annotated[str, Field(pattern="^/")]


class Replicas(Strict):
    """How many processes of a role must run before and during the load."""

    role: Name
    count: PositiveInt
    wait_s: NonNegativeFinite = 10
    """Once the target is ready, the longest wait for them: replicas may come after the first that answers."""


def _read_base_urls(given: object) -> str | list[str]:
    if isinstance(given, str):
        return read_base_url(given)
    if not isinstance(given, list) or not given or not all(isinstance(url, str) for url in given):
        raise ValueError("must be a URL such as http://127.0.0.1:8000, or a list of them")
    urls = [read_base_url(url) for url in given]
    if len(set(urls)) < len(urls):
        raise ValueError(f"the same URL appears twice: {', '.join(urls)}")
    return urls


class Target(Strict):
    """The service under test: the command that starts it, and its URL. Without `start` it must run already."""

    name: Name
    label: str = ""
    start: str | None = None
    """Run without a shell, from the folder in which the kit runs; `{python}` is the kit's own interpreter."""
    environment: dict[str, str] = Field(default={})
    url: Annotated[str | list[str], BeforeValidator(_read_base_urls)]
    """Where it is; a path in it stands before that of every request. Of several, such as the ingresses of a cluster,
    each user keeps to one, and all must be ready."""
    ready: list[_Path] = Field(default=["/"], min_length=1)
    """Paths that answer 200 once the target can be measured."""
    ready_timeout_s: PositiveFinite = 120
    stop: str | None = None
    """A command; without one the process gets SIGTERM."""
    stop_timeout_s: PositiveFinite = 30
    replicas: Replicas | None = None
    cached: bool = False
    """It is meant to answer from a cache. Otherwise a cell is INVALID when the target says that its cache is on and
    pictures repeat; with it, when it says that its cache is off."""
    about: list[_Path] = Field(default=[])
    """Paths whose JSON answers say what is served; the report quotes them."""
    # Left out where there are none: the folders of searches that older versions began can still be resumed.
    evaluations: list[Path] = Field(default=[], exclude_if=lambda paths: not paths)
    """What `serve-app-client evaluate --format json` printed about the models that it serves; the report quotes the
    accuracy of those whose fingerprint it tells below `about`."""
    files: list[Path] = Field(default=[])
    """Files that are copied into the run folder, such as the config that is served."""

    @property
    def urls(self) -> list[str]:
        """Return where it is; at least one."""
        return [self.url] if isinstance(self.url, str) else self.url

    @property
    def title(self) -> str:
        """Return what reports call it."""
        return self.label or self.name

    @field_validator("environment", mode="before")
    @classmethod
    def _no_password(cls, environment: object) -> object:
        for name, value in environment.items() if isinstance(environment, dict) else ():
            if _LOGIN.search(str(value)):
                raise ValueError(
                    f"{name} holds a user or a password, and plans and run folders are shared: export it in the "
                    "shell that starts the kit, whose environment the target inherits"
                )
        return environment


class Role(Strict):
    """A name for processes whose command line matches."""

    name: Name
    command: Pattern
    anywhere: bool = False
    """Also processes that the target did not start, such as a database server."""

    @field_validator("name")
    @classmethod
    def _is_not_ours(cls, name: str) -> str:
        if name in KIT_ROLES:
            raise ValueError(f"{name!r} is a role that the kit names ({', '.join(KIT_ROLES)}); choose another name")
        return name


class Counter(Strict):
    """A Prometheus counter of the target whose increase the report shows, one figure per combination of labels."""

    name: str
    by: list[str] = Field(default=[])


class Hits(Strict):
    """A Prometheus counter of answers by where they came from."""

    name: str
    by: str
    values: list[str] = Field(min_length=1)
    """Of the label `by`: those that stand for an answer from the cache."""


def discovery_path(discovery: str, url: str) -> Path:
    """Return the file that `discovery` means for the target at `url`. Raises ValueError and LookupError."""
    user = os.getuid() if hasattr(os, "getuid") else ""
    run_dir = os.environ.get("SERVE_APP_RUN_DIR") or f"/tmp/serve-app-{user}"  # noqa: S108 as the service has it
    return Path(discovery.format(port=address_of(url)[1], user=user, run_dir=run_dir))


def _check_discovery(text: str) -> str:
    try:
        discovery_path(text, "http://127.0.0.1")
    except (ValueError, LookupError) as exc:
        raise ValueError(f"{text!r}: only {{port}}, {{user}} and {{run_dir}} may stand in braces ({exc})") from None
    return text


class TargetMetrics(Strict):
    """Where the target exports metrics in Prometheus' text format, and what to take from them."""

    urls: list[Annotated[str, Field(pattern="^https?://")]] = Field(default=[])
    discovery: Annotated[str, AfterValidator(_check_discovery)] | None = None
    """A Prometheus file_sd file that lists further addresses; it may appear only once the target runs. In its name
    {port} stands for the port of the target's url, {user} for the number of the user who measures, and {run_dir} for
    SERVE_APP_RUN_DIR or /tmp/serve-app-{user}."""
    keep: Pattern = ""
    """Names to keep in the run folder."""
    counters: list[Counter] = Field(default=[])
    hits: Hits | None = None
    """Of which the report shows what share of the answers came from the target's cache."""
    settle_s: NonNegativeFinite = 0
    """Time that the target's exporter needs to be up to date; waited for before and after the load."""
