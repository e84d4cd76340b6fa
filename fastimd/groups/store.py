"""The domain over Redis: messages, membership, logins. It alone knows the keys.

Everything raises ``StoreUnavailable`` when Redis is away, and ``KeyUnusable`` when Redis refuses
what concerns the key of one group or one user, or that of the kicks: it has another type, or must
not be touched.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from functools import lru_cache
from typing import Literal, NamedTuple

import msgspec
import structlog
import trio
from redis import exceptions

from ..base import codec
from ..base.errors import KeyUnusable, NotLoggedIn, StoreUnavailable
from ..base.metrics import Metrics
from ..base.settings import Config
from ..redis import scripts
from ..redis.appender import OnAppended, Place
from ..redis.client import Client
from ..redis.refusal import key_unusable
from ..redis.scripts import Script
from ..redis.wire import Argument, Reply

EVENTS_CHANNEL = "fastimd:events"
"""Carries what other daemons must know and ``mq:`` channels cannot say: recalls, joins, kicks,
purges."""

_KICKS_KEY = "fastimd:kicks"

PAGE = 200
"""Messages read at once; a longer history is read in pages, so that it holds nobody up."""
GAP_BYTES = 256 * 1024
"""Bytes of messages read at once to repair a gap: they go to every member's outbox together."""
GROUPS_A_TURN = 2048
"""Ids of a user's groups that are read before other tasks get their turn."""

AHEAD = 60_000
STEP = 2_000
"""Milliseconds by which a ``ts`` may be ahead of the clock of Redis, and of the newest that is
known in its group: a burst runs ahead of the clock, one by one. Whatever is later is *foreign*:
somebody else wrote it. It is shown, and never taken for the measure of what is new."""
SEEK_PAGE = 1000
SEEK_PAGES = 100
"""How many entries are looked through at once for a message that is not where its ``ts`` belongs,
and how often."""

log = structlog.get_logger("fastimd.store")


def channel_of(group: str) -> str:
    """The pub/sub channel of a group's new messages."""
    return f"mq:{group}"


class Event(msgspec.Struct, omit_defaults=True):
    """What travels on ``EVENTS_CHANNEL``.

    A recall has a ``ts``, a join has none; a purge is like a recall, of nobody and with the ts 0.
    With ``kick`` the user's sockets are closed: those in ``group``, or all when it is "".
    """

    group: str
    user: str
    ts: int | None = None
    kick: bool = False


class Position(NamedTuple):
    """Up to where a group is known.

    ``ts`` is that of the newest message that is not foreign, 0 when there is none; ``entry`` is the
    newest entry of the list as it is stored, b"" when there is none.
    """

    ts: int = 0
    entry: bytes = b""


class Greeting(NamedTuple):
    """``payload`` is the greeting's JSON, ``position`` where it ends; ``foreign`` are its foreign
    messages as plain JSON."""

    payload: bytes
    position: Position
    foreign: frozenset[bytes]


class GroupState(NamedTuple):
    """What a group list shows of a group.

    ``summary`` is its JSON, ``expires_in`` the seconds until the list expires, None when it does
    not. The ``ts`` of ``position`` is that of its newest message that is not foreign, or 0.
    """

    summary: bytes
    position: Position
    expires_in: float | None


NO_MESSAGES = GroupState(codec.group_summary(None, 0), Position(), None)


class GroupLook(NamedTuple):
    """A group as an operator sees it.

    ``total`` is the list's length, ``messages`` its last ones as plain JSON, oldest first,
    ``expires_in`` as in ``GroupState``.
    """

    total: int
    messages: list[bytes]
    expires_in: float | None


class Gap(NamedTuple):
    """Messages that somebody missed.

    ``messages`` are each one's ts, plain JSON and entry, oldest first; ``end`` is the last entry
    that was read, though it may be no message; ``latest`` is the latest ts that is not foreign.
    """

    messages: list[tuple[int, bytes, bytes]]
    end: bytes
    latest: int
    more: bool


