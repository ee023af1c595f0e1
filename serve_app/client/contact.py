"""Opens what a run talks to: the service, whose first answer may fail quickly, and the hosts of URLs."""

from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing

from serve_app.client.connection import Connection
from serve_app.client.downloads import Downloads
from serve_app.client.errors import ItemError, RunStopped
from serve_app.client.items import Item
from serve_app.client.patience import Patience
from serve_app.client.plain_text import without_login
from serve_app.client.progress import Progress
from serve_app.client.service import About, Service, Wishes

RANDOM = "this service runs with RANDOM weights: its predictions are meaningless"
_LEAST_IN_A_ROW = 3


def open_service(connection: Connection, key: str | None, wishes: Wishes, progress: Progress) -> Service:
    """Return the service; close it with `aclose`. Raises UsageError for a proxy or certificates that cannot be used."""
    patience = Patience(connection.retries, connection.give_up_after_s, progress.retry)
    return Service(connection, key, wishes, patience)


async def first_contact(service: Service, connection: Connection, progress: Progress) -> About:
    """Return GET /model/, and warn of random weights. Raises UsageError, RunStopped."""
    try:
        about = await service.about(first_patience(connection, progress))
    except ItemError as exc:
        raise RunStopped(
            f"{service.option} {without_login(service.server)}: does not answer ({exc.detail}); "
            f"start the service, or change {service.option}"
        ) from exc
    if about.weights == "random":
        progress.warn(RANDOM)
    return about


def first_patience(connection: Connection, progress: Progress) -> Patience:
    """Return the limits of the first answer."""
    return Patience(connection.retries, connection.first_contact_s, progress.retry)


def most_in_a_row(connection: Connection) -> int:
    """Return how many pictures in a row fail before the service counts as unreachable."""
    return max(_LEAST_IN_A_ROW, connection.parallel)


async def open_downloads(
    items: Sequence[Item], connection: Connection, progress: Progress, stack: AsyncExitStack
) -> Downloads | None:
    """Return what fetches URLs; None without URLs, where the environment's proxies do not matter."""
    if not any(item.is_url for item in items):
        return None
    patience = Patience(connection.download_retries, connection.download_s, progress.retry)
    return await stack.enter_async_context(aclosing(Downloads(patience)))
