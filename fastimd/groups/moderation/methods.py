"""The methods of moderators by their names, as every way in has them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from . import bodies
from .acts import Actor, Moderation


class Method(NamedTuple):
    """What a method takes, what does it, and what is answered."""

    body: type[Any]
    act: Callable[[Moderation, Actor, Any], Awaitable[object]]
    answer: type[Any] = bodies.Done

    async def call(self, moderation: Moderation, by: Actor, body: object) -> object:
        """Have it done; returns what is answered. Errors as with ``Moderation``."""
        result = await self.act(moderation, by, body)
        return self.answer() if result is None else self.answer(result)


METHODS = {
    "ban": Method(bodies.Restraint, Moderation.ban),
    "unban": Method(bodies.OfUser, Moderation.unban),
    "mute": Method(bodies.Restraint, Moderation.mute),
    "unmute": Method(bodies.OfUser, Moderation.unmute),
    "slow_mode": Method(bodies.SlowMode, Moderation.slow_mode),
    "mute_all": Method(bodies.MuteAll, Moderation.mute_all),
    "moderators": Method(bodies.Moderators, Moderation.moderators, bodies.Users),
    "delete_message": Method(bodies.OfMessage, Moderation.delete_message),
    "delete_messages_of": Method(bodies.OfUser, Moderation.delete_messages_of, bodies.Deleted),
    "reports": Method(bodies.OfGroup, Moderation.reports, bodies.Reports),
    "dismiss": Method(bodies.OfMessage, Moderation.dismiss),
}
"""A ``report`` is of a member, and not among them."""
