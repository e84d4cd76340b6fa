"""``fastimd``, and ``python -m fastimd``: what runs before everything else is there."""

from __future__ import annotations

import signal


def main() -> None:
    """Load the command line and run it; Ctrl-C while it is being loaded is no traceback."""
    is_heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_heeded:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .cli import main as run

    if is_heeded:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
