"""The door: accepts connections, reads the request head, hands the stream on.

Whatever goes wrong on a connection ends that connection, with one line in the log, and touches no
other.
"""

from __future__ import annotations

import errno
import itertools
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing

import structlog
import trio

from ..base import log as logs
from ..base.metrics import Metrics
from ..base.settings import Config
from .clients import Crowd, Proxies
from .head import Head, HeadReader, Refused, new_request_id, too_late
from .listeners import Listener
from .receiver import Readiness
from .refusal import refuse

ACCEPTS_A_TURN = 64
OUT_OF_FILES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS))

_TOO_MANY = frozenset((429, 503))
UNIX = "unix"
"""What the clients of unix sockets are called, which have no addresses."""
_numbers = itertools.count(1)  # of the connections of all doors: one log has them all

log = structlog.get_logger("fastimd.door")

Handle = Callable[[socket.socket, HeadReader, Head], Awaitable[Head | None]]


class Door:
    """Listeners of one kind, and the connections that came through them.

    Args:
        handle: serves a connection whose first head was read, until it ends (None) or a handshake
            comes behind other requests (its head).
        max_connections: more than these get a 503 and the end.
        max_connections_per_ip: more than these of one client get a 429 and the end; 0 = no limit.
    """

    def __init__(
        self,
        listeners: Sequence[Listener],
        handle: Handle,
        config: Config,
        metrics: Metrics,
        readiness: Readiness,
        *,
        max_connections: int,
        max_connections_per_ip: int = 0,
    ) -> None:
        self._listeners = listeners
        self._handle = handle
        self._metrics = metrics
        self._readiness = readiness
        self._max_connections = max_connections
        self._proxies = Proxies(config.server.trusted_proxies)
        self._crowd = Crowd(max_connections_per_ip)
        self._open: set[socket.socket] = set()
        self._unheard = 0
        self._all_heard = trio.Event()

    def adopt_limits(
        self, config: Config, *, max_connections: int, max_connections_per_ip: int
    ) -> None:
        """Take other limits and trusted proxies for the connections that come from now on."""
        self._max_connections = max_connections
        self._crowd.limit = max_connections_per_ip
        self._proxies = Proxies(config.server.trusted_proxies)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    async def accept_connections(self, nursery: trio.Nursery) -> None:
        """Accept until cancelled; each connection runs in ``nursery``."""
        async with trio.open_nursery() as accepting:
            for listener in self._listeners:
                accepting.start_soon(self._accept_from, listener, nursery)

    async def _accept_from(self, listener: Listener, nursery: trio.Nursery) -> None:
        with closing(listener):
            while True:
                await trio.lowlevel.wait_readable(listener.fileno())
                try:
                    for _ in range(ACCEPTS_A_TURN):
                        connection, peer = listener.accept()
                        # Judged here, in the order of arrival: tasks start in any order.
                        client = peer[0] if peer else UNIX
                        place = self._take_place(connection, client)
                        nursery.start_soon(self._serve, connection, client, place)
                except BlockingIOError:
                    pass
                except EOFError:
                    await trio.sleep_forever()
                except OSError as exc:
                    await rest_after(exc, len(self._open))

    async def wait_heard(self) -> None:
        """Wait until every connection has asked for something or gone."""
        if self._unheard:
            self._all_heard = trio.Event()
            await self._all_heard.wait()

    def close_all(self) -> None:
        """Cut every connection that is still open."""
        for connection in list(self._open):
            if connection.fileno() >= 0:
                trio.lowlevel.notify_closing(connection)
                connection.close()

    def _take_place(self, connection: socket.socket, peer: str) -> str | Refused:
        """The name under which a connection counts, or why there is no place for it."""
        if len(self._open) >= self._max_connections:
            return Refused(503, "too many connections", "Retry-After: 5\r\n")
        self._open.add(connection)
        if self._proxies.is_trusted(peer):
            return ""  # it carries the connections of many
        name = self._crowd.enter(peer)
        return _one_too_many() if name is None else name

    async def _serve(self, connection: socket.socket, peer: str, place: str | Refused) -> None:
        logs.bind(conn=next(_numbers), request_id=new_request_id())
        places = [] if isinstance(place, Refused) else [place]
        is_proxy = self._proxies.is_trusted(peer)
        is_named = is_proxy or peer == UNIX  # the parent of workers hands requests on
        scope = trio.CancelScope()
        reader = HeadReader(connection, self._readiness, scope, peer_names_requests=is_named)
        try:
            connection.setblocking(False)
            try:
                if isinstance(place, Refused):
                    raise place
                with scope:
                    serving = await self._find_serving(connection, reader, peer, places)
                    if serving is not None:
                        await serving
                if reader.has_begun and scope.cancelled_caught:
                    raise too_late()
            except Refused as exc:
                await self._refuse(connection, exc)
        except OSError as exc:
            log.debug("connection.lost", error=str(exc))
        except (trio.ClosedResourceError, trio.BrokenResourceError) as exc:
            log.debug("connection.lost", error=str(exc))
        except Exception as exc:
            self._crashed(exc)
        except BaseExceptionGroup as group:
            cancelled, crashed = group.split(trio.Cancelled)
            if crashed is not None:
                self._crashed(crashed)
            if cancelled is not None:
                raise cancelled from None
        finally:
            for name in places:
                self._crowd.leave(name)
            self._open.discard(connection)
            reader.close()
            connection.close()  # nobody waits for it any more

    def _crashed(self, failure: BaseException) -> None:
        self._metrics.connections_crashed += 1
        log.error("connection.crashed", exc_info=failure)

    async def _refuse(self, connection: socket.socket, refused: Refused) -> None:
        if refused.status in _TOO_MANY:
            self._metrics.connections_refused += 1
        log.info("connection.refused", status=refused.status, reason=str(refused))
        await refuse(connection, refused)

    async def _find_serving(
        self, connection: socket.socket, reader: HeadReader, peer: str, places: list[str]
    ) -> Awaitable[Head | None] | None:
        """Serve requests until one is a handshake.

        A socket lives long, and needs nothing of what is at work here.

        Args:
            places: gets the name of a client behind a proxy, when its connection is counted.

        Returns:
            The coroutine that serves the socket; None when the connection has ended.

        Raises:
            Refused: a request cannot be served.
        """
        head = await self._hear(reader)
        while head is not None and not head.wants_websocket:
            self._find_client(peer, head)
            head = await self._handle(connection, reader, head)
        if head is None:
            return None
        client = self._find_client(peer, head)
        if client != peer:  # a proxy's other connections carry the requests of many
            name = self._crowd.enter(client)
            if name is None:
                raise _one_too_many()
            places.append(name)
        return self._handle(connection, reader, head)

    async def _hear(self, reader: HeadReader) -> Head | None:
        self._unheard += 1
        try:
            return await reader.read_first_head()
        finally:
            self._unheard -= 1
            if not self._unheard:
                self._all_heard.set()

    def _find_client(self, peer: str, head: Head) -> str:
        client = self._proxies.client_of(peer, head.fields)
        logs.bind(client=client)
        return client


async def rest_after(failure: OSError, connections: int) -> None:
    """Wait a little after ``accept`` has failed; what is no passing trouble is raised again."""
    if failure.errno not in OUT_OF_FILES and failure.errno != errno.ECONNABORTED:
        raise failure
    if failure.errno in OUT_OF_FILES:
        log.error("door.accept_failed", error=str(failure), connections=connections)
    await trio.sleep(0.1)


def _one_too_many() -> Refused:
    return Refused(429, "too many connections from one address", "Retry-After: 5\r\n")
