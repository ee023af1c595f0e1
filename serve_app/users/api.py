"""The HTTP side of the users: pages, one user, readiness. Paths are relative to the mount point (/user).

Called by the Serve builder and the tests. Knows nothing of databases or Ray.
"""

import re
from typing import Annotated

from fastapi import FastAPI
from pydantic import BeforeValidator, Field, WithJsonSchema

from serve_app.errors import DatabaseUnavailable, NotFound, NotReady
from serve_app.users.store import MAX_USER_ID, MIN_USER_ID, User, UserPage, UserStore
from serve_app.web import add_ready_route, build_api, documented

MAX_LIMIT = 100
_WHOLE_NUMBER = re.compile(r"-?[0-9]+")


def _only_whole_numbers(given: object) -> object:
    # Pydantic alone would also take " 7", "+7", "7.0" and digits of other scripts.
    if isinstance(given, str) and not _WHOLE_NUMBER.fullmatch(given):
        raise ValueError("must be a whole number written in digits 0-9")
    return given


# The bounds stand before the validator: after it, they would be missing from OpenAPI.
Limit = Annotated[
    int, Field(ge=1, le=MAX_LIMIT, description="Users on the page, at most."), BeforeValidator(_only_whole_numbers)
]
After = Annotated[
    Annotated[int, Field(ge=MIN_USER_ID, le=MAX_USER_ID), BeforeValidator(_only_whole_numbers)] | None,
    Field(description="`next` of the page before; without it, the first page is returned."),
    WithJsonSchema({"type": "integer", "minimum": MIN_USER_ID, "maximum": MAX_USER_ID}),
]
UserId = Annotated[int, Field(ge=MIN_USER_ID, le=MAX_USER_ID), BeforeValidator(_only_whole_numbers)]


def build_users_api(store: UserStore) -> FastAPI:
    """Return the users API over an open `store`."""
    api = build_api("Users", "Look up users: one page in the order of their ids, or one user.")
    # Before /{user_id}, which would take the word "ready" for an id.
    add_ready_route(api, store.ping, DatabaseUnavailable, NotReady)

    @api.get("", include_in_schema=False)  # /user without its slash, which would otherwise cost a redirect
    @api.get("/", responses=documented(DatabaseUnavailable), summary="One page of users")
    async def list_users(limit: Limit = 20, after: After = None) -> UserPage:
        return await store.list_users(limit, after)

    @api.get(
        "/{user_id}",
        responses=documented(NotFound, DatabaseUnavailable),
        summary="One user",
    )
    async def get_user(user_id: UserId) -> User:
        user = await store.get_user(user_id)
        if user is None:
            raise NotFound(f"there is no user {user_id}")
        return user

    return api
