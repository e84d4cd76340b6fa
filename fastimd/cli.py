"""Arguments and exit codes; nothing else.

Each command has only its own modules loaded, once it is chosen: the server is most of the program,
and ``serve`` alone needs it. So the modules that say what the arguments are import next to nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from signal import SIGINT, SIGPIPE
from typing import TYPE_CHECKING, TypeAlias

from . import __version__
from .api import arguments as api
from .base.errors import EXIT_CONFIG, ConfigError
from .base.signals import EXIT_SIGNAL, interrupt_kills
from .bench import arguments as bench
from .operate import arguments as operate
from .terminal import arguments as chat

if TYPE_CHECKING:
    from .base.settings import Config
    from .operate.client import Daemon

EXIT_INTERRUPTED = EXIT_SIGNAL + SIGINT
EXIT_UNREAD = EXIT_SIGNAL + SIGPIPE
"""What a shell shows of a program that wrote to a pipe which nobody reads any more."""

Run: TypeAlias = Callable[[argparse.Namespace], int]
"""Does what the arguments say, and returns the exit status."""


def main() -> None:
    """Run the command line and exit with its status."""
    try:
        try:
            status = _run(_parser().parse_args())
        finally:
            _flush()
    except BrokenPipeError:
        status = EXIT_UNREAD
        _give_up_unread()
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    sys.exit(status)


def _run(arguments: argparse.Namespace) -> int:
    with interrupt_kills():
        run: Run = arguments.load()
    return run(arguments)


def _flush() -> None:
    """Write what was printed while it can still be told that nobody reads it."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _give_up_unread() -> None:
    """Let what is left of the output go nowhere, or Python complains of it as it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


# What loads a command, and returns what runs it


def _load_serve() -> Run:
    from .daemon.run import run_daemon

    return partial(_run_with_settings, run_daemon)


def _load_check() -> Run:
    from .daemon.check import check

    return partial(_run_with_settings, check)


def _run_with_settings(run: Callable[[Config], int], arguments: argparse.Namespace) -> int:
    from .base import log, settings

    try:
        config = settings.load(arguments.config, os.environ)
    except ConfigError as exc:
        for mistake in exc.mistakes:
            log.print_mistake(mistake)
        return EXIT_CONFIG
    return run(config)


def _load_operate() -> Run:
    from .operate.commands import run_command

    return partial(run_command, environ=os.environ)


def _load_chat() -> Run:
    from .terminal.begin import run_command

    return run_command


def _load_bench() -> Run:
    from .bench.command import run_command

    return partial(run_command, find_operator=_find_operator)


def _find_operator(bind: str) -> Daemon | None:
    """Who deletes what a run of the load generator leaves; None where nobody is to."""
    from .operate.client import Daemon

    return Daemon(bind) if bind else None


def _load_api_key() -> Run:
    from .api.new_key import run_command

    return run_command


def _load_completion() -> Run:
    import shtab

    def run(arguments: argparse.Namespace) -> int:
        print(shtab.complete(_parser(), arguments.shell))
        return 0

    return run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastimd", description="A group-chat daemon.")
    parser.add_argument("--version", action="version", version=f"fastimd {__version__}")
    config_help = "settings (default: ./fastimd.toml, then /etc/fastimd/fastimd.toml)"
    with_config = argparse.ArgumentParser(add_help=False)
    with_config.add_argument(
        "--config", type=Path, default=argparse.SUPPRESS, metavar="PATH", help=config_help
    )
    parser.add_argument("--config", type=Path, metavar="PATH", help=config_help)
    parser.set_defaults(load=_load_serve)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def add_command(
        load: Callable[[], Run],
        parents: Sequence[argparse.ArgumentParser],
        name: str,
        help_text: str,
        example: str,
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            parents=parents,
            help=help_text,
            description=f"{help_text[0].upper()}{help_text[1:]}.",
            epilog=f"example: {example}",
        )
        command.set_defaults(load=load)
        return command

    shared = (with_config,)
    serve_example = "fastimd serve --config /etc/fastimd/fastimd.toml"
    add_command(_load_serve, shared, "serve", "run the daemon (the default)", serve_example)
    check_example = "fastimd check --config fastimd.toml"
    add_command(_load_check, shared, "check", "check the settings", check_example)
    operate.add_arguments(partial(add_command, _load_operate, shared))
    key_example = "fastimd api-key game --methods publish broadcast"
    api.add_arguments(
        add_command(_load_api_key, (), "api-key", "make a key for the server API", key_example)
    )
    chat_example = "fastimd chat ws://127.0.0.1:9000/ 7"
    chat.add_arguments(
        add_command(_load_chat, (), "chat", "chat in a group from a terminal", chat_example)
    )
    bench_example = "fastimd bench burst ws://127.0.0.1:9000 --members 1000"
    bench.add_arguments(
        add_command(_load_bench, (), "bench", "measure a server under load", bench_example)
    )
    completion = add_command(
        _load_completion,
        (),
        "completion",
        "print a shell completion script",
        "fastimd completion bash > /etc/bash_completion.d/fastimd",
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")
    return parser
