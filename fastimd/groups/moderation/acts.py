"""What moderators and operators do, whichever way it is asked: the one place where it is done.

Each act is answered when Redis has it, and the event for a backend, and may be done again: what is
so already stays so.
"""

from __future__ import annotations

from typing import NamedTuple

import structlog

from ...base.errors import BadParameter, Refused
from ...base.metrics import Metrics
from ...hooks import ModerationAct, ReportedMessage
from ...hooks.tellings import Tellings
from ..events import MODERATION, PolicyChange
from ..store import Store
from ..store.policy import BAN, MODERATOR, MUTE, MUTE_ALL, SLOW, Change, sentence
from . import bodies
from .policies import Policies

log = structlog.get_logger("fastimd.moderation")


class Actor(NamedTuple):
    """Who does something; with the user "" it is an operator.

    One who ``has_role`` is a moderator of the group by the word of its token.
    """

    user: str = ""
    has_role: bool = False


OPERATOR = Actor()


class NoSuchMessage(Refused):
    """A group has no message with that ``ts``."""


class Moderation:
    """The acts of moderators.

    Error handling: ``BadParameter`` when a body cannot be meant; ``Refused`` when it may not be
    done, with the reason; ``StoreUnavailable`` when Redis is away, ``KeyUnusable`` when it refuses
    what concerns the group.
    """

    def __init__(
        self, store: Store, policies: Policies, tellings: Tellings, metrics: Metrics
    ) -> None:
        self._store = store
        self._policies = policies
        self._tellings = tellings
        self._metrics = metrics

    # Who may be in a group, and speak

    async def ban(self, by: Actor, body: bodies.Restraint) -> None:
        """Keep a user out of a group, on every daemon; the user is a member no longer."""
        await self._check(by, body.channel, body.user, "ban")
        await self._restrain("ban", BAN, by, body)
        await self._store.members.leave(body.channel, body.user)

    async def unban(self, by: Actor, body: bodies.OfUser) -> None:
        """Let a user into a group again."""
        await self._lift("unban", BAN, by, body)

    async def mute(self, by: Actor, body: bodies.Restraint) -> None:
        """Let a user say nothing in a group."""
        await self._check(by, body.channel, body.user, "mute")
        await self._restrain("mute", MUTE, by, body)

    async def unmute(self, by: Actor, body: bodies.OfUser) -> None:
        """Let a user speak again."""
        await self._lift("unmute", MUTE, by, body)

    async def slow_mode(self, by: Actor, body: bodies.SlowMode) -> None:
        """Put a number of seconds between two messages of a user; 0 for none."""
        await self._check(by, body.channel)
        value = str(body.seconds) if body.seconds else ""
        change = PolicyChange(
            body.channel, MODERATION, "slow_mode", "", seconds=body.seconds, by=by.user
        )
        await self._do(change, Change(SLOW, value))

    async def mute_all(self, by: Actor, body: bodies.MuteAll) -> None:
        """Let only moderators write, or everybody again."""
        await self._check(by, body.channel)
        act = "mute_all" if body.on else "unmute_all"
        change = PolicyChange(body.channel, MODERATION, act, "", by=by.user)
        await self._do(change, Change(MUTE_ALL, "1" if body.on else ""))

    async def moderators(self, by: Actor, body: bodies.Moderators) -> list[str]:
        """Make users moderators of a group, or ordinary members again; returns who they are.

        A moderator of the list may read it, no more: else any could put out the others.
        """
        await self._check(by, body.channel)
        if (body.add or body.remove) and by.user and not by.has_role:
            raise Refused("only operators and holders of the role may change the moderators")
        for user in body.add:
            change = PolicyChange(body.channel, MODERATION, "moderator_added", user, by=by.user)
            await self._do(change, Change(f"{MODERATOR}{user}", "1"))
        for user in body.remove:
            change = PolicyChange(body.channel, MODERATION, "moderator_removed", user, by=by.user)
            await self._do(change, Change(f"{MODERATOR}{user}"))
        return sorted((await self._policies.read(body.channel)).moderators)

    # Messages

    async def delete_message(self, by: Actor, body: bodies.OfMessage) -> None:
        """Delete anybody's message, however old.

        Raises:
            NoSuchMessage: there is none.
        """
        await self._check(by, body.channel)
        user = await self._store.removals.delete(body.channel, body.ts)
        if user is None:
            raise NoSuchMessage("no such message")
        await self._tell(ModerationAct(body.channel, "delete_message", by.user, user, ts=body.ts))

    async def delete_messages_of(self, by: Actor, body: bodies.OfUser) -> int:
        """Delete all messages of a user in a group; returns how many there were."""
        await self._check(by, body.channel)
        deletion = self._store.removals.deletion_of(body.channel, body.user)
        try:
            await deletion.run()
        finally:  # what was deleted before it was cut off is gone
            count = deletion.count
            if count or deletion.is_over:
                act = ModerationAct(
                    body.channel, "delete_messages_of", by.user, body.user, count=count
                )
                await self._tell(act)
        return count

    async def report(self, user: str, body: bodies.Complaint) -> None:
        """Report a message to the moderators, as a member; again, it changes nothing.

        Raises:
            NoSuchMessage: there is none.
        """
        outcome, author = await self._store.reports.add(body.channel, body.ts, user, body.reason)
        if outcome == "missing":
            raise NoSuchMessage("no such message")
        if outcome == "known":
            return
        self._metrics.count_moderation_act("report")
        log.info(
            "moderation.report",
            group=body.channel,
            message_ts=body.ts,
            user=author,
            by=user,
            reason=body.reason,
        )
        reported = ReportedMessage(body.channel, body.ts, author, user, body.reason)
        await self._tellings.tell("on_report", reported)

    async def reports(self, by: Actor, body: bodies.OfGroup) -> list[bodies.Report]:
        """What members have reported, by the ``ts`` of the messages."""
        await self._check(by, body.channel)
        return await self._store.reports.all(body.channel)

    async def dismiss(self, by: Actor, body: bodies.OfMessage) -> None:
        """Be done with the reports of a message, which stays; deleting it does that, too."""
        await self._check(by, body.channel)
        if await self._store.reports.dismiss(body.channel, body.ts):
            await self._tell(ModerationAct(body.channel, "dismiss", by.user, ts=body.ts))

    # How it is done

    async def _restrain(self, act: str, kind: str, by: Actor, body: bodies.Restraint) -> None:
        change = PolicyChange(
            body.channel,
            MODERATION,
            act,
            body.user,
            seconds=body.seconds,
            reason=body.reason,
            by=by.user,
        )
        field = f"{kind}{body.user}"
        await self._do(change, sentence(field, body.seconds, body.reason, by.user))

    async def _lift(self, act: str, kind: str, by: Actor, body: bodies.OfUser) -> None:
        await self._check(by, body.channel)
        change = PolicyChange(body.channel, MODERATION, act, body.user, by=by.user)
        await self._do(change, Change(f"{kind}{body.user}"))

    async def _do(self, change: PolicyChange, *changes: Change) -> None:
        await self._store.policies.change(change, changes)
        act = ModerationAct(
            change.group, change.act, change.by, change.user, change.seconds, change.reason
        )
        await self._tell(act)

    async def _tell(self, act: ModerationAct) -> None:
        self._metrics.count_moderation_act(act.act)
        log.info(
            "moderation.act",
            act=act.act,
            group=act.group_id,
            user=act.user_id or None,
            by=act.moderator_id or None,
            seconds=act.seconds or None,
            reason=act.reason or None,
            message_ts=act.ts or None,
            messages=act.count if act.act == "delete_messages_of" else None,
        )
        await self._tellings.tell("on_moderation", act)

    async def _check(self, by: Actor, group: str, target: str = "", act: str = "") -> None:
        """Let somebody moderate a group, and do something to a user of it, or raise."""
        if not by.user:
            return
        policy = None
        if not by.has_role:
            policy = await self._policies.read(group)
            if by.user not in policy.moderators:
                raise Refused("not a moderator of this group")
        if not target:
            return
        if target == by.user:
            raise BadParameter("user", f"you cannot {act} yourself")
        policy = policy or await self._policies.read(group)
        if target in policy.moderators:
            raise Refused("this user is a moderator: only an operator can do that")
