"""What the classifier refuses before its API sees a request. Called by whatever stands in front, with ASGI scopes."""

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import Scope

from serve_app.classifier.admission import Admission
from serve_app.classifier.api import DEADLINE_HEADER, read_deadline_s
from serve_app.entrance.guard import Guard
from serve_app.errors import Overloaded, ServiceError, Unauthorized

_PATH_ENDS = ("/predict", "/infer")
"""Of the only paths that need a place in the queue: where the application is mounted is not known here."""


def build_early_refusal(admission: Admission, guard: Guard) -> Callable[[Scope], ServiceError | None]:
    """Return what tells with which error a request is refused at once; None when the API decides.

    It refuses what `api` would refuse after 1 ms of routing, parsing and error handling, for a tenth of that. A body
    that is read here does not count among the requests that Serve lets the replica work on.
    """

    def refuse(scope: Scope) -> ServiceError | None:
        if scope["method"] != "POST":
            return None
        headers = Headers(scope=scope)
        try:
            account = guard.identify(headers)
            guard.check_room(account)
            if scope["path"].endswith(_PATH_ENDS):
                # What cannot be read is the API's to refuse, by name.
                admission.check(read_deadline_s(headers.get(DEADLINE_HEADER)), account=account)
        except Overloaded as exc:
            return exc
        except Unauthorized:  # the API refuses it: who has no key is not told how full the service is
            return None
        return None

    return refuse
