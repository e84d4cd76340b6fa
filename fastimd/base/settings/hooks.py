"""``[hooks]``: the code and the backend that decide for the application."""

from __future__ import annotations

from base64 import b64decode
from typing import Annotated, Literal

from msgspec import Meta

from .section import AFTER_RESTART, About, Period, Section
from .url import check_url

SECRET_PREFIX = "whsec_"  # noqa: S105 - of Standard Webhooks; what follows is the secret

_Event = Literal[
    "login",
    "authorize",
    "on_message",
    "on_join",
    "on_leave",
    "on_moderation",
    "on_report",
    "message",
]
_OnFailure = Annotated[Literal["refuse", "allow"], Meta(description='"refuse" or "allow"')]


def _check_secret(value: str) -> None:
    if not value:
        return
    if not value.startswith(SECRET_PREFIX):
        raise ValueError("not of the form of Standard Webhooks")
    key = b64decode(value.removeprefix(SECRET_PREFIX), validate=True)
    if not 24 <= len(key) <= 64:
        raise ValueError("not of a length that Standard Webhooks allows")


class Hooks(Section, frozen=True):
    """Decisions of the application, in Python or over HTTP."""

    handler: Annotated[
        str,
        Meta(
            pattern=r"^(?:[^\W\d]\w*(?:\.[^\W\d]\w*)*(?::[^\W\d]\w*)?)?\Z",
            description='"" (none), "package.module" or "package.module:attribute"',
        ),
        About(
            "The object with your hooks: a module, or an instance or class in a module. It"
            " defines any of `login`, `authorize`, `on_message`, `on_join`, `on_leave`,"
            " `on_moderation` and `on_report`. docs/HOOKS.md explains each.",
            holds=AFTER_RESTART,
        ),
    ] = ""
    webhook_url: Annotated[
        str,
        Meta(description='"" (none), or an http:// or https:// URL'),
        About(
            "The HTTP backend that answers hooks.",
            check=check_url,
            holds=AFTER_RESTART,
            is_secret=True,
        ),
    ] = ""
    webhook_secret: Annotated[
        str,
        Meta(
            description='"" (none), or "whsec_" with 24 to 64 bytes in base64 behind it, such as'
            " `openssl rand -base64 32` prints",
        ),
        About(
            "The key that signs requests to webhook_url; required with it. It is never logged.",
            check=_check_secret,
            holds=AFTER_RESTART,
            is_secret=True,
        ),
    ] = ""
    webhook_events: Annotated[
        tuple[_Event, ...],
        Meta(
            description='a list of "login", "authorize", "on_message", "on_join", "on_leave",'
            ' "on_moderation", "on_report" and "message"',
        ),
        About(
            "The hooks that the backend answers, and the events that it is told. `message` is told"
            " of each message after it was stored. webhook_url needs at least one; handler must"
            " not define the same ones.",
            holds=AFTER_RESTART,
        ),
    ] = ()
    webhook_retries: Annotated[
        int,
        Meta(ge=0, le=10, description="a whole number, from 0 to 10"),
        About(
            "How often a question is repeated, within the deadline, if the backend is unreachable"
            " or answers 429 or 5xx. Events are repeated until the backend takes them.",
            holds=AFTER_RESTART,
        ),
    ] = 2
    webhook_connections: Annotated[
        int,
        Meta(ge=2, le=10_000, description="a whole number, from 2 to 10000"),
        About(
            "The maximum number of connections to the backend; events use at most half of them.",
            holds=AFTER_RESTART,
        ),
    ] = 32
    webhook_keep_seconds: Annotated[
        float,
        Meta(
            ge=3600, le=2_592_000, description="seconds, from 3600 (an hour) to 2592000 (30 days)"
        ),
        About(
            "How long an event waits in Redis for a backend that does not take it; then it is"
            " dropped.",
            holds=AFTER_RESTART,
        ),
    ] = 86_400.0
    webhook_queue: Annotated[
        int,
        Meta(ge=1, le=10_000_000, description="a whole number, from 1 to 10000000"),
        About(
            "How many events of a group may wait in Redis; beyond that, the oldest are dropped."
            " Messages do not count: they wait in the group's list.",
            holds=AFTER_RESTART,
        ),
    ] = 100_000
    login_timeout: Annotated[
        Period,
        About(
            "The deadline of the `login` hook, including all attempts of a webhook. If it passes,"
            " the hook has failed and the login is refused.",
            holds=AFTER_RESTART,
        ),
    ] = 5.0
    authorize_timeout: Annotated[
        Period,
        About("The same for `authorize`.", holds=AFTER_RESTART),
    ] = 5.0
    message_timeout: Annotated[
        Period,
        About("The same for `on_message`.", holds=AFTER_RESTART),
    ] = 5.0
    presence_timeout: Annotated[
        Period,
        About(
            "The same for `on_join`, `on_leave`, `on_moderation` and `on_report`; nothing waits for"
            " them. For a backend, the deadline of each request that tells it an event, at most a"
            " minute.",
            holds=AFTER_RESTART,
        ),
    ] = 5.0
    authorize_on_failure: Annotated[
        _OnFailure,
        About(
            'What happens if `authorize` fails: "refuse" asks the client to try again later,'
            ' "allow" permits the action.',
            holds=AFTER_RESTART,
        ),
    ] = "refuse"
    message_on_failure: Annotated[
        _OnFailure,
        About(
            'What happens if `on_message` fails: "refuse" asks the sender to try again, "allow"'
            " stores the message as it is.",
            holds=AFTER_RESTART,
        ),
    ] = "refuse"
