"""Sends this package's log lines where Serve's own go: the replica's log file, the terminal and the dashboard."""

import logging


def send_logs_to_serve() -> None:
    """Make the logger `serve_app` a child of Serve's, whose handlers carry the replica and the request id."""
    ours = logging.getLogger("serve_app")
    ours.parent = logging.getLogger("ray.serve")
    ours.setLevel(logging.INFO)
