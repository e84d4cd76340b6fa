"""The running daemon: what is started in which order, how it drains, what it takes anew."""
