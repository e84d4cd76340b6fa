"""Accepts connections, reads the first request head, and hands the stream on."""
