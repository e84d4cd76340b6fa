"""From names in the settings to hooks that can be awaited.

A mistake in a handler is found here, before anybody connects: a hook that nobody asks because its
name is misspelt would let through what it was written to stop.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from difflib import get_close_matches
from traceback import extract_tb
from typing import Any, TypeAlias

import trio

from ..base.errors import ConfigError
from ..base.settings import Config
from . import Handler

Hook: TypeAlias = Callable[..., Awaitable[Any]]

THREADS = 40
"""How many calls of one hook run in threads at once; the others wait, within their deadline."""

PARAMETERS = {
    name: list(inspect.signature(member).parameters)[1:]
    for name, member in vars(Handler).items()
    if not name.startswith("_") and inspect.isfunction(member)
}
"""The names of every hook, and of what it gets."""

_SPELLINGS = {"authorise": "authorize"}

_WHATEVER = (Exception, SystemExit)
"""What an application's code may raise while it is loaded; a script may end the process."""
_OURS = (__file__, importlib.__file__)


def load_hooks(config: Config) -> dict[str, Hook]:
    """The hooks of ``login.hook`` and ``hooks.handler``, by their names.

    Raises:
        ConfigError: an object cannot be loaded or is no handler, or two settings name one hook.
    """
    mistakes: list[str] = []
    hooks = _handler_hooks(config.hooks.handler, mistakes) if config.hooks.handler else {}
    mistakes.extend(
        f"hooks.handler: {config.hooks.handler!r} has {name}, and hooks.webhook_events names it"
        " too; take it out of one"
        for name in hooks
        if name in config.hooks.webhook_events
    )
    if config.login.hook:
        if "login" in hooks:
            mistakes.append(
                f"login.hook: {config.login.hook!r} is named, and hooks.handler"
                f" ({config.hooks.handler!r}) has login too; take it out of one"
            )
        hooks |= _login_hook(config.login.hook, mistakes)
    if mistakes:
        raise ConfigError(mistakes)
    return {name: _as_async(hook) for name, hook in hooks.items()}


def _login_hook(name: str, mistakes: list[str]) -> dict[str, Callable[..., Any]]:
    try:
        hook = _find(name)
    except _NotLoadedError as exc:
        mistakes.append(f"login.hook: {exc}")
        return {}
    if not callable(hook):
        mistakes.append(f"login.hook: {name!r} is not callable")
        return {}
    mistakes.extend(f"login.hook: {name!r} {wrong}" for wrong in _wrong_function("login", hook))
    return {"login": hook}


def _handler_hooks(name: str, mistakes: list[str]) -> dict[str, Callable[..., Any]]:
    try:
        members = _members(name, _made(name, _find(name)))
    except _NotLoadedError as exc:
        mistakes.append(f"hooks.handler: {exc}")
        return {}
    wrong = list(_what_is_wrong(members))
    mistakes.extend(f"hooks.handler: {name!r}: {line}" for line in wrong)
    hooks = {hook: member for hook, member in members.items() if hook in PARAMETERS}
    if not hooks and not wrong:
        known = ", ".join(PARAMETERS)
        mistakes.append(f"hooks.handler: {name!r} has no hook; known are {known}")
    return hooks


class _NotLoadedError(Exception):
    """The message says what, and why."""


def _find(name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        is_other = exc.name != module_name and not module_name.startswith(f"{exc.name}.")
        hint = _place(exc) if is_other else "; is its directory in PYTHONPATH?"
        raise _NotLoadedError(f"cannot load {name!r}: {exc}{hint}") from exc
    except _WHATEVER as exc:
        raise _NotLoadedError(f"cannot load {name!r}: {_describe(exc)}") from exc
    try:
        return getattr(found, attribute) if attribute else found
    except AttributeError as exc:
        raise _NotLoadedError(f"cannot load {name!r}: {exc}") from exc


def _made(name: str, found: Any) -> Any:
    if not inspect.isclass(found):
        return found
    try:
        return found()
    except _WHATEVER as exc:
        raise _NotLoadedError(f"cannot make a {name!r}: {_describe(exc)}") from exc


def _members(name: str, handler: Any) -> dict[str, Any]:
    """What of an object is a hook, or looks as if it should be."""
    try:
        return {
            member: getattr(handler, member)
            for member in sorted({*dir(handler), *PARAMETERS})
            if member in PARAMETERS or member in _SPELLINGS or member.startswith("on_")
            if hasattr(handler, member)
        }
    except _WHATEVER as exc:  # a property may do anything
        raise _NotLoadedError(f"cannot load {name!r}: {_describe(exc)}") from exc


def _describe(failure: BaseException) -> str:
    return f"{type(failure).__name__}: {failure}{_place(failure)}"


def _place(failure: BaseException) -> str:
    """The line of the application's that failed, by whatever it called; none where nothing ran."""
    for frame in extract_tb(failure.__traceback__):
        if frame.filename not in _OURS and not frame.filename.startswith("<"):
            return f" ({frame.filename}, line {frame.lineno})"
    return ""


def _what_is_wrong(members: Mapping[str, Any]) -> Iterator[str]:
    for name, member in members.items():
        if name not in PARAMETERS:
            if callable(member):
                yield f"{name} is no hook, {_suggest(name)}"
        elif not callable(member):
            yield f"{name} is not callable"
        else:
            yield from (f"{name} {wrong}" for wrong in _wrong_function(name, member))


def _suggest(name: str) -> str:
    nearest = get_close_matches(_SPELLINGS.get(name, name), PARAMETERS, n=1)
    return f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(PARAMETERS)}"


def _wrong_function(name: str, hook: Callable[..., Any]) -> Iterator[str]:
    if inspect.isgeneratorfunction(hook) or inspect.isasyncgenfunction(hook):
        yield "yields; a hook returns its answer"
    try:
        signature = inspect.signature(hook)
    except ValueError:
        return  # some built-in functions do not tell theirs
    wanted = PARAMETERS[name]
    try:
        signature.bind(*wanted)
    except TypeError:
        yield f"is called with ({', '.join(wanted)}), and takes {signature}"


def _is_async(hook: Any) -> bool:
    return inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(
        getattr(hook, "__call__", None)  # noqa: B004 - an instance whose call is a coroutine
    )


def _as_async(hook: Callable[..., Any]) -> Hook:
    if _is_async(hook):
        return hook
    limiter = trio.CapacityLimiter(THREADS)

    async def call_in_thread(*arguments: Any) -> Any:
        # In a list, as Trio takes no coroutine from a thread. There is one if a decorator hides
        # that this is a coroutine function.
        [answer] = await trio.to_thread.run_sync(
            lambda: [hook(*arguments)], limiter=limiter, abandon_on_cancel=True
        )
        return await answer if inspect.isawaitable(answer) else answer

    return call_in_thread
