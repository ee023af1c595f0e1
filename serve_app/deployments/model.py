"""The Serve application `model`: POST /model/predict. Named in configs/*.yaml as `serve_app.deployments.model:build`.

No `from __future__ import annotations` here: Serve reads the builder's annotation at run time to type its args.
"""

import logging
import os

from fastapi import FastAPI
from ray import serve
from ray.serve import Application

from serve_app.classifier.settings import ClassifierSettings
from serve_app.deployments.logs import send_logs_to_serve
from serve_app.deployments.thread_budget import thread_budget_fault

logger = logging.getLogger(__name__)


@serve.deployment(name="Classifier")
@serve.ingress()
class ClassifierDeployment:
    """One classifier replica; how many there are is in the YAML."""

    async def __init__(self, settings: ClassifierSettings) -> None:
        # Imported in the replica: the builder runs in a process of its own, which the start would have to wait for.
        from serve_app.classifier.classifier import Classifier

        send_logs_to_serve()
        replicas = serve.get_replica_context().world_size
        if fault := thread_budget_fault(settings.threads, replicas, os.cpu_count() or 1):
            logger.warning(fault)
        self._classifier = await Classifier.load(settings)

    def __serve_build_asgi_app__(self) -> FastAPI:
        from serve_app.classifier.api import build_model_api

        return build_model_api(self._classifier)

    async def check_health(self) -> None:
        """Called by Serve; the replica is replaced when this raises."""
        self._classifier.check_ready()

    async def __del__(self) -> None:
        if hasattr(self, "_classifier"):
            await self._classifier.close()


def build(args: ClassifierSettings) -> Application:
    """Return the application; `args` are those of the YAML."""
    return ClassifierDeployment.bind(args)
