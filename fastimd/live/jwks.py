"""The keys at ``token.jwks_url``: read at the start, now and then, and when one is missed.

A single task reads them, so that many tokens with a key that is not known wait for one answer, and
an attacker with invented ids makes the daemon ask no more often than every ``PAUSE`` seconds. While
the server is away or answers rubbish, the last good keys stay in use.
"""

from __future__ import annotations

import ssl

import httpx
import structlog
import trio

from ..base.asking import first_cause, make_client, read_body
from ..base.errors import TokenRefused
from ..base.metrics import Metrics
from .algorithms import Key
from .asymmetric import NotAKey, read_key_set

MAX_BYTES = 256 * 1024
FETCH_SECONDS = 5.0
PAUSE = 5.0
"""Seconds from the beginning of one fetch to that of the next, at least."""
REFRESH_SECONDS = 600.0
RETRY_SECONDS = 30.0
WAIT_SECONDS = 2 * FETCH_SECONDS + PAUSE
"""How long a token may wait: for a fetch that is under way, and for the next one."""

log = structlog.get_logger("fastimd.token")


class Jwks:
    """The keys of one URL."""

    def __init__(self, url: str, metrics: Metrics) -> None:
        self._url = url
        self._metrics = metrics
        self._trust = ssl.create_default_context()  # by the authorities that the machine trusts
        self._keys: list[Key] = []
        self._begun = self._last_ended = 0  # numbers of fetches
        self._wanted = trio.Event()
        self._ended = trio.Event()
        self._has_failed = False

    async def find(self, algorithm: str, key_id: str) -> Key | None:
        """The key of that id; without an id, the only one that fits.

        A key that is not known is waited for until a fetch has ended that began after this call.

        Raises:
            TokenRefused: it is not known, and the keys cannot be read now.
        """
        if (key := self._known(algorithm, key_id)) is not None:
            return key
        begun = self._begun
        self._wanted.set()
        with trio.move_on_after(WAIT_SECONDS):
            while True:
                await self._ended.wait()
                if (key := self._known(algorithm, key_id)) is not None:
                    return key
                if self._last_ended > begun:
                    break
        if self._has_failed or self._last_ended <= begun:
            raise TokenRefused("key", "its key is not known, and no keys can be read now", True)
        return None

    def _known(self, algorithm: str, key_id: str) -> Key | None:
        fitting = [key for key in self._keys if algorithm in key.algorithms]
        if key_id:
            return next((key for key in fitting if key.id == key_id), None)
        return fitting[0] if len(fitting) == 1 else None

    async def run(self) -> None:
        """Read the keys until cancelled."""
        while True:
            again_at = trio.current_time() + PAUSE
            self._wanted = trio.Event()  # who comes from here on waits for the next one
            self._begun += 1
            await self._fetch()
            self._last_ended = self._begun
            ended, self._ended = self._ended, trio.Event()
            ended.set()
            await trio.sleep_until(again_at)
            with trio.move_on_after(RETRY_SECONDS if self._has_failed else REFRESH_SECONDS):
                await self._wanted.wait()

    async def _fetch(self) -> None:
        """Take over the keys; what goes wrong is logged and counted."""
        before = {(key.id, *key.algorithms) for key in self._keys}
        try:
            with trio.fail_after(FETCH_SECONDS):
                keys, ignored = read_key_set(await self._read())
        except trio.TooSlowError:
            self._fail(f"no answer within {FETCH_SECONDS:g} s")
        except NotAKey as exc:
            self._fail(str(exc))
        else:
            self._metrics.count_jwks_read("ok")
            if self._has_failed or before != {(key.id, *key.algorithms) for key in keys}:
                log.info("jwks.read", keys=len(keys), ignored=ignored)
            self._keys, self._has_failed = keys, False

    async def _read(self) -> bytes:
        try:
            async with (
                make_client(self._trust, 0) as client,
                client.stream("GET", self._url) as response,
            ):
                if response.status_code != 200:
                    raise NotAKey(f"it answered {response.status_code}")
                body = await read_body(response, MAX_BYTES)
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            raise NotAKey(f"cannot connect: {first_cause(exc)}") from None
        except httpx.TransportError as exc:  # its text may repeat what came back
            raise NotAKey(f"the connection broke: {type(exc).__name__}") from None
        if body is None:
            raise NotAKey(f"its answer is longer than {MAX_BYTES} bytes")
        return body

    def _fail(self, error: str) -> None:
        self._has_failed = True
        self._metrics.count_jwks_read("failed")
        log.warning("jwks.failed", error=error, keys=len(self._keys))
