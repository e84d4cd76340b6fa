"""The terminal client: one user's chat in one group, for a person and for scripts.

It is a client like any other: it knows the daemon's wire, not the daemon.
"""
