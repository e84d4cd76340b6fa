"""``fastimd``, and ``python -m fastimd``: what runs before everything else is there."""

from __future__ import annotations

from .base.signals import interrupt_kills


def main() -> None:
    """Load the command line and run it; Ctrl-C while it is being loaded is no traceback."""
    with interrupt_kills():
        from .cli import main as run
    run()


if __name__ == "__main__":
    main()
