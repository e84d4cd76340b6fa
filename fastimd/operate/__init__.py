"""The operator's commands: they speak to a running daemon over its admin address.

``arguments`` says what people type, ``commands`` does it, ``client`` asks the daemon, ``screen``
shows what it said.
"""
