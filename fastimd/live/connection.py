"""One connection of the live wire: reads commands, answers them, and is in many groups."""

from __future__ import annotations

import secrets

import msgspec
import structlog

from .. import __version__
from ..base import codec
from ..base.errors import BadParameter, KeyUnusable, StoreUnavailable
from ..groups.domain import Domain
from ..groups.hub import Membership
from ..websocket.session import Session
from . import protocol
from .dialect import EPOCH, Live, info_of
from .json_wire import frame, read_commands
from .protocol import Command, Error, Reply

MAX_SUBSCRIPTIONS = 128

INTERNAL = Error(100, "internal server error", temporary=True)
PERMISSION_DENIED = Error(103, "permission denied")
ALREADY_SUBSCRIBED = Error(105, "already subscribed")
LIMIT_EXCEEDED = Error(106, "limit exceeded")
BAD_REQUEST = Error(107, "bad request")

log = structlog.get_logger("fastimd.socket")


class Refusal(Exception):
    """A command gets an error for its answer."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.message)
        self.error = error


class LiveConnection:
    """Serves one connection."""

    def __init__(self, session: Session, domain: Domain, dialect: Live) -> None:
        self._session = session
        self._domain = domain
        self._dialect = dialect
        self._memberships: dict[str, Membership] = {}
        self.client = secrets.token_hex(16)

    async def serve(self, first: bytes) -> None:
        """Serve it until it closes."""
        session = self._session
        session.open()
        try:
            while texts := await session.receive(first):
                first = b""
                for text in texts:
                    try:
                        commands = read_commands(text)
                    except (ValueError, RecursionError):
                        session.close(3501, "bad request")
                        return
                    for command in commands:
                        await self._take(command)
        finally:
            for membership in self._memberships.values():
                membership.leave()

    async def _take(self, command: Command) -> None:
        if command.is_pong:
            return
        if command.connect is None and not self._session.user:
            self._session.close(3501, "bad request")
            return
        try:
            reply = await self._answer(command)
        except Refusal as refusal:
            reply = Reply(error=refusal.error)
        except (StoreUnavailable, KeyUnusable):
            reply = Reply(error=INTERNAL)
        if reply is not None:
            self._reply(command.id, reply)

    async def _answer(self, command: Command) -> Reply | None:
        if command.connect is not None:
            return self._connect(command.connect)
        if command.subscribe is not None:
            await self._subscribe(command.id, command.subscribe)
            return None
        if command.unsubscribe is not None:
            membership = self._memberships.pop(command.unsubscribe.channel, None)
            if membership is not None:
                membership.leave()
            return Reply(unsubscribe=protocol.Nothing())
        if command.publish is not None:
            self._publish(command.id, command.publish)
            return None
        raise Refusal(Error(104, "method not found"))

    def _connect(self, connect: protocol.Connect) -> Reply:
        try:
            data = msgspec.json.decode(connect.data)
        except ValueError:
            data = None
        user = data.get("userId") if isinstance(data, dict) else None
        self._session.user = str(user) if user else f"guest-{secrets.token_hex(4)}"
        return Reply(connect=protocol.Connected(self.client, f"fastimd {__version__}"))

    async def _subscribe(self, number: int, wanted: protocol.Subscribe) -> None:
        try:
            group = codec.check_id("channel", wanted.channel)
        except BadParameter as exc:
            raise Refusal(BAD_REQUEST) from exc
        if group in self._memberships:
            raise Refusal(ALREADY_SUBSCRIBED)
        if len(self._memberships) >= MAX_SUBSCRIPTIONS:
            raise Refusal(LIMIT_EXCEEDED)
        members, session = self._domain.store.members, self._session
        join = members.send_join(group, session.user)
        membership = self._domain.hub.enter(
            group, session.outbox, self._dialect, session.give_up
        )
        try:
            await membership.read_greeting()
            if await members.joined(join) == "full":
                raise Refusal(LIMIT_EXCEEDED)
            result = protocol.Subscribed(
                recoverable=True, positioned=True, epoch=EPOCH, offset=membership.position.ts
            )
            membership.begin(frame([Reply(id=number, subscribe=result)]))
            self._memberships[group] = membership
        finally:
            if group not in self._memberships:
                membership.leave()

    def _publish(self, number: int, said: protocol.Publish) -> None:
        if said.channel not in self._memberships:
            raise Refusal(PERMISSION_DENIED)
        try:
            info = info_of(said.data)
        except ValueError as exc:
            raise Refusal(BAD_REQUEST) from exc

        def on_appended(failure: Exception | None) -> None:
            done = Reply(publish=protocol.Nothing()) if failure is None else Reply(error=INTERNAL)
            self._reply(number, done)

        self._domain.store.messages.append(said.channel, self._session.user, info, on_appended)

    def _reply(self, number: int, reply: Reply) -> None:
        reply.id = number
        if self._session.is_open:
            self._session.outbox.push(frame([reply]))
