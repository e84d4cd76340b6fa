"""Calls the hooks, and keeps what is promised of them.

Each has a deadline. One that crashes, is late or returns what it may not has failed: it is logged
with its cause, counted, and its policy decides what that means for the client. Everything else sees
only this, whether a hook is a function or a backend behind HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import structlog
import trio

from ..base.codec import USER_INFO
from ..base.errors import HookFailed, NotLoggedIn, Refused
from ..base.metrics import Metrics
from ..base.settings import Config
from . import Action, Message, ModerationAct, ReportedMessage
from .cause import describe, trace
from .load import Hook, load_hooks
from .outgoing import EVENTS, Outlet, visit_event
from .tags import judge_tags, size_of

if TYPE_CHECKING:
    from .webhook import Webhook

_Judged = TypeVar("_Judged")

log = structlog.get_logger("fastimd.hooks")


class HookRunner:
    """The hooks of this daemon, by their names.

    Args:
        webhook: the backend, if there is one.

    ``outlet`` takes the events that it is told; it must be set before there are any.
    """

    def __init__(
        self,
        hooks: Mapping[str, Hook],
        config: Config,
        metrics: Metrics,
        webhook: Webhook | None = None,
    ) -> None:
        self._hooks = hooks
        self._config = config
        self._metrics = metrics
        self.webhook = webhook
        self.events = EVENTS.intersection(config.hooks.webhook_events if webhook else ())
        """The events that the backend is told."""
        self.outlet: Outlet | None = None
        settings = config.hooks
        self._seconds = {
            "login": settings.login_timeout,
            "authorize": settings.authorize_timeout,
            "on_message": settings.message_timeout,
            "on_join": settings.presence_timeout,
            "on_leave": settings.presence_timeout,
            "on_moderation": settings.presence_timeout,
            "on_report": settings.presence_timeout,
        }

    def has(self, name: str) -> bool:
        """Whether there is a hook of that name."""
        return name in self._hooks or name in self.events

    async def login(self, user: str, password: str) -> msgspec.Raw:
        """What the answer to a login shows, as JSON; without a hook everybody may log in.

        Raises:
            Refused: the hook refuses.
            HookFailed: it failed. There is no other policy: it would let anybody be anybody.
        """
        if "login" not in self._hooks:
            return msgspec.Raw(msgspec.json.encode(USER_INFO))
        return await self._call("login", _judge_login, (password,), user, password)

    async def authorize(self, user: str, token: str, action: Action, group: str) -> None:
        """Ask whether a user may do something.

        Raises:
            NotLoggedIn: the token is not good.
            Refused: it is, and the hook refuses.
            HookFailed: the hook failed, and its policy is to refuse.
        """
        try:
            await self._call("authorize", _judge_permission, (token,), user, token, action, group)
        except HookFailed:
            if self._config.hooks.authorize_on_failure == "refuse":
                raise

    async def judge_message(self, message: Message) -> Message:
        """What is stored of a message.

        Raises:
            Refused: the hook refuses it.
            HookFailed: the hook failed, and its policy is to refuse.
        """

        tags = dict(message.tags)  # the hook may change them and fail

        def judge(answer: Any) -> Message:
            return _judge_message(message, answer, self._config.group_message.max_bytes)

        try:
            return await self._call("on_message", judge, (message.info,), message)
        except HookFailed:
            if self._config.hooks.message_on_failure == "refuse":
                raise
            return replace(message, tags=tags)

    async def tell_visit(self, name: str, group: str, user: str, connection_id: str) -> None:
        """Tell a join or a leave; as ``tell``.

        Raises:
            StoreUnavailable: the backend is told over Redis, and that is away.
        """
        if name in self.events:
            assert self.outlet is not None
            await self.outlet.push(visit_event(name, group, user, connection_id))
        else:
            await self.tell(name, group, user, connection_id)

    async def tell(self, name: str, *told: str | ModerationAct | ReportedMessage) -> None:
        """Tell a handler what has happened; a failure is logged and counted, and that is all."""
        with suppress(HookFailed, Refused):  # nobody waits for it, and the log says what is wrong
            await self._call(name, _ignore, (), *told)

    async def _call(
        self,
        name: str,
        judge: Callable[[Any], _Judged],
        private: Sequence[str],
        *arguments: Any,
    ) -> _Judged:
        """Ask a hook; what comes of it is counted, and a failure logged.

        Args:
            judge: returns what the answer means, or raises.
            private: what must not get into the log.
        """
        began = trio.current_time()
        outcome = "failed"
        try:
            judged = await self._ask(name, judge, arguments)
            outcome = "ok"
            return judged
        except (Refused, NotLoggedIn):
            outcome = "refused"
            raise
        except HookFailed as exc:
            log.error("hook.failed", purpose=name, error=str(exc))
            raise
        except BaseException as exc:  # an application's code may raise anything
            cancelled, failure = _split(exc)
            if failure is None:
                outcome = ""  # who waited for it has gone
                raise
            error = describe(failure, private)
            told = trace(failure, private)
            log.error("hook.failed", purpose=name, error=error, exception=told)
            if cancelled is not None:
                raise cancelled from None
            raise HookFailed(error) from exc
        finally:
            if outcome:
                self._metrics.count_hook(name, outcome, trio.current_time() - began)

    async def _ask(
        self, name: str, judge: Callable[[Any], _Judged], arguments: Sequence[Any]
    ) -> _Judged:
        """Call a hook within its deadline, and judge its answer."""
        seconds = self._seconds[name]
        with trio.move_on_after(seconds) as deadline:
            try:
                judged = judge(await self._hooks[name](*arguments))
            except ExceptionGroup as group:
                if (refusal := _refusal(group)) is not None:
                    raise refusal from None
                raise
            if not deadline.cancel_called:  # else the hook would not be stopped
                return judged
        raise HookFailed(f"no answer within {seconds:g} s")


@asynccontextmanager
async def open_hooks(config: Config, metrics: Metrics) -> AsyncIterator[HookRunner]:
    """The hooks that the settings name, until the block ends.

    Raises:
        ConfigError: they cannot be loaded; the message says which and why.
    """
    hooks = load_hooks(config)
    if not config.hooks.webhook_url:
        yield HookRunner(hooks, config, metrics)
        return
    from .webhook import open_webhook

    async with open_webhook(config) as webhook:
        questions = [name for name in config.hooks.webhook_events if name not in EVENTS]
        asked = {name: getattr(webhook, name) for name in questions}
        yield HookRunner(hooks | asked, config, metrics, webhook)


def _split(failure: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """What of an exception is Trio's cancellation, which has to go on, and what is not."""
    if isinstance(failure, BaseExceptionGroup):
        return failure.split(trio.Cancelled)
    return (failure, None) if isinstance(failure, trio.Cancelled) else (None, failure)


