"""Classifies the pictures of one request: all or none, each with a place in the queue. Called by REST and gRPC."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, TypeVarTuple

import numpy as np

from serve_app.cache.classification import Classification
from serve_app.classifier.admission import Reservation
from serve_app.classifier.classifier import CacheUse, Classifier
from serve_app.classifier.timing import Stopwatch
from serve_app.errors import ServiceError, UploadTooLarge
from serve_app.metrics import STAGE_MS
from serve_app.open_inference.models import OUTPUTS, ServedModels
from serve_app.open_inference.request import Wanted
from serve_app.open_inference.tensors import Output, Tensor, made_bytes, most_pictures, pictures_in
from serve_app.uploads import HeldUpload, free_all, work_for

Given = TypeVarTuple("Given")
Result = TypeVar("Result")

AT_ONCE_BYTES = 131_072
"""Up to here the event loop takes a request apart itself: handing it to a thread would cost as much."""


@dataclass(frozen=True)
class Answer:
    """The outputs of a request, and the picture that was ready last."""

    outputs: list[Output]
    last: Classification


class Inference:
    """The protocol over one replica's classifier."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.settings = classifier.settings
        self.models = ServedModels(classifier.model.name, classifier.model.engine, most_pictures(self.settings))

    async def take_apart(self, tensor: Tensor, size_bytes: int, held: Sequence[HeldUpload]) -> list[HeldUpload]:
        """Return the pictures in `tensor`, to be freed by the caller.

        It came with a request of `size_bytes`, for which all of `held` account. Raises the errors of `pictures_in` and
        of `hold`.
        """
        making, files = held[0].beside(), list[HeldUpload]()
        request = [*held, making]
        try:
            self.hold(making, await off_the_loop(size_bytes, request, made_bytes, tensor), held)
            made = await off_the_loop(size_bytes, request, pictures_in, tensor, self.settings)
        finally:
            making.free()  # the files are accounted for below, each until it is decoded
        try:
            for file in made:
                files.append(held[0].beside())
                self.hold(files[-1], len(file), [*held, *files[:-1]])
                files[-1].data = file
        except ServiceError:
            free_all(files)
            raise
        return files

    def hold(self, upload: HeldUpload, count: int, beside: Sequence[HeldUpload] = ()) -> None:
        """Account for `count` bytes more of a request, which has others `beside`.

        Raises UploadTooLarge where the request takes more than there is, Overloaded where others take the rest.
        """
        needed = count + sum(each.held_bytes for each in (upload, *beside))
        if needed > self.settings.max_held_bytes:
            raise UploadTooLarge(
                f"the request takes {needed:,} bytes of memory, more than the {self.settings.max_held_bytes:,} of "
                "max_held_bytes; send fewer pictures, or use the binary extension"
            )
        upload.add(count)

    async def infer(
        self, wanted: Wanted, uploads: list[HeldUpload], deadline_s: float, use: CacheUse = "full"
    ) -> Answer:
        """Return the answer about `uploads`, which are freed as soon as they are decoded.

        Raises the errors of Classifier.classify, which say which picture they are about, and Overloaded if not all of
        them are taken.
        """
        account = uploads[0].account
        with self.classifier.admission.reserve(len(uploads), deadline_s, account) as reserved:
            found = await self._classify(uploads, deadline_s, use, reserved)
        last = max(found, key=lambda each: each.marks[-1][1])
        return Answer(self._outputs(found, wanted), last)

    def observe(self, stopwatch: Stopwatch, answer: Answer) -> None:
        """Charge the time since the upload to the stages of the picture that was ready last, and count all stages."""
        for stage, until in answer.last.marks:
            stopwatch.charge(stage, until)
        stopwatch.charge("answer")
        for stage, spent_s in stopwatch.spent_s.items():
            self.classifier.admission.metrics.observe(STAGE_MS, 1000 * spent_s, stage)

    async def _classify(
        self, uploads: list[HeldUpload], deadline_s: float, use: CacheUse, reserved: Reservation
    ) -> list[Classification]:
        async def classify(index: int) -> Classification:
            try:
                return await self.classifier.classify(uploads[index], deadline_s, use, reserved)
            except ServiceError as exc:
                if len(uploads) == 1:
                    raise
                raise type(exc)(f"picture {index}: {exc.detail}", exc.retry_after_s) from exc

        try:
            async with asyncio.TaskGroup() as running:
                tasks = [running.create_task(classify(index)) for index in range(len(uploads))]
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        return [task.result() for task in tasks]

    def _outputs(self, found: list[Classification], wanted: Wanted) -> list[Output]:
        labels = self.classifier.prepared.manifest.labels
        best = [each.best[: wanted.top_k] for each in found]
        values = {
            "labels": np.array([[labels[class_id] for class_id, _ in row] for row in best], dtype=object),
            "class_ids": np.array([[class_id for class_id, _ in row] for row in best], dtype=np.int32),
            "probabilities": np.array([[score for _, score in row] for row in best], dtype=np.float64),
        }
        return [
            Output(output.name, output.datatype, values[output.name])
            for output in OUTPUTS
            if output.name in wanted.outputs
        ]


async def off_the_loop(
    size_bytes: int, held: Sequence[HeldUpload], work: Callable[[*Given], Result], *given: *Given
) -> Result:
    """Return what `work` returns about so many bytes of a request, for which all of `held` account.

    Many of them keep a thread busy, and not the event loop.
    """
    return work(*given) if size_bytes <= AT_ONCE_BYTES else await work_for(held, work, *given)
