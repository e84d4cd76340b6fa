"""``python -m fastimd``."""

from .cli import main

main()
