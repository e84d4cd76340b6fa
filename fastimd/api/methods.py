"""The methods by their names: what each carries, what does it, and what it answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias

from ..groups.moderation.acts import OPERATOR
from ..groups.moderation.bodies import OfGroup, OfUser
from ..groups.moderation.methods import METHODS as MODERATION
from ..groups.moderation.methods import Method as ModerationMethod
from . import acting, bodies, console, reading, shapes, speaking
from .keys import Caller
from .service import Service

Act: TypeAlias = Callable[[Any, Any], Awaitable[object]]


class Method(NamedTuple):
    """A method. One that ``spans`` groups needs a key for all of them.

    One that ``is_open`` any key may call, and it is told who calls instead of the service.
    """

    body: type[Any]
    act: Act
    result: Any
    spans: bool = False
    is_open: bool = False


def _moderation(method: ModerationMethod) -> Act:
    async def act(service: Service, body: Any) -> object:
        return await method.call(service.domain.moderation, OPERATOR, body)

    act.__doc__ = method.act.__doc__
    return act


async def whoami(caller: Caller, _body: bodies.Nothing) -> bodies.Rights:
    """Who calls, and what it may do; any key may ask."""
    methods = [
        name
        for name, method in METHODS.items()
        if method.is_open or (caller.may_call(name) and (caller.has_all_groups or not method.spans))
    ]
    return bodies.Rights(caller.name, methods, list(caller.groups))


METHODS: dict[str, Method] = {
    "publish": Method(bodies.Publish, speaking.publish, bodies.Published),
    "broadcast": Method(bodies.Broadcast, speaking.broadcast, bodies.BroadcastResult),
    "history": Method(bodies.History, reading.history, shapes.HistoryResult),
    "history_remove": Method(OfGroup, acting.history_remove, bodies.Nothing),
    "presence": Method(OfGroup, reading.presence, shapes.PresenceResult),
    "presence_stats": Method(OfGroup, reading.presence_stats, bodies.PresenceStatsResult),
    "channels": Method(bodies.Channels, reading.channels, bodies.ChannelsResult, spans=True),
    "info": Method(bodies.Nothing, reading.info, bodies.InfoResult, spans=True),
    "unsubscribe": Method(bodies.Unsubscribe, acting.unsubscribe, bodies.Nothing),
    "disconnect": Method(bodies.Disconnect, acting.disconnect, bodies.Nothing, spans=True),
    "join": Method(OfUser, acting.join, bodies.Nothing),
    "leave": Method(OfUser, acting.leave, bodies.Nothing),
    "groups": Method(bodies.Groups, reading.groups, shapes.ListedGroups, spans=True),
    "policy": Method(OfGroup, console.policy, bodies.PolicyResult),
    "search": Method(bodies.Search, console.search, shapes.SearchResult),
    "status": Method(bodies.Nothing, console.status, bodies.StatusResult, spans=True),
    "drain": Method(bodies.OfDaemon, console.drain, bodies.Nothing, spans=True),
    "whoami": Method(bodies.Nothing, whoami, bodies.Rights, is_open=True),
    **{
        name: Method(method.body, _moderation(method), method.answer)
        for name, method in MODERATION.items()
    },
}
"""All but ``batch``, which calls these."""

BOUNDED = frozenset(("publish", "broadcast"))
"""Those that end in time by themselves: a deadline costs, and they are called most."""
NOT_SERVED = frozenset(("subscribe", "refresh", "rpc", "map_publish", "shared_poll_publish"))
"""Methods of Centrifugo's API that fastimd does not have."""
