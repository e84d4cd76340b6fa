"""``fastimd check``: whether a daemon could start with the settings."""

from __future__ import annotations

from ..base.errors import EXIT_CONFIG, ConfigError
from ..base.log import print_mistake
from ..base.settings import Config
from ..hooks.load import load_hooks
from ..live.keys import load_keys


def check(settings: Config) -> int:
    """Load what the settings name, tell what is wrong with it, and return the exit status."""
    mistakes: list[str] = []
    for load in (load_hooks, load_keys):
        try:
            load(settings)
        except ConfigError as exc:
            mistakes += exc.mistakes
    for mistake in mistakes:
        print_mistake(mistake)
    if mistakes:
        return EXIT_CONFIG
    print(f"fastimd: the configuration is valid ({settings.source})")
    return 0
