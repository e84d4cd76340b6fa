"""The load generator: what ``fastimd bench`` runs, and what ``bench/`` compares servers with.

Theory of operation: each process drives its sockets from one epoll loop. All members of a group get
the same bytes, so a process parses and checks what a group says once, in a ``Transcript``, and
compares what every other member gets with that, byte by byte. So each frame is checked for a
fraction of what it costs a server to send it. Messages carry their sender, their number and the
moment they were sent, on the machine's monotonic clock, so any process can tell what is missing and
how long each took.
"""
