"""Several processes on one address: a parent that looks after them, and daemons as its workers."""
