"""One user at one server: login, the routes over HTTP, and sockets.

Everything that goes wrong outside leaves here as a ``ChatError`` of one line.
"""

from __future__ import annotations

import math
import os
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import trio
from trio_websocket import ConnectionRejected, WebSocketConnection, wrap_client_stream

from ..base.address import Address
from ..base.codec import CorruptEntry, Message, decode_message
from .failures import LoginRefused, Refused, TokenLost, Unreachable

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 30.0
CLOSE_SECONDS = 2.0
"""How long the server has to answer a close frame."""
RELOGIN_SECONDS = 60.0
"""A token that is lost so soon after another login was taken by another one of the same user."""
MAX_FRAME_BYTES = 1 << 28

_MEANINGS = {
    "登录失败": "wrong user or password",
    "无法撤回消息": "it is too old to be recalled",
    "消息不存在": "it is not there any more",
    "没有权限 (not allowed)": "it is not allowed",
    "该群组仅限指定的用户 (private group)": "the group is for other people",
    "加入的群组过多 (too many groups)": "you are in too many groups",
}
"""What the server's answers say."""

_WAS_MEMBER = "操作失败"
"""What it says of joining to who is in the group."""


class _Answer(msgspec.Struct):
    code: int
    msg: str | None = None
    data: Any = None


@asynccontextmanager
async def open_account(address: Address, user: str, password: str) -> AsyncIterator[Account]:
    """Log a user in.

    Raises:
        ChatError: it cannot be done.
    """
    tls = ssl.create_default_context()
    timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
    # The environment's proxies are not asked: the sockets would not go through them.
    async with httpx.AsyncClient(verify=tls, timeout=timeout, trust_env=False) as http:
        account = Account(address, user, password, http, tls)
        await account.log_in()
        yield account


