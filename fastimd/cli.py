"""Arguments and exit codes; nothing else."""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from signal import SIGINT, SIGPIPE
from typing import TypeVar

import trio

from . import __version__
from .base import log
from .base import settings as config
from .base.errors import ConfigError, StartupError
from .base.signals import EXIT_SIGNAL
from .base.supervise import TaskCrashed
from .bench import arguments as bench
from .daemon.tree import serve
from .daemon.workers.link import take_link
from .daemon.workers.parent import WorkerFailed, serve_workers
from .hooks.load import load_hooks
from .live.keys import load_keys
from .operate import arguments as operate
from .operate.client import Daemon
from .terminal import arguments as chat

EXIT_CRASHED = 1
EXIT_INTERRUPTED = EXIT_SIGNAL + SIGINT
EXIT_UNREAD = EXIT_SIGNAL + SIGPIPE
"""What a shell shows of a program that wrote to a pipe which nobody reads any more."""
EXIT_CONFIG = 78  # EX_CONFIG of sysexits.h


_Failure = TypeVar("_Failure", bound=BaseException)


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
    if arguments.command == "bench":
        return bench.run_command(arguments, _find_operator)
    if arguments.command == "chat":
        return chat.run_command(arguments)
    if arguments.command == "completion":
        print(_completion(arguments.shell))
        return 0
    if arguments.command in operate.COMMANDS:
        return operate.run_command(arguments, os.environ)
    try:
        settings = config.load(arguments.config, os.environ)
    except ConfigError as exc:
        for mistake in exc.mistakes:
            log.print_mistake(mistake)
        return EXIT_CONFIG
    return _check(settings) if arguments.command == "check" else _serve(settings)


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


def _find_operator(bind: str) -> Daemon | None:
    """Who deletes what a run of the load generator leaves; None where nobody is to."""
    return Daemon(bind) if bind else None


def _check(settings: config.Config) -> int:
    mistakes: list[str] = []
    for load in (load_hooks, load_keys):
        try:
            load(settings)
        except ConfigError as exc:
            mistakes += exc.mistakes
    for mistake in mistakes:
        log.print_mistake(mistake)
    if mistakes:
        return EXIT_CONFIG
    print(f"fastimd: the configuration is valid ({settings.source})")
    return 0


def _completion(shell: str) -> str:
    import shtab  # here, because the daemon has no use for it

    return shtab.complete(_parser(), shell)


def _serve(settings: config.Config) -> int:
    faulthandler.enable()  # whoever ends a daemon that hangs sends SIGABRT, to see where
    log.configure(settings.log.format, settings.log.level)
    link = take_link(os.environ)
    workers = settings.server.workers or len(os.sched_getaffinity(0))
    if link is not None:
        log.bind(worker=link.number)
    try:
        if link is None and workers > 1:
            trio.run(serve_workers, settings, workers, strict_exception_groups=True)
        else:
            trio.run(serve, settings, link, strict_exception_groups=True)
    except BaseException as exc:
        startup = _find(exc, StartupError)
        if startup is not None:
            log.print_mistake(str(startup))
            return EXIT_CONFIG
        failed = _find(exc, WorkerFailed)
        if failed is not None:
            return EXIT_CONFIG if failed.status == EXIT_CONFIG else EXIT_CRASHED
        if _find(exc, TaskCrashed) is not None:
            return EXIT_CRASHED  # the log has said which task and why
        raise
    finally:
        log.tell_left_out()
    return 0


def _find(exc: BaseException, kind: type[_Failure]) -> _Failure | None:
    if isinstance(exc, BaseExceptionGroup):
        found = (_find(each, kind) for each in exc.exceptions)
        return next((each for each in found if each is not None), None)
    return exc if isinstance(exc, kind) else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastimd", description="A group-chat daemon.")
    parser.add_argument("--version", action="version", version=f"fastimd {__version__}")
    config_help = "settings (default: ./fastimd.toml, then /etc/fastimd/fastimd.toml)"
    with_config = argparse.ArgumentParser(add_help=False)
    with_config.add_argument(
        "--config", type=Path, default=argparse.SUPPRESS, metavar="PATH", help=config_help
    )
    shared = (with_config,)
    parser.add_argument("--config", type=Path, metavar="PATH", help=config_help)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def add_command(
        name: str, help_text: str, example: str, parents: Sequence[argparse.ArgumentParser] = shared
    ) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            parents=parents,
            help=help_text,
            description=f"{help_text[0].upper()}{help_text[1:]}.",
            epilog=f"example: {example}",
        )

    add_command(
        "serve", "run the daemon (the default)", "fastimd serve --config /etc/fastimd/fastimd.toml"
    )
    add_command("check", "check the settings", "fastimd check --config fastimd.toml")
    operate.add_arguments(add_command)
    chat.add_arguments(
        add_command(
            "chat", "chat in a group from a terminal", "fastimd chat ws://127.0.0.1:9000/ 7", ()
        )
    )
    bench.add_arguments(
        add_command(
            "bench",
            "measure a server under load",
            "fastimd bench burst ws://127.0.0.1:9000 --members 1000",
            (),
        )
    )
    completion = add_command(
        "completion",
        "print a shell completion script",
        "fastimd completion bash > /etc/bash_completion.d/fastimd",
        (),
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")
    return parser
