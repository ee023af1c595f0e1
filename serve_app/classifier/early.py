"""What the classifier refuses before its API sees a request. Called by whatever stands in front, with ASGI scopes."""

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers
from starlette.types import Scope

from serve_app.classifier.admission import Admission
from serve_app.classifier.api import DEADLINE_HEADER, read_deadline_s
from serve_app.entrance.gate import Enter
from serve_app.entrance.guard import Guard

_PATH_ENDS = ("/predict", "/infer")
"""Of the only paths that need a place in the queue: where the application is mounted is not known here."""


def build_entry(admission: Admission, guard: Guard) -> Enter:
    """Return what lets a request in whose client `guard` knows, and for whose picture there is a place.

    It raises what `api` would raise after 1 ms of routing, parsing and error handling, for a tenth of that. Who has no
    key is not told how full the service is.
    """

    @contextmanager
    def enter(scope: Scope) -> Iterator[None]:
        with guard.enter(scope) as account:
            if account is not None and scope["method"] == "POST" and scope["path"].endswith(_PATH_ENDS):
                # What cannot be read is the API's to refuse, by name.
                within_s = read_deadline_s(Headers(scope=scope).get(DEADLINE_HEADER))
                admission.check(within_s, account=account)
            yield

    return enter
