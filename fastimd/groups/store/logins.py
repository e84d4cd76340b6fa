"""Who is logged in: a token a user."""

from __future__ import annotations

import secrets
from contextlib import suppress

from ...base import codec
from ...base.errors import NotLoggedIn, StoreUnavailable
from ...base.settings import Config
from ...redis.clients import RedisClient
from .keyspace import Keyspace, login_key


class Logins:
    """Gives tokens and checks them."""

    def __init__(self, keys: Keyspace, client: RedisClient, config: Config) -> None:
        self._keys = keys
        self._client = client
        self._config = config

    async def log_in(self, user: str) -> str:
        """Give a user a new token, valid for ``token_ttl`` seconds; an older one ends."""
        token = secrets.token_hex(16)
        await self._keys.call("SET", login_key(user), token, "EX", self._config.login.token_ttl)
        return token

    async def check(self, user: str, token: str) -> None:
        """Check a user's token and renew its life.

        Raises:
            NotLoggedIn: it is not the user's token.
        """
        if not await self._is_logged_in(user, token):
            raise NotLoggedIn(user)
        with suppress(StoreUnavailable):  # the connection says why; the next message renews it
            await self._client.call("EXPIRE", login_key(user), self._config.login.token_ttl)

    async def log_out(self, user: str, token: str) -> int:
        """End a user's login if the token is its own; returns how many logins ended."""
        if not await self._is_logged_in(user, token):
            return 0
        ended: int = await self._keys.call("DEL", login_key(user))
        return ended

    async def _is_logged_in(self, user: str, token: str) -> bool:
        stored = await self._keys.call("GET", login_key(user))
        try:
            return stored is not None and codec.same_token(stored, token)
        except codec.CorruptEntry as exc:
            self._keys.corrupt(login_key(user), exc)
            return False
