"""What stands before every route but the login: is this user logged in, and may they do that?

An ``authorize`` hook has a deadline of its own. All else, the route included, has as long as a call
to Redis may take.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import wraps

import trio
from quart import Response, request

from ..base.codec import check_id
from ..base.errors import NotLoggedIn, StoreUnavailable
from ..groups.access import Access
from ..groups.moderation.judge import Judge
from ..hooks import Action
from ..redis.keeping import CALL_SECONDS
from .parameters import read_group, read_header

Handler = Callable[[], Awaitable[Response]]
UserHandler = Callable[[str], Awaitable[Response]]
"""The handler of a route that knows which user asks."""

OF_MEMBERS = ("history", "recall")
"""What nobody may do in a group who is banned from it."""


class Guard:
    """Lets those through who may."""

    def __init__(self, access: Access, judge: Judge) -> None:
        self._access = access
        self._judge = judge

    def allowed(self, action: Action) -> Callable[[UserHandler], Handler]:
        """Decorate the handler of a route that does ``action``."""

        def decorate(handler: UserHandler) -> Handler:
            @wraps(handler)
            async def check() -> Response:
                return await self._check(action, handler)

            return check

        return decorate

    async def _check(self, action: Action, handler: UserHandler) -> Response:
        user, token = read_header("userId"), read_header("token")
        if not user or not token:
            raise NotLoggedIn
        # Ids are judged before anybody is asked anything.
        check_id("userId", user)
        given = await request.values
        for name in ("groupId", "userId"):
            # The author of a message, which the history is read from, may be nobody.
            may_be_empty = action == "history" and name == "userId"
            if name in given and not (may_be_empty and given[name] == ""):
                check_id(name, given[name])
        if self._access.asks_hook:  # outside, as it has a deadline of its own
            group = "" if action == "groups" else await read_group()
            await self._access.check(user, token, action, group)
        with _answer_in_time():
            if not self._access.asks_hook:
                # One that is missing is told by the route, to whoever is logged in.
                group = "" if action == "groups" else given.get("groupId", "")
                await self._access.check(user, token, action, group)
            if action in OF_MEMBERS and "groupId" in given:
                await self._judge.check_group(given["groupId"], user)
            return await handler(user)


@contextmanager
def _answer_in_time() -> Iterator[None]:
    with trio.move_on_after(CALL_SECONDS) as scope:
        yield
    if scope.cancelled_caught:
        raise StoreUnavailable(f"no answer within {CALL_SECONDS:g} s")
