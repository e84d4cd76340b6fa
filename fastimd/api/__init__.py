"""The server API: what a backend says, does and asks over HTTP."""
