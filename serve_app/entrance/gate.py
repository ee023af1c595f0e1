"""Refuses before Serve and FastAPI see a request: under ten times too much, what a refusal costs decides the goodput.

And a body that is read here does not count among the requests that Serve lets the replica work on. `middleware` asks it
first, in every replica; the deployments put in who may enter.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from starlette.types import Scope

from serve_app.web import Drain, ErrorShape, own_shape

Enter = Callable[[Scope], AbstractContextManager[object]]
"""Returns what lasts as long as a request; to enter it raises the ServiceError with which it is refused at once."""


class Gate:
    """What refuses in this process, which holds one replica at most."""

    def __init__(self) -> None:
        self.enter: Enter = lambda _: nullcontext()
        """Lets everything through until the application of this process has put in its own."""
        self._shaped: tuple[str, ErrorShape] = ("/", own_shape)
        self.drain = Drain()
        """How much of a body is read that is refused here: as much as the application takes, once it has said so."""
        self.is_told_what_is_taken = False
        """Whether the application of this process tells what it takes of a body; see `read_ahead`."""

    def __reduce__(self) -> str:
        """Be pickled as this name. Serve pickles deployments with `@serve.ingress` by value, and a copy is no gate."""
        return "GATE"

    def shape_errors(self, path: str, shape: ErrorShape) -> None:
        """Give errors another shape at `path` and below it, wherever the application is mounted."""
        self._shaped = (f"{path}/", shape)

    def shape_of(self, scope: Scope) -> ErrorShape:
        """Return the shape that an error has as the answer to this request."""
        path, shape = self._shaped
        return shape if path in f"{scope['path']}/" else own_shape


GATE = Gate()
"""The one of this process: Serve makes the middleware and the replica apart from each other, and hands neither on."""
