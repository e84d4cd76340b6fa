"""Checks between settings, once each is good by itself.

Nothing is asked of settings while one of them may be missing because of another mistake.
"""

from __future__ import annotations

from collections.abc import Iterable

from .config import Config
from .mistakes import Mistakes
from .socket import Socket


def check_pings(socket: Socket, where: Iterable[str], mistakes: Mistakes) -> None:
    """Silence may be held against a peer only after a ping it could have answered."""
    if {"file", "socket"} & mistakes.keys():
        return
    if socket.ping_timeout <= socket.ping_interval:
        mistakes["socket"].append(
            f"{', '.join(where)}: socket.ping_timeout: got {socket.ping_timeout:g};"
            f" accepted: seconds, more than socket.ping_interval ({socket.ping_interval:g})"
        )


def check_webhook(config: Config, mistakes: Mistakes) -> None:
    """A receiver needs a secret and events; events without a receiver would be asked of nobody."""
    if {"file", "hooks", "login"} & mistakes.keys():
        return
    hooks = config.hooks
    if hooks.webhook_url and not hooks.webhook_secret:
        mistakes["hooks"].append(
            f"{config.source}: hooks.webhook_secret: not given; hooks.webhook_url needs it"
        )
    if bool(hooks.webhook_url) != bool(hooks.webhook_events):
        given, missing = "webhook_url", "webhook_events"
        if hooks.webhook_events:
            given, missing = missing, given
        mistakes["hooks"].append(
            f"{config.source}: hooks.{missing}: not given; hooks.{given} needs it"
        )
    if config.login.hook and "login" in hooks.webhook_events:
        mistakes["hooks"].append(
            f'{config.source}: hooks.webhook_events: has "login", and login.hook'
            f" ({config.login.hook!r}) is set too; take it out of one"
        )


def check_api(config: Config, mistakes: Mistakes) -> None:
    """A key is known by its name in logs and metrics."""
    names = [key.name for key in config.api.keys]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            mistakes["api"].append(
                f"{config.source}: api.keys: {name!r} is there more than once; accepted: each"
                " name once"
            )


def check_token(config: Config, mistakes: Mistakes) -> None:
    """Public keys come from one place; what is asked of tokens needs a key to judge them by."""
    if {"file", "token"} & mistakes.keys():
        return
    token = config.token
    if token.public_key and token.jwks_url:
        mistakes["token"].append(
            f"{config.source}: token.jwks_url: given, and token.public_key too; take out one"
        )
    if not (token.hmac_secret or token.public_key or token.jwks_url):
        mistakes["token"].extend(
            f"{config.source}: token.{name}: given without a key; accepted: beside"
            " token.hmac_secret, token.public_key or token.jwks_url"
            for name in ("audience", "issuer")
            if getattr(token, name)
        )
