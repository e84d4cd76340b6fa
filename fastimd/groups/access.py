"""Who may do what: asks the application's ``authorize`` hook, else the token in Redis.

The routes of HTTP and the sockets ask here, so that the two ways are told apart in one place.
"""

from __future__ import annotations

from ..base.settings import Config
from ..hooks import Action
from ..hooks.runner import HookRunner
from .store import Store


class Access:
    """Judges what users want to do.

    Error handling: ``NotLoggedIn`` when the token is not good; ``Refused`` when it is and the hook
    refuses; ``StoreUnavailable`` when Redis is away, ``HookFailed`` when the hook is.
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

    async def check_opening(self, user: str, token: str, action: Action, group: str = "") -> None:
        """Let a user open a socket, or raise; a hook is asked whatever ``login_auth`` says."""
        if self.asks_hook or self._config.group.login_auth:
            await self.check(user, token, action, group)
