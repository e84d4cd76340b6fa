"""Arguments and exit codes; nothing else."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import trio

from . import __version__, config, log
from .bench import arguments as bench
from .daemon import TaskCrashed, serve
from .errors import ConfigError, StartupError

EXIT_CRASHED = 1
EXIT_CONFIG = 78  # EX_CONFIG of sysexits.h


def main() -> None:
    """Run the command line and exit with its status."""
    arguments = _parser().parse_args()
    if arguments.command == "bench":
        sys.exit(bench.run_command(arguments))
    try:
        settings = config.load(arguments.config, os.environ)
    except ConfigError as exc:
        for mistake in exc.mistakes:
            print(f"fastimd: {mistake}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)
    if arguments.command == "check":
        print(f"fastimd: the configuration is valid ({settings.source})")
        return
    sys.exit(_serve(settings))


def _serve(settings: config.Config) -> int:
    log.configure(settings.log.format, settings.log.level)
    try:
        trio.run(serve, settings, strict_exception_groups=True)
    except BaseException as exc:
        startup = _find(exc, StartupError)
        if startup is not None:
            print(f"fastimd: {startup}", file=sys.stderr)
            return EXIT_CONFIG
        if _find(exc, TaskCrashed) is not None:
            return EXIT_CRASHED  # the log has said which task and why
        raise
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
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--config", type=Path, default=argparse.SUPPRESS, metavar="PATH", help=config_help
    )
    parser.add_argument("--config", type=Path, metavar="PATH", help=config_help)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("serve", parents=[shared], help="run the daemon (the default)")
    commands.add_parser("check", parents=[shared], help="validate the configuration")
    load = commands.add_parser("bench", help="the load generator: measure a server")
    bench.add_arguments(load)
    return parser
