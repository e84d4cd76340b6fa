"""The life of a socket, whatever it speaks: handshake, frames, outbox, keep-alive, pace."""
