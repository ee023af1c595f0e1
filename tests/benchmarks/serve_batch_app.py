"""Serve applications for `batching`: the same classifier, once behind the project's batcher, once behind Ray's.

No `from __future__ import annotations` here: Serve reads the builder's annotation at run time to type its args.
"""

import asyncio
from concurrent.futures import Executor

from fastapi import FastAPI
from pydantic import Field
from ray import serve
from ray.serve import Application

from serve_app.classifier.batcher import BatchLimits, Infer, Inference, _timed
from serve_app.classifier.images import Picture
from serve_app.classifier.settings import ClassifierSettings
from serve_app.deployments.logs import send_logs_to_serve
from serve_app.deployments.model import build as build_micro_batcher
from serve_app.deployments.options import CLASSIFIER, CLASSIFIER_NAME

__all__ = ["build", "build_micro_batcher"]


class ServeBatchSettings(ClassifierSettings):
    """The classifier's settings, and how long `@serve.batch` waits for company."""

    batch_wait_timeout_s: float = Field(ge=0)


class ServeBatcher:
    """Stands where MicroBatcher stands: the same engine threads and batches, but Ray decides when a batch is one.

    It has no bound on its queue; the benchmark never sends more than its connections.
    """

    failures = 0

    def __init__(self, infer: Infer, executor: Executor, limits: BatchLimits, batch_wait_timeout_s: float) -> None:
        @serve.batch(
            max_batch_size=max(1, limits.pictures // limits.batches),
            batch_wait_timeout_s=batch_wait_timeout_s,
            max_concurrent_batches=limits.batches,
        )
        async def run_batch(pictures: list[Picture]) -> list[Inference]:
            run = asyncio.get_running_loop().run_in_executor
            scores, started, ended = await run(executor, _timed, infer, pictures)
            return [Inference(row, started, ended, len(pictures)) for row in scores]

        self._run_batch = run_batch

    @property
    def is_running(self) -> bool:
        return True

    @property
    def running_for_s(self) -> float:
        return 0.0

    async def infer(self, picture: Picture) -> Inference:
        """See MicroBatcher.infer."""
        inference: Inference = await self._run_batch(picture)
        return inference

    async def close(self) -> None:
        """Do nothing: Ray's batching task ends with the replica."""


@serve.deployment(name=CLASSIFIER_NAME, **CLASSIFIER.model_dump())
@serve.ingress()
class ServeBatchDeployment:
    """ClassifierDeployment with the other batcher."""

    def __init__(self, settings: ServeBatchSettings) -> None:
        self._settings = settings

    async def __serve_build_asgi_app__(self) -> FastAPI:
        from serve_app.classifier.api import build_model_api
        from serve_app.classifier.classifier import Classifier

        send_logs_to_serve()
        self._classifier = await Classifier.load(self._settings)
        micro = self._classifier._batcher
        await micro.close()
        self._classifier._batcher = ServeBatcher(  # type: ignore[assignment]
            micro._infer, micro._executor, micro._limits, self._settings.batch_wait_timeout_s
        )
        return build_model_api(self._classifier)

    async def __del__(self) -> None:
        if hasattr(self, "_classifier"):
            await self._classifier.close()


def build(args: ServeBatchSettings) -> Application:
    """Return the application; `args` are those of the classifier and `batch_wait_timeout_s`."""
    application: Application = ServeBatchDeployment.bind(args)  # type: ignore[attr-defined]
    return application
