"""Checks what ``fastimd chat`` was given, asks for a password, and begins the chat."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from contextlib import suppress
from signal import SIGHUP, SIGINT, SIGQUIT, SIGTERM

import trio

from ..base.address import Address
from ..base.codec import check_id
from ..base.errors import BadParameter
from ..base.password import read_password
from ..base.signals import EXIT_SIGNAL, signals_raised
from .arguments import PASSWORD_VARIABLE
from .descriptors import write_all
from .failures import EXIT_USAGE, ChatError
from .harmless import harmless

EXIT_INTERRUPTED = EXIT_SIGNAL + SIGINT

MOST_HISTORY = 100_000

_ENDING = (SIGINT, SIGHUP, SIGTERM, SIGQUIT)


class _Unusable(Exception):
    """What was given cannot be worked with."""


def run_command(arguments: argparse.Namespace) -> int:
    """Chat; returns the exit status."""
    status = EXIT_INTERRUPTED
    try:
        status = _run(arguments)
    except* (_Unusable, BadParameter) as group:
        status = _fail(_first(group), EXIT_USAGE)
    except* ChatError as group:
        failure = _first(group)
        status = _fail(failure, getattr(failure, "status", EXIT_USAGE))
    except* KeyboardInterrupt:
        # What httpx had begun may be finished off only now, and complain that Trio has ended.
        sys.unraisablehook = _say_nothing
    return status


def _say_nothing(_complaint: object) -> None:
    """Who has pressed Ctrl-C knows that something was cut off."""


def _run(arguments: argparse.Namespace) -> int:
    if sys.stdin is None or sys.stdout is None:
        raise _Unusable("standard input and output must be open; /dev/null will do")
    if "://" in arguments.group:
        raise _Unusable("GROUP is missing: it comes after the address")
    try:
        address = Address.read(arguments.address)
    except ValueError as exc:
        raise _Unusable(str(exc)) from exc
    group = check_id("GROUP", arguments.group)
    user = check_id("--user", arguments.user or _machine_user())
    if arguments.history is not None and not 0 <= arguments.history <= MOST_HISTORY:
        raise _Unusable(f"--history: from 0 to {MOST_HISTORY}")
    password = _password(arguments, user)
    from .run import Wishes, chat

    wishes = Wishes(
        is_person=_is_person(arguments),
        has_colours=_has_colours(arguments.color),
        history=arguments.history,
        follows=arguments.follow,
    )
    return trio.run(chat, address, user, password, group, wishes)


def _is_person(arguments: argparse.Namespace) -> bool:
    """Somebody sits there: else it is a script, also where a terminal cannot be drawn on."""
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    return is_terminal and os.environ.get("TERM") != "dumb" and not arguments.json


def _has_colours(wanted: str) -> bool:
    return wanted == "always" or (wanted == "auto" and not os.environ.get("NO_COLOR"))


def _machine_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError) as exc:
        raise _Unusable("this machine has no name for you: give one with --user") from exc


def _password(arguments: argparse.Namespace, user: str) -> str:
    """Never from the command line: others may read that."""
    if arguments.password_file is not None:
        try:
            password = read_password(arguments.password_file)
        except ValueError as exc:
            raise _Unusable(f"--password-file {exc}") from exc
    elif PASSWORD_VARIABLE in os.environ:
        password = os.environ[PASSWORD_VARIABLE]
    elif sys.stdin.isatty():
        password = _ask_password(user)
    else:
        raise _Unusable(f"no password: give --password-file FILE, or set {PASSWORD_VARIABLE}")
    if not password:
        raise _Unusable("the password is empty")
    try:
        password.encode()
    except UnicodeEncodeError as exc:
        raise _Unusable("the password is not UTF-8") from exc
    return password


def _ask_password(user: str) -> str:
    with signals_raised(_ENDING):
        try:
            return getpass.getpass(f"Password for {harmless(user)}: ", sys.stderr)
        except EOFError:
            print(file=sys.stderr)
            return ""
        except SystemExit:
            print(file=sys.stderr)
            raise


def _first(failure: BaseException) -> BaseException:
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure


def _fail(failure: BaseException, status: int) -> int:
    if sys.stderr is not None:  # else the descriptor may be another file's by now
        line = f"fastimd: {harmless(str(failure), sys.stderr.encoding)}\n"
        with suppress(OSError):  # the status tells it, too
            write_all(2, line.encode(sys.stderr.encoding))
    return status
