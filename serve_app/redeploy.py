"""`python -m serve_app.redeploy CONFIG`: give a running service another config, and wait until all of it is in place.

The service is the one that this user has started with `python -m serve_app` on the config's port, or that of the
dashboard which RAY_DASHBOARD_ADDRESS names. The token is read as Ray reads it. A changed `tls`, `http_options`,
`grpc_options` or `proxy_location` has no effect before Ray starts again: that is a warning. Two models need two job
queues, whether or not REDIS_URL is set here: the service may have it. Exit codes: 0 in place, 1 not deployed, or not
within --timeout-s, 2 bad config or no service, 130 after Ctrl-C. Neither Ctrl-C nor the time limit ends a rollout that
has begun.
"""

import argparse
import os
import re
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from serve_app.address import AddressFault, read_address
from serve_app.deployments.config_text import read_yaml
from serve_app.entrance.tls import tls_in
from serve_app.errors import SetupError, SetupFaults
from serve_app.places import find_config
from serve_app.service_folder import find_dashboard

if TYPE_CHECKING:
    from serve_app.deployments.rest import ServeRest

_INTERRUPTED = 128 + signal.SIGINT
_APPLIED_S = 1.0  # Serve still shows the state of before for a moment


def main() -> int:
    """Deploy what the arguments say and return the exit code."""
    arguments = _parser().parse_args()
    try:
        return _redeploy(arguments)
    except KeyboardInterrupt:
        print("interrupted: a rollout that has begun goes on in the service", file=sys.stderr)
        return _INTERRUPTED


def _redeploy(arguments: argparse.Namespace) -> int:
    from serve_app.deployments.applications import api_port, http_host
    from serve_app.deployments.config_file import check_config, load_config
    from serve_app.deployments.config_rules import find_shared_queues
    from serve_app.deployments.fixed_options import find_fixed_changes
    from serve_app.deployments.ingress_tls import find_tls_change
    from serve_app.deployments.rest import ServeRest
    from serve_app.deployments.rollout import DeployError, Rollout, TimeLimitReached
    from serve_app.deployments.waiting import say

    try:
        path = find_config(arguments.config)
        config = load_config(path)
        for change in arguments.set:
            _change(config, change)
        check_config(config, path)
        if shared := list(find_shared_queues(config)):
            raise SetupFaults(shared)
        dashboard = _read_dashboard(arguments.dashboard) if arguments.dashboard else find_dashboard(api_port(config))
        host = http_host(config)
        seen_at = read_address(dashboard).host if host == "0.0.0.0" else host  # noqa: S104
        rest = ServeRest(dashboard)
        tls_change = find_tls_change(tls_in(config), seen_at or host, api_port(config))
        unchanged = [*filter(None, [tls_change]), *find_fixed_changes(config, _running(rest))]
        for fault in unchanged:
            print(f"WARNING: {fault}", file=sys.stderr)
        rollout = Rollout(rest, config)
        rollout.deploy()
    except (SetupError, DeployError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    deadline_s = time.monotonic() + arguments.timeout_s
    time.sleep(_APPLIED_S)
    try:
        rollout.wait_until_in_place(("DEPLOY_FAILED",), deadline_s)
    except TimeLimitReached as exc:
        waited = f"still rolling out after {arguments.timeout_s:g} s ({exc.state})"
        print(f"{waited}; it goes on in the service; look at {dashboard}", file=sys.stderr)
        return 1
    except DeployError as exc:
        print(f"NOT DEPLOYED: {exc}", file=sys.stderr)
        return 1
    say(f"in place, but for {', '.join(fault.key for fault in unchanged)}" if unchanged else "in place")
    return 0


def _running(rest: "ServeRest") -> dict[str, Any]:
    """Return what the Serve that runs tells of itself; nothing if it does not, of which the deployment tells."""
    try:
        return rest.instance()
    except (OSError, ValueError):
        return {}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serve_app.redeploy", description=__doc__)
    parser.add_argument("config", help="a Serve config, or the name of a shipped one")
    parser.add_argument("--set", action="append", default=[], metavar="APP.KEY=VALUE", help="change one of its args")
    parser.add_argument(
        "--timeout-s",
        type=float,
        default=1800,
        metavar="S",
        help="longest wait (default: %(default)s: another model has to be prepared); the rollout goes on after it",
    )
    parser.add_argument(
        "--dashboard",
        default=os.environ.get("RAY_DASHBOARD_ADDRESS"),
        metavar="URL",
        help="of the service to update (default: the one that you run on the config's port)",
    )
    return parser


def _read_dashboard(url: str) -> str:
    named = "the dashboard (--dashboard or RAY_DASHBOARD_ADDRESS)"
    try:
        address = read_address(url)
    except AddressFault as exc:
        raise SetupError(f"{named}: {exc}; use http://127.0.0.1:8265") from None
    if address.username is not None or address.password is not None:
        raise SetupError(f"{named}: the address must have no user and password; Ray's token opens it")
    if address.scheme not in ("http", "https") or address.host is None or "@" in address.path or address.query:
        raise SetupError(f"{named}: the address is none such as http://127.0.0.1:8265")
    return url


def _change(config: dict[str, Any], change: str) -> None:
    where, separator, value = change.partition("=")
    name, dot, key = where.partition(".")
    found = [application for application in config["applications"] if application["name"] == name]
    if not (separator and dot and found):
        names = ", ".join(application["name"] for application in config["applications"])
        raise SetupError(f"--set {_named(where)}: give APP.KEY=VALUE; applications: {names}")
    try:
        found[0].setdefault("args", {})[key] = read_yaml(value)
    except SetupError as exc:
        raise SetupError(f"--set {_named(where)}: the value is {exc}") from None


def _named(where: str) -> str:
    return f"{where}=…" if re.fullmatch(r"[\w.-]+", where) else "…"  # anything else may be a URL with a password


if __name__ == "__main__":
    sys.exit(main())
