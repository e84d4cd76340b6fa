"""What the console asks beside the rest, and any other operator's tool may ask as well."""

from __future__ import annotations

import msgspec

from ..base.codec import CorruptEntry, Message, decode_message
from ..groups.moderation.bodies import OfGroup
from ..groups.moderation.policy import Policy
from ..groups.store.policy import Sentence
from ..live.publications import publications
from . import bodies
from .errors import NOT_FOUND, ApiError
from .service import Service

SEARCHED = 10_000
"""How many messages one search looks through at most."""
SEARCH_PAGE = 250
"""How many of them are read at once, so that Redis is not held up."""


async def policy(service: Service, body: OfGroup) -> bodies.PolicyResult:
    """What moderators have decided in a group: who is banned or muted, slow mode, who they are."""
    policies = service.domain.store.policies
    found = Policy(body.channel)
    found.take(await policies.read(body.channel))

    def shown(sentences: dict[str, Sentence]) -> list[bodies.Sentenced]:
        return [
            bodies.Sentenced(user, each.until, each.reason, each.by)
            for user, each in sorted(sentences.items())
            if not each.until or not policies.has_passed(each.until)
        ]

    return bodies.PolicyResult(
        shown(found.bans),
        shown(found.mutes),
        sorted(found.moderators),
        found.slow,
        found.mute_all,
    )


async def search(service: Service, body: bodies.Search) -> bodies.SearchResult:
    """Look for messages by user and text in the last 10,000 of a group, newest first.

    With ``before`` the 10,000 before that one are looked through.
    """
    stands, text = service.domain.store.stands, body.text.casefold()
    found: list[tuple[int, bytes]] = []
    looked, before = 0, body.before
    while looked < SEARCHED and len(found) < body.limit:
        longest = min(SEARCH_PAGE, SEARCHED - looked)
        page = await stands.history(body.channel, "", before or None, longest, reverse=True)
        reached = min((ts for ts, _ in page.messages if ts), default=0)
        if not reached or reached == before:
            before = 0
            break
        looked += len(page.messages)
        for ts, message in page.messages:
            if _fits(message, body.user, text):
                found.append((ts, message))
                if len(found) == body.limit:
                    reached = ts or reached
                    break
        before = reached
    return bodies.SearchResult(publications(stands, body.channel, found), before)


async def status(service: Service, _body: bodies.Nothing) -> bodies.StatusResult:
    """How each daemon is: whether it is ready, its troubles, what it has counted."""
    found = await service.surveys.ask("status")
    daemons = [
        msgspec.json.decode(data, type=bodies.DaemonStatus) for data in found.answers.values()
    ]
    return bodies.StatusResult(sorted(daemons, key=lambda each: each.uid), found.missing)


async def drain(service: Service, body: bodies.OfDaemon) -> bodies.Nothing:
    """Have a daemon send its clients to others and end, as on SIGTERM.

    What looks after it, systemd or the parent of several workers, may start it again.
    """
    found = await service.surveys.ask("drain", body.daemon)
    if not any(msgspec.json.decode(data, type=bool) for data in found.answers.values()):
        raise ApiError(NOT_FOUND, "no such daemon, or it does not serve yet")
    return bodies.Nothing()


def _fits(message: bytes, user: str, text: str) -> bool:
    try:
        read: Message = decode_message(message)
    except CorruptEntry:
        return False
    return (not user or read.userId == user) and text in read.info.casefold()
