"""The protocol over the session's classifier with fitted weights, without Ray."""

from collections.abc import AsyncIterator

import httpx
import pytest

from serve_app.classifier.api import build_model_api
from serve_app.classifier.classifier import Classifier
from serve_app.open_inference.api import add_inference_routes
from serve_app.open_inference.inference import Inference


@pytest.fixture(scope="session")
async def client(classifier: Classifier) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the whole classifier, below /model as Serve mounts it."""
    api = build_model_api(classifier)
    add_inference_routes(api, Inference(classifier))
    transport = httpx.ASGITransport(api, root_path="/model", raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test/model") as client:
        yield client
