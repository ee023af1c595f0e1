"""Predict mode: one request per picture."""

from collections.abc import Sequence

from serve_app.client.contents import Contents
from serve_app.client.errors import UNEXPECTED_ANSWER, ItemError, RunStopped
from serve_app.client.items import Item
from serve_app.client.outcome import Outcome, is_prediction
from serve_app.client.plain_text import without_login
from serve_app.client.progress import Progress
from serve_app.client.service import Service


class Predictions:
    """Classifies items through POST /model/predict, until the service is unreachable."""

    def __init__(self, service: Service, contents: Contents, progress: Progress, *, most_in_a_row: int) -> None:
        """Treat the service as unreachable when `most_in_a_row` items in a row fail after all retries."""
        self._service = service
        self._contents = contents
        self._progress = progress
        self._most_in_a_row = most_in_a_row
        self._in_a_row = 0

    async def classify(self, items: Sequence[Item]) -> list[Outcome]:
        """Return the outcome of each item. Raises RunStopped, UsageError."""
        return [await self._classify(item) for item in items]

    async def _classify(self, item: Item) -> Outcome:
        try:
            outcome = Outcome(item.name, await self.predict(item))
        except ItemError as exc:
            outcome = Outcome(item.name, None, exc.as_json())
        self._progress.advance(1, failed=outcome.prediction is None)
        return outcome

    async def predict(self, item: Item) -> dict[str, object]:
        """Return the prediction of one item, without counting it as done. Raises ItemError, RunStopped, UsageError."""
        picture = await self._contents.read(item)
        try:
            prediction = await self._service.predict(picture)
        except ItemError as exc:
            self._in_a_row = self._in_a_row + 1 if exc.is_transient else 0
            if self._in_a_row >= self._most_in_a_row:
                raise RunStopped(
                    f"{self._in_a_row} pictures in a row failed after all retries (--give-up-after, --retries); "
                    f"the last error of {without_login(self._service.server)}: {exc.detail}"
                ) from exc
            raise
        self._in_a_row = 0
        return check_prediction(prediction)


def check_prediction(body: object) -> dict[str, object]:
    """Return `body` if it is a prediction. Raises ItemError."""
    if is_prediction(body):
        return body
    raise ItemError(UNEXPECTED_ANSWER, "the answer is not a prediction")
