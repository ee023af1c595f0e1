"""The methods of the Open Inference Protocol that Serve's gRPC ingress calls on a deployment, by their names.

Serve opens a gRPC port for every application as soon as one needs it, so every deployment has them.
"""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import grpc

from serve_app.open_inference.grpc_messages import METHODS, message_class


class Answers(Protocol):
    """What answers the methods of a replica that has a model."""

    async def answer(self, method: str, request: bytes, context: Any) -> Any:
        """Return the answer to a message as it came; the status of a refusal is in `context`."""


class InferenceMethods:
    """A deployment with these methods; without `grpc_inference` each of them is refused."""

    grpc_inference: Answers | None = None


def _method(name: str) -> Callable[..., Coroutine[None, None, Any]]:
    async def answer(self: InferenceMethods, request: bytes, grpc_context: Any) -> Any:
        if self.grpc_inference is not None:
            return await self.grpc_inference.answer(name, request, grpc_context)
        grpc_context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        grpc_context.set_details("this application has no models; name another in the metadata `application`")
        return message_class(f"{name}Response")()

    answer.__name__ = name
    return answer


for _name in METHODS:
    setattr(InferenceMethods, _name, _method(_name))
