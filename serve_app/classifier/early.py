"""What the classifier refuses before its API sees a request. Called by whatever stands in front, with ASGI scopes."""

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import Scope

from serve_app.classifier.admission import Admission
from serve_app.classifier.api import DEADLINE_HEADER, read_deadline_s
from serve_app.errors import Overloaded, ServiceError

_PATH_ENDS = ("/predict", "/infer")
"""Of the only paths that are refused: where the application is mounted is not known here."""


def build_early_refusal(admission: Admission) -> Callable[[Scope], ServiceError | None]:
    """Return what tells with which error a request is refused at once; None when the API decides.

    It refuses what `api` would refuse after 1 ms of routing, parsing and error handling, for a tenth of that.
    """

    def refuse(scope: Scope) -> ServiceError | None:
        if scope["method"] != "POST" or not scope["path"].endswith(_PATH_ENDS):
            return None
        try:
            # What cannot be read is the API's to refuse, by name.
            admission.check(read_deadline_s(Headers(scope=scope).get(DEADLINE_HEADER)))
        except Overloaded as exc:
            return exc
        return None

    return refuse