class Account:
    """What a user who has logged in can do."""

    def __init__(
        self,
        address: Address,
        user: str,
        password: str,
        http: httpx.AsyncClient,
        tls: ssl.SSLContext,
    ) -> None:
        self.address = address
        self.user = user
        self._password = password
        self._http = http
        self._tls = tls
        self.token = ""
        self.was_greeted = False
        """A socket has been open: what fails from now on may come back."""
        self._logged_in_again_at = -math.inf

    async def log_in(self) -> None:
        """Get a token.

        Raises:
            LoginRefused: the server does not let the user in.
            Unreachable: it does not answer as a fastimd does.
        """
        fields = {"userId": self.user, "password": self._password}
        try:
            self.token = (await self._post("/user/login", fields, {})).msg or ""
        except Refused as exc:
            raise LoginRefused(f"{self.address} does not let {self.user} in: {exc}") from exc

    async def log_in_again(self, lost: str) -> None:
        """Get another token than ``lost``, unless there is one already.

        Raises:
            LoginRefused: also when that one did not live long: two clients of one user would take
                it from each other for ever.
        """
        if self.token != lost:
            return
        now = trio.current_time()
        if now - self._logged_in_again_at < RELOGIN_SECONDS:
            raise LoginRefused(f"login required again: has {self.user} logged in elsewhere?")
        await self.log_in()
        self._logged_in_again_at = now

    async def join(self, group: str) -> None:
        """Become a member, if the user is not one already.

        Raises:
            Refused: the user is in too many groups.
        """
        try:
            await self._ask("/user/joinGroup", {"groupId": group})
        except _NotDone as exc:
            if str(exc) != _WAS_MEMBER:
                raise

    async def groups(self) -> list[str]:
        """The ids of the user's groups."""
        answer = await self._ask("/user/listGroup", {})
        return sorted(str(group) for group in self._list(answer))

    async def before(self, message: Message, count: int) -> list[Message]:
        """The ``count`` messages before one, oldest first."""
        fields = {
            "groupId": message.groupId,
            "userId": message.userId,
            "ts": str(message.ts),
            "count": str(count),
        }
        answer = await self._ask("/group/listOldMessage", fields)
        try:
            return [decode_message(str(entry).encode()) for entry in self._list(answer)]
        except CorruptEntry as exc:
            raise self.no_fastimd(str(exc)) from exc

    async def recall(self, message: Message) -> None:
        """Take an own message back.

        Raises:
            Refused: it is too old, or gone.
        """
        await self._ask("/group/delMessage", {"groupId": message.groupId, "ts": str(message.ts)})

    def chat_path(self, group: str) -> str:
        """The path of a group's chat socket."""
        return f"/group/chat/{quote(group, safe='')}/{self._who}"

    @property
    def list_path(self) -> str:
        """The path of the group-list socket."""
        return f"/group/list/{self._who}"

    @property
    def _who(self) -> str:
        return f"{quote(self.user, safe='')}/{quote(self.token, safe='')}"

    @asynccontextmanager
    async def open_socket(self, path: str) -> AsyncIterator[WebSocketConnection]:
        """Open a socket; it is closed with 1000 at the end.

        Raises:
            Unreachable: it cannot be opened.
        """
        stream = _Opening(await self._connect())
        try:
            async with trio.open_nursery() as nursery:
                socket = await self._shake_hands(nursery, stream, path)
                stream.is_open = True
                try:
                    yield socket
                finally:
                    with trio.move_on_after(CLOSE_SECONDS, shield=True):
                        await socket.aclose()
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            failure = _only(group)
            if isinstance(failure, ConnectionRejected):
                raise self._rejected(failure) from failure
            if isinstance(failure, (OSError, trio.BrokenResourceError)):
                raise self._unreachable(failure) from failure
            raise failure from None
        finally:
            await trio.aclose_forcefully(stream)

    def no_fastimd(self, what: str) -> Unreachable:
        """The error that what answers is something else."""
        return Unreachable(f"what answers at {self.address} is no fastimd ({what})")

    async def _connect(self) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
        address = self.address
        try:
            with trio.fail_after(CONNECT_SECONDS):
                plain = await trio.open_tcp_stream(address.host, address.port)
                if not address.is_secure:
                    return plain
                return await self._secure(plain)
        except (OSError, trio.BrokenResourceError, trio.TooSlowError) as exc:
            raise self._unreachable(exc) from exc

    async def _secure(self, plain: trio.SocketStream) -> trio.SSLStream[trio.SocketStream]:
        stream = trio.SSLStream(
            plain, self._tls, server_hostname=self.address.host, https_compatible=True
        )
        try:
            await stream.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(plain)
            raise
        return stream

    async def _shake_hands(
        self, nursery: trio.Nursery, stream: _Opening, path: str
    ) -> WebSocketConnection:
        with trio.move_on_after(CONNECT_SECONDS):
            return await wrap_client_stream(
                nursery,
                stream,  # type: ignore[arg-type]  # any stream will do
                self.address.authority,
                self.address.prefix + path,
                max_message_size=MAX_FRAME_BYTES,
                receive_buffer_size=1 << 16,
            )
        raise Unreachable(f"cannot reach {self.address}: no answer to the handshake")

    async def _ask(self, route: str, fields: Mapping[str, str]) -> _Answer:
        """Post with the token; when that is lost, once more with another."""
        token = self.token
        try:
            return await self._post(route, fields, self._headers())
        except TokenLost:
            await self.log_in_again(token)
        return await self._post(route, fields, self._headers())

    def _headers(self) -> dict[bytes, bytes]:
        return {b"userId": self.user.encode(), b"token": self.token.encode()}

    async def _post(
        self, route: str, fields: Mapping[str, str], headers: Mapping[bytes, bytes]
    ) -> _Answer:
        try:
            response = await self._http.post(
                self.address.http + route, data=dict(fields), headers=dict(headers)
            )
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as exc:
            raise self._unreachable(exc) from exc
        try:
            answer = msgspec.json.decode(response.content, type=_Answer)
        except (msgspec.MsgspecError, UnicodeError) as exc:
            elsewhere = response.headers.get("location")
            what = f"HTTP {response.status_code}" + (f", see {elsewhere}" if elsewhere else "")
            raise self.no_fastimd(what) from exc
        self._judge(answer, response)
        return answer

    def _judge(self, answer: _Answer, response: httpx.Response) -> None:
        message = _MEANINGS.get(answer.msg or "", answer.msg or "")
        match answer.code:
            case 200:
                return
            case 440:
                raise TokenLost("login required")
            case 100:
                raise _NotDone(message)
            case 400 | 403:
                raise Refused(message)
            case 404 | 405:
                raise self.no_fastimd(f"HTTP {response.status_code}")
        raise self._refusal(response.status_code, message, response.headers.get("retry-after"))

    def _rejected(self, failure: ConnectionRejected) -> Unreachable:
        """An answer to a handshake that opens no socket."""
        headers = dict(failure.headers or ())
        try:
            answer = msgspec.json.decode(failure.body or b"", type=_Answer)
        except (msgspec.MsgspecError, UnicodeError):
            return self.no_fastimd(f"HTTP {failure.status_code} to the handshake of a socket")
        again = headers.get(b"retry-after", b"").decode("latin-1")
        return self._refusal(failure.status_code, answer.msg or "", again)

    def _refusal(self, status: int, message: str, retry_after: str | None) -> Unreachable:
        seconds = float(retry_after) if retry_after and retry_after.isdecimal() else 0.0
        return Unreachable(f"{self.address} refuses: {message} (HTTP {status})", seconds)

    def _unreachable(self, failure: BaseException) -> Unreachable:
        return Unreachable(f"cannot reach {self.address}: {_reason(failure)}")

    def _list(self, answer: _Answer) -> list[Any]:
        if not isinstance(answer.data, list):
            raise self.no_fastimd("an answer without a list")
        return answer.data