class History:
    """A range of a group's messages, oldest first, read in pages of at most ``PAGE``.

    ``messages`` is the page that was read last.
    """

    def __init__(
        self, store: Store, group: str, first: int, last: int, entries: list[bytes]
    ) -> None:
        self._store = store
        self._group = group
        self._left = last - first + 1
        self._index = first - 1
        self._entry = b""
        self.messages: list[bytes] = []
        self._take(self._index, entries)

    @property
    def is_complete(self) -> bool:
        """There are no more pages."""
        return self._left <= 0

    async def read_on(self) -> None:
        """Read the next page."""
        index, entries = await self._store.next_page(
            self._group, self._index, self._entry, self._left
        )
        self._take(index, entries)

    def _take(self, index: int, entries: list[bytes]) -> None:
        self.messages = [message for _, message in self._store.readable(self._group, entries)]
        self._left = self._left - len(entries) if entries else 0
        self._index = index + len(entries)
        self._entry = entries[-1] if entries else b""


class Store:
    """All that fastimd keeps in Redis."""

    def __init__(self, client: Client, config: Config, metrics: Metrics) -> None:
        self._client = client
        self._config = config
        self._metrics = metrics

    def append(self, group: str, user: str, info: str, on_appended: OnAppended) -> None:
        """Send a message; ``on_appended`` is called with None when it is in Redis, else why not."""
        prefix = codec.message_prefix(group, user, info)
        self._client.appender.append(_place(group), prefix, on_appended)

    @property
    def last_ts(self) -> int | None:
        """While ``on_appended`` is called: the message's ``ts``.

        None when it is not known: Redis's answer was lost, or debug lines are not written, and then
        messages leave many at once.
        """
        return self._client.appender.last_ts

    @property
    def unanswered(self) -> int:
        """How many appends have no answer of Redis yet."""
        return self._client.appender.unanswered

    def age(self, ts: int) -> float:
        """Seconds since a message got its ``ts``, by the clock of Redis; at least 0."""
        return self._client.clock.age(ts)

    @property
    def has_room(self) -> bool:
        """Not too many appends are under way."""
        return self._client.appender.has_room

    async def wait_room(self) -> None:
        """Wait while more appends are under way than may wait."""
        await self._client.appender.wait_room()

    def latest(self) -> int:
        """The latest ts that is not foreign in any group, by the clock of Redis."""
        shown = self._client.clock.latest_shown()
        return shown + AHEAD if shown else codec.MAX_TS

    async def greeting(self, group: str) -> Greeting:
        """The last ``list_num`` messages and the list's length, of one moment."""
        count = self._config.group_message.list_num
        total, ts, latest, entries = await self._run(
            scripts.TAIL, _list_keys(group), self._believed(group), count
        )
        position = Position(ts, entries[-1] if entries else b"")
        if not count:
            entries = []
        messages = self.readable(group, entries)
        return Greeting(
            codec.greeting((message for _, message in messages), total),
            position,
            frozenset(message for ts, message in messages if ts > latest),
        )

    async def messages(self, group: str, first: int, last: int) -> History:
        """Messages by list index as LRANGE takes it: both inclusive, negatives from the end."""
        found = await self._run(scripts.RANGE, (_messages_key(group),), first, last, PAGE)
        return History(self, group, *found)

    async def before(self, group: str, user: str, ts: int, count: int) -> History:
        """The ``count`` messages just before the one of ``user`` at ``ts``."""
        keys, believed = _list_keys(group), self._believed(group)
        *found, is_there = await self._run(
            scripts.BEFORE, keys, user, ts, b"", believed, count, PAGE
        )
        if not is_there and (entry := await self._seek(group, user, ts)) is not None:
            *found, _ = await self._run(
                scripts.BEFORE, keys, user, ts, entry, believed, count, PAGE
            )
        return History(self, group, *found)

    async def next_page(
        self, group: str, index: int, entry: bytes, longest: int
    ) -> tuple[int, list[bytes]]:
        """The entries after one that was at ``index``; returns where it is now, and them."""
        try:
            ts = codec.read_entry(entry)[0]
        except codec.CorruptEntry:
            ts = 0
        found = await self._run(
            scripts.NEXT, (_messages_key(group),), index, entry, ts, min(longest, PAGE)
        )
        return found[0], found[1]

    async def after(self, group: str, position: Position) -> Gap:
        """The first messages after a position."""
        more, latest, entries = await self._run(
            scripts.AFTER,
            _list_keys(group),
            position.entry,
            position.ts,
            self._believed(group),
            PAGE,
            GAP_BYTES,
        )
        messages = [
            (ts, message, entry)
            for entry in entries
            for ts, message in self.readable(group, [entry])
        ]
        return Gap(messages, entries[-1] if entries else b"", latest, more == 1)

    async def group_states(self, groups: list[str]) -> list[GroupState]:
        """What a group list shows of each of ``groups``, asked in one pipelined batch.

        A key that cannot be used counts as a list without messages. Nearly always all of a group
        is of one moment; a message that comes between is told by the relay.
        """
        keys = [_messages_key(group) for group in groups]
        replies = await self._client.call_many(
            [
                command
                for key in keys
                for command in (("LINDEX", key, -1), ("LLEN", key), ("PTTL", key))
            ]
        )
        latest = self._client.clock.latest_shown() + AHEAD
        states = []
        for group, key, *answers in zip(
            groups, keys, *(replies[start::3] for start in range(3)), strict=True
        ):
            refusal = next((each for each in answers if isinstance(each, Exception)), None)
            if refusal is not None:
                key_unusable(self._metrics, key, refusal)
                states.append(NO_MESSAGES)
                continue
            state = self._group_state(group, *answers)
            newest = state.position
            if newest.entry and not 0 < newest.ts <= latest:
                newest = newest._replace(ts=await self._newest_ts(group))
                state = state._replace(position=newest)
            states.append(state)
        return states

    async def _newest_ts(self, group: str) -> int:
        """The ts of a group's newest message that is not foreign, or 0."""
        try:
            *_, ts = await self._run(scripts.PEEK, _list_keys(group), self._believed(group))
        except KeyUnusable:
            return 0
        return int(ts)

    def _group_state(
        self, group: str, newest: bytes | None, total: int, expires_in: int
    ) -> GroupState:
        readable = self.readable(group, [newest]) if newest and total else []
        ts, message = readable[0] if readable else (0, None)
        return GroupState(
            codec.group_summary(message, total),
            Position(ts, newest or b""),
            expires_in / 1000 if expires_in >= 0 else None,
        )

    async def totals(self, groups: list[str]) -> list[int]:
        """How many messages each of ``groups`` has, asked in one pipelined batch.

        A key that cannot be used counts as a list without messages.
        """
        keys = [_messages_key(group) for group in groups]
        totals = []
        for key, total in zip(
            keys, await self._client.call_many([("LLEN", key) for key in keys]), strict=True
        ):
            if isinstance(total, Exception):
                key_unusable(self._metrics, key, total)
            totals.append(0 if isinstance(total, Exception) else total)
        return totals

    async def recall(self, group: str, user: str, ts: int) -> Literal["done", "old", "missing"]:
        """Delete the user's own message, if it is not older than ``recall_time_limit``."""
        outcome = await self._recall(group, user, ts, b"")
        if outcome == "elsewhere":
            entry = await self._seek(group, user, ts)
            outcome = "missing" if entry is None else await self._recall(group, user, ts, entry)
        return outcome  # type: ignore[return-value]

    async def _recall(self, group: str, user: str, ts: int, entry: bytes) -> str:
        outcome: bytes = await self._run(
            scripts.RECALL,
            _list_keys(group),
            user,
            ts,
            entry,
            self._believed(group),
            self._config.group_message.recall_time_limit * 1000,
            EVENTS_CHANNEL,
            msgspec.json.encode(Event(group, user, ts)),
        )
        return outcome.decode()

    async def _seek(self, group: str, user: str, ts: int) -> bytes | None:
        """The entry of a message that is not where its ts belongs, if there is one."""
        stop: int | str = ""
        for _ in range(SEEK_PAGES):
            stop, entry = await self._run(
                scripts.SEEK, (_messages_key(group),), user, ts, stop, SEEK_PAGE
            )
            if entry is not None or not stop:
                return entry  # type: ignore[no-any-return]
        return None

    async def join(self, group: str, user: str) -> Literal["joined", "member", "full"]:
        """Put a user into a group; ``full`` when the user is in ``max_joined`` already."""
        joined: int = await self._run(
            scripts.JOIN,
            (_groups_key(user),),
            codec.plain_unless_quoted(group),
            codec.wrap(group),
            EVENTS_CHANNEL,
            msgspec.json.encode(Event(group, user)),
            self._config.group.max_joined,
        )
        return "full" if joined < 0 else "joined" if joined else "member"

    async def look(self, group: str, count: int) -> GroupLook:
        """How many messages a group has, the last ``count`` of them, and how long they live."""
        key = _messages_key(group)
        total, _, _, entries = await self._run(
            scripts.TAIL, _list_keys(group), self._believed(group), count
        )
        expires_in = await self._client.call("PTTL", key)
        shown = entries[-count:] if count else []
        messages = [message for _, message in self.readable(group, shown)]
        return GroupLook(total, messages, expires_in / 1000 if expires_in >= 0 else None)

    async def purge(self, group: str) -> int:
        """Delete all messages of a group; returns how many there were. What is no list stays."""
        deleted: int = await self._run(
            scripts.PURGE,
            _list_keys(group),
            self._believed(group),
            EVENTS_CHANNEL,
            msgspec.json.encode(Event(group, "", 0)),
        )
        return deleted

    async def kick(self, user: str, group: str) -> int:
        """Have every daemon close a user's sockets: those in ``group``, or all when it is "".

        It is remembered for ``redis.hold_seconds``. With ``KeyUnusable`` it is not, but announced.

        Returns:
            How many daemons heard of it.
        """
        told: int = await self._run(
            scripts.KICK,
            (_KICKS_KEY,),
            EVENTS_CHANNEL,
            msgspec.json.encode(Event(group, user, kick=True)),
            int(self._config.redis.hold_seconds * 1000),
        )
        return told

    async def kicks(self) -> list[tuple[Event, int]]:
        """The kicks that are remembered, oldest first, each with its ``ts``."""
        pairs = iter(await self._call("ZRANGE", _KICKS_KEY, 0, -1, "WITHSCORES"))
        kicks = []
        for entry, score in zip(pairs, pairs, strict=True):
            try:
                event = msgspec.json.decode(entry, type=Event)
                ts = int(score)
            except (msgspec.MsgspecError, ValueError) as exc:
                self._corrupt(_KICKS_KEY, exc)
                continue
            if event.kick:
                kicks.append((event, ts))
        return kicks

    async def is_member(self, group: str, user: str) -> bool:
        """Tell whether a user is in a group."""
        forms = codec.plain_unless_quoted(group), codec.wrap(group)
        return any(await self._call("SMISMEMBER", _groups_key(user), *forms))

    async def groups_of(self, user: str) -> list[str]:
        """The groups a user is in, in no order."""
        key = _groups_key(user)
        return await self._read_groups(key, await self._call("SMEMBERS", key))

    async def groups_of_each(self, users: list[str]) -> list[list[str] | KeyUnusable]:
        """The groups of each of ``users``, or why there are none, asked in one pipelined batch."""
        keys = [_groups_key(user) for user in users]
        replies = await self._client.call_many([("SMEMBERS", key) for key in keys])
        return [
            key_unusable(self._metrics, key, members)
            if isinstance(members, Exception)
            else await self._read_groups(key, members)
            for key, members in zip(keys, replies, strict=True)
        ]

    async def _read_groups(self, key: str, members: list[bytes]) -> list[str]:
        """Members of a user's set as ids, without those that are none."""
        groups: dict[str, None] = {}
        for start in range(0, len(members), GROUPS_A_TURN):
            if start:
                await trio.lowlevel.checkpoint()
            for member in members[start : start + GROUPS_A_TURN]:
                try:
                    groups[codec.read_group(member)] = None
                except codec.CorruptEntry as exc:
                    self._corrupt(key, exc)
        return list(groups)

    async def log_in(self, user: str) -> str:
        """Give a user a new token, valid for ``token_ttl`` seconds; an older one ends."""
        token = secrets.token_hex(16)
        await self._call("SET", _login_key(user), token, "EX", self._config.login.token_ttl)
        return token

    async def check_token(self, user: str, token: str) -> None:
        """Check a user's token and renew its life.

        Raises:
            NotLoggedIn: it is not the user's token.
        """
        if not await self._is_logged_in(user, token):
            raise NotLoggedIn(user)
        with suppress(StoreUnavailable):  # the connection says why; the next message renews it
            await self._client.call("EXPIRE", _login_key(user), self._config.login.token_ttl)

    async def log_out(self, user: str, token: str) -> int:
        """End a user's login if the token is its own; returns how many logins ended."""
        if not await self._is_logged_in(user, token):
            return 0
        ended: int = await self._call("DEL", _login_key(user))
        return ended

    async def _is_logged_in(self, user: str, token: str) -> bool:
        stored = await self._call("GET", _login_key(user))
        try:
            return stored is not None and codec.same_token(stored, token)
        except codec.CorruptEntry as exc:
            self._corrupt(_login_key(user), exc)
            return False

    def readable(self, group: str, entries: list[bytes]) -> list[tuple[int, bytes]]:
        """Entries of a list as messages with their ts, without those that are none."""
        messages = []
        for entry in entries:
            try:
                messages.append(codec.read_entry(entry))
            except codec.CorruptEntry as exc:
                self._corrupt(_messages_key(group), exc)
        return messages

    async def _call(self, command: str, key: str, *arguments: Argument) -> Reply:
        """A command on a key of one group or one user."""
        try:
            return await self._client.call(command, key, *arguments)
        except exceptions.ResponseError as exc:
            raise key_unusable(self._metrics, key, exc) from exc

    async def _run(self, script: Script, keys: tuple[str, ...], *arguments: Argument) -> Reply:
        """A script on keys of one group or one user; the first is the one that is named."""
        try:
            return await self._client.run_script(script, keys, *arguments)
        except exceptions.ResponseError as exc:
            raise key_unusable(self._metrics, keys[0], exc) from exc

    def _believed(self, group: str) -> int:
        """The latest ts that is not foreign in a group, by all that is known here."""
        heard = self._client.appender.heard(_place(group).channel)
        return max(self._client.clock.latest_shown() + AHEAD, heard + STEP)

    def _corrupt(self, key: str, failure: Exception) -> None:
        self._metrics.corrupt_entries += 1
        log.warning("store.corrupt_entry", key=key, error=str(failure))


def _messages_key(group: str) -> str:
    return f"gml:{group}"


def _floor_key(group: str) -> str:
    return f"fastimd:floor:{group}"


@lru_cache(maxsize=16_384)
def _place(group: str) -> Place:
    return Place(_messages_key(group), _floor_key(group), channel_of(group).encode())


def _list_keys(group: str) -> tuple[str, str]:
    place = _place(group)
    return place.list_key, place.floor_key


def _groups_key(user: str) -> str:
    return f"ugs:{user}"


def _login_key(user: str) -> str:
    return f"login:{user}"
