"""Refuses before Serve and FastAPI see a request: under ten times too much, what a refusal costs decides the goodput.

`middleware` asks it first, in every replica; `deployments.model` puts in what its classifier would refuse anyway.
"""

from collections.abc import Callable

from starlette.types import Scope

from serve_app.errors import ServiceError
from serve_app.web import Drain, ErrorShape, own_shape

Refuse = Callable[[Scope], ServiceError | None]
"""Returns with which error a request is refused at once, or None when the application decides."""


class Gate:
    """What refuses in this process, which holds one replica at most."""

    def __init__(self) -> None:
        self._refuse: Refuse | None = None
        self._shaped: tuple[str, ErrorShape] = ("/", own_shape)
        self.drain = Drain()
        """How much of a body is read that is refused here: as much as the application takes, once it has said so."""

    def shape_errors(self, path: str, shape: ErrorShape) -> None:
        """Give errors another shape at `path` and below it, wherever the application is mounted."""
        self._shaped = (f"{path}/", shape)

    def shape_of(self, scope: Scope) -> ErrorShape:
        """Return the shape that an error has as the answer to this request."""
        path, shape = self._shaped
        return shape if path in f"{scope['path']}/" else own_shape

    def put(self, refuse: Refuse) -> None:
        """Have `refuse` asked about every request from now on."""
        self._refuse = refuse

    def refusal(self, scope: Scope) -> ServiceError | None:
        """Return with which error a request is refused at once, or None."""
        return None if self._refuse is None else self._refuse(scope)


GATE = Gate()
"""The one of this process: Serve makes the middleware and the replica apart from each other, and hands neither on."""