def _refusal(group: ExceptionGroup[Exception]) -> Refused | None:
    """The refusal in a group of nothing else: a nursery makes groups of what is raised in it."""
    first: Exception = group
    while isinstance(first, ExceptionGroup):
        first = first.exceptions[0]
    is_alone = group.split(Refused)[1] is None
    return first if is_alone and isinstance(first, Refused) else None


def _judge_login(answer: Any) -> msgspec.Raw:
    if answer is None:
        raise Refused
    try:
        return msgspec.Raw(msgspec.json.encode(answer))
    except Exception as exc:  # whatever an object of the application's does
        raise HookFailed(f"returned a {type(answer).__name__} that JSON cannot say") from exc


def _judge_permission(answer: Any) -> None:
    if answer is False:
        raise NotLoggedIn
    if answer is not True:
        raise HookFailed(f"returned a {type(answer).__name__}, not True or False")


def _judge_message(asked: Message, answer: Any, max_bytes: int) -> Message:
    if answer is None:
        raise Refused
    if not isinstance(answer, Message) or not isinstance(answer.info, str):
        raise HookFailed(f"returned a {type(answer).__name__}, not a Message of text or None")
    if (answer.group_id, answer.user_id) != (asked.group_id, asked.user_id):
        raise HookFailed("changed the group or the user of a message")
    if answer.info != asked.info:
        size = size_of("a text", answer.info)
        if size > max_bytes:
            raise HookFailed(f"returned a text of {size} bytes, more than group_message.max_bytes")
    return replace(asked, info=answer.info, tags=judge_tags(answer.tags))


def _ignore(_answer: Any) -> None:
    """What has happened is told, not asked."""
