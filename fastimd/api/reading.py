"""What a backend asks: history, who is here, which groups there are, how the daemons are."""

from __future__ import annotations

import msgspec

from ..groups.moderation.bodies import OfGroup
from ..live.connection import info_of
from ..live.inbox import ListedGroups, list_groups
from ..live.publications import publications
from ..live.reading import page_of
from . import bodies
from .errors import (
    LIMIT_EXCEEDED,
    NOT_AVAILABLE,
    UNRECOVERABLE_POSITION,
    ApiError,
    bad_request,
)
from .service import Service


async def history(service: Service, body: bodies.History) -> bodies.HistoryResult:
    """Messages of a group, and where it stands."""
    since = body.since
    if since is not None and not since.offset and body.reverse:
        raise bad_request("since.offset: must be more than 0, to go back from it")
    stands = service.domain.store.stands
    page = await stands.history(
        body.channel,
        since.epoch if since is not None else "",
        since.offset if since is not None else None,
        page_of(body.limit),
        reverse=body.reverse,
    )
    if not page.is_of_epoch:
        raise ApiError(UNRECOVERABLE_POSITION, "unrecoverable position")
    told = publications(stands, body.channel, page.messages)
    return bodies.HistoryResult(told, page.epoch, page.offset)


async def presence(service: Service, body: OfGroup) -> bodies.PresenceResult:
    """Who is in a group, on all daemons."""
    _check_presence(service)
    members = await service.domain.presence.members_of(body.channel)
    if members is None:
        raise ApiError(LIMIT_EXCEEDED, "limit exceeded: too many members, use presence_stats")
    return bodies.PresenceResult({place.client: info_of(user, place) for user, place in members})


async def presence_stats(service: Service, body: OfGroup) -> bodies.PresenceStatsResult:
    """How many are in a group, on all daemons."""
    _check_presence(service)
    return bodies.PresenceStatsResult(*await service.domain.presence.count(body.channel))


async def channels(service: Service, body: bodies.Channels) -> bodies.ChannelsResult:
    """The groups with somebody in them, on all daemons."""
    found = await service.surveys.ask("channels", body.pattern)
    whole: dict[str, bodies.ChannelInfo] = {}
    for data in found.answers.values():
        for name, info in msgspec.json.decode(data, type=dict[str, bodies.ChannelInfo]).items():
            known = whole.setdefault(name, bodies.ChannelInfo(0))
            known.num_clients += info.num_clients
            known.num_messages = max(known.num_messages, info.num_messages)
    return bodies.ChannelsResult(whole, found.missing)


async def info(service: Service, _body: bodies.Nothing) -> bodies.InfoResult:
    """How each daemon is."""
    found = await service.surveys.ask("info")
    nodes = [msgspec.json.decode(data, type=bodies.Node) for data in found.answers.values()]
    return bodies.InfoResult(sorted(nodes, key=lambda node: node.uid), found.missing)


async def groups(service: Service, body: bodies.Groups) -> ListedGroups:
    """The groups of a user, each with its last message and what is unread."""
    return await list_groups(service.domain.store, body.user, body.limit)


def _check_presence(service: Service) -> None:
    if not service.domain.presence.is_enabled:
        raise ApiError(NOT_AVAILABLE, "not available: presence.enabled is off")
