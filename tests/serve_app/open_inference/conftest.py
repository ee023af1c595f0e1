"""The protocol over the session's classifier with fitted weights, without Ray."""

from collections.abc import AsyncIterator

import httpx
import pytest

from serve_app.classifier.classifier import Classifier
from tests.small_classifier import client_of


@pytest.fixture(scope="session")
async def client(classifier: Classifier) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the whole classifier, below /model as Serve mounts it."""
    async with client_of(classifier) as client:
        yield client
