"""Who may do what: asks the application's ``authorize`` hook, else the token in Redis.

A group whose id names its users is for those, whatever the hook and the settings say; anybody may
leave one that they came into before.

The routes of HTTP and the sockets ask here, so that the two ways are told apart in one place.
"""

from __future__ import annotations

from ..base.errors import PrivateGroup
from ..base.settings import Config
from ..hooks import Action
from ..hooks.runner import HookRunner
from .store import Store
from .whispers import may_enter


class Access:
    """Judges what users want to do.

    Error handling: ``NotLoggedIn`` when the token is not good; ``Refused`` when it is and the hook
    refuses, ``PrivateGroup`` when the group's id does; ``StoreUnavailable`` when Redis is away,
    ``HookFailed`` when the hook is.
    """

    def __init__(self, config: Config, store: Store, hooks: HookRunner) -> None:
        self._config = config
        self._store = store
        self._hooks = hooks
        self.asks_hook = hooks.has("authorize")

    async def check(self, user: str, token: str, action: Action, group: str = "") -> None:
        """Let a user do something, or raise."""
        if self.asks_hook:
            await self._hooks.authorize(user, token, action, group)
        else:
            await self._store.logins.check(user, token)
        _check_named(user, action, group)

    async def check_opening(self, user: str, token: str, action: Action, group: str = "") -> None:
        """Let a user open a socket, or raise; a hook is asked whatever ``login_auth`` says."""
        if self.asks_hook or self._config.group.login_auth:
            await self.check(user, token, action, group)
        _check_named(user, action, group)


def _check_named(user: str, action: Action, group: str) -> None:
    if action != "leave" and not may_enter(group, user):
        raise PrivateGroup("private group")
