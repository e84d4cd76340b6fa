"""What a backend does to users: ends their sockets, puts them into groups and takes them out."""

from __future__ import annotations

from ..base.errors import Restrained
from ..groups.moderation.bodies import OfGroup, OfUser
from ..groups.whispers import may_enter
from ..websocket.kick import Kick
from . import bodies
from .errors import LIMIT_EXCEEDED, PERMISSION_DENIED, ApiError
from .service import Service


async def unsubscribe(service: Service, body: bodies.Unsubscribe) -> bodies.Nothing:
    """End a user's sockets in a group, on all daemons."""
    await service.domain.store.kicks.announce(Kick(body.user, body.channel, body.client))
    return bodies.Nothing()


async def disconnect(service: Service, body: bodies.Disconnect) -> bodies.Nothing:
    """End a user's sockets, on all daemons."""
    close = (body.disconnect.code, body.disconnect.reason) if body.disconnect else None
    kick = Kick(body.user, client=body.client, keep=body.whitelist, close=close)
    await service.domain.store.kicks.announce(kick)
    return bodies.Nothing()


async def join(service: Service, body: OfUser) -> bodies.Nothing:
    """Put a user into a group; who is in it already stays there."""
    group, user = body.channel, body.user
    if not may_enter(group, user):
        raise ApiError(PERMISSION_DENIED, "permission denied: private group")
    members = service.domain.store.members
    outcome = await members.join(group, user)
    if outcome == "full":
        raise ApiError(LIMIT_EXCEEDED, "limit exceeded: the user is in group.max_joined groups")
    if outcome == "joined":
        try:
            await service.domain.judge.check_joined(group, user)
        except Restrained:
            await members.leave(group, user)
            raise
    return bodies.Nothing()


async def leave(service: Service, body: OfUser) -> bodies.Nothing:
    """Take a user out of a group, and end the user's sockets there."""
    await service.domain.store.members.leave(body.channel, body.user)
    return bodies.Nothing()


async def history_remove(service: Service, body: OfGroup) -> bodies.Nothing:
    """Delete all messages of a group."""
    await service.domain.store.messages.purge(body.channel)
    return bodies.Nothing()
