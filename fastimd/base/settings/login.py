"""``[login]``: the function that decides about logins, and the life of a token."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from .section import AFTER_RESTART, About, Life, Section


class Login(Section, frozen=True):
    """Logins, and the life of a token."""

    hook: Annotated[
        str,
        Meta(
            pattern=r"^(?:[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*)?\Z",
            description='"" (everybody) or "package.module:callable"',
        ),
        About(
            "The function that decides who may log in, like `login` in hooks.handler.",
            holds=AFTER_RESTART,
        ),
    ] = ""
    token_ttl: Annotated[Life, About("How long a token lives after it was last checked.")] = 86_400
