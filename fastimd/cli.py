"""Arguments and exit codes; nothing else."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from . import __version__
from .base import log
from .base import settings as config
from .base.errors import ConfigError, StartupError
from .base.supervise import TaskCrashed
from .bench import arguments as bench
from .daemon.tree import serve
from .hooks.load import load_hooks
from .operate import arguments as operate
from .operate.client import Daemon
from .terminal import arguments as chat

EXIT_CRASHED = 1
EXIT_CONFIG = 78  # EX_CONFIG of sysexits.h


def main() -> None:
    """Run the command line and exit with its status."""
    arguments = _parser().parse_args()
    if arguments.command == "bench":
        sys.exit(bench.run_command(arguments, _find_operator))
    if arguments.command == "chat":
        sys.exit(chat.run_command(arguments))
    if arguments.command == "completion":
        print(_completion(arguments.shell))
        return
    if arguments.command in operate.COMMANDS:
        sys.exit(operate.run_command(arguments, os.environ))
    try:
        settings = config.load(arguments.config, os.environ)
    except ConfigError as exc:
        for mistake in exc.mistakes:
            log.print_mistake(mistake)
        sys.exit(EXIT_CONFIG)
    if arguments.command == "check":
        sys.exit(_check(settings))
    sys.exit(_serve(settings))


def _find_operator(bind: str) -> Daemon | None:
    """Who deletes what a run of the load generator leaves; None where nobody is to."""
    return Daemon(bind) if bind else None


def _check(settings: config.Config) -> int:
    try:
        load_hooks(settings)
    except ConfigError as exc:
        for mistake in exc.mistakes:
            log.print_mistake(mistake)
        return EXIT_CONFIG
    print(f"fastimd: the configuration is valid ({settings.source})")
    return 0


def _completion(shell: str) -> str:
    import shtab  # here, because the daemon has no use for it

    return shtab.complete(_parser(), shell)


def _serve(settings: config.Config) -> int:
    log.configure(settings.log.format, settings.log.level)
    try:
        trio.run(serve, settings, strict_exception_groups=True)
    except BaseException as exc:
        startup = _find(exc, StartupError)
        if startup is not None:
            log.print_mistake(str(startup))
            return EXIT_CONFIG
        if _find(exc, TaskCrashed) is not None:
            return EXIT_CRASHED  # the log has said which task and why
        raise
    finally:
        log.tell_left_out()
    return 0


def _find(exc: BaseException, kind: type[BaseException]) -> BaseException | None:
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
    add_command("check", "validate the configuration", "fastimd check --config fastimd.toml")
    operate.add_arguments(add_command)
    chat.add_arguments(
        add_command(
            "chat", "chat in a group from a terminal", "fastimd chat ws://127.0.0.1:9000/ 7", ()
        )
    )
    bench.add_arguments(
        add_command(
            "bench",
            "the load generator: measure a server",
            "fastimd bench burst ws://127.0.0.1:9000 --members 1000",
            (),
        )
    )
    completion = add_command(
        "completion",
        "print a script for a shell that completes what is typed",
        "fastimd completion bash > /etc/bash_completion.d/fastimd",
        (),
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")
    return parser
