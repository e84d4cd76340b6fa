"""A private redis-server, run as a supervised child of the daemon.

Three ties keep exactly one server on a data directory, and none behind the daemon's back: an flock
that the server inherits (``lock.py``), a signal from the kernel when the daemon is killed outright
(``command.py``), and cancellation (``child.py``). ``serve.py`` starts a server that ended again.
"""

from .executable import find_server
from .serve import serve_embedded

__all__ = ["find_server", "serve_embedded"]