class _NotDone(Refused):
    """Code 100."""


class _Opening(trio.abc.Stream):
    """A stream whose end before the handshake is an error, so that nobody waits for the rest."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.is_open = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self.is_open:
            return await self._stream.receive_some(max_bytes)
        try:
            data = await self._stream.receive_some(max_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ConnectionResetError(None, "the connection was closed at once") from exc
        if not data and not self.is_open:
            raise ConnectionResetError(None, "the connection was closed at once")
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


def _only(group: BaseException) -> BaseException:
    """What a group of exceptions is about: the first that is no cancellation."""
    while isinstance(group, BaseExceptionGroup):
        kept = [each for each in group.exceptions if not isinstance(each, trio.Cancelled)]
        group = next(iter(kept or group.exceptions))
    return group


def _reason(failure: BaseException) -> str:
    """What people can do something with, in a chain of causes: the deepest that says it."""
    causes = list(_causes(failure))
    for each in causes:
        if isinstance(each, ssl.SSLCertVerificationError):
            return f"its certificate is not good: {each.verify_message}"
    told = [_strerror(each) for each in causes if isinstance(each, OSError)]
    if any(told):
        return next(filter(None, reversed(told)))
    if isinstance(failure, (httpx.TimeoutException, trio.TooSlowError)):
        return "no answer in time"
    return str(failure) or type(failure).__name__


def _strerror(failure: OSError) -> str:
    if isinstance(failure, ssl.SSLError):
        return f"no TLS there ({failure.reason})"
    # That of the number: asyncio and Trio put addresses around it.
    if failure.errno is not None and failure.errno > 0:
        return os.strerror(failure.errno)
    return failure.strerror or ""


def _causes(failure: BaseException | None) -> Iterator[BaseException]:
    while failure is not None:
        yield failure
        if isinstance(failure, BaseExceptionGroup):
            for each in failure.exceptions:
                yield from _causes(each)
        failure = failure.__cause__ or failure.__context__
