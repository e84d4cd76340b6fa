"""The server API: what a backend says, does and asks over HTTP."""

PATH = "/api/"
"""Where the methods are."""
CALL_SECONDS = 10.0
"""How long a call may take, a whole batch too."""
