"""The live wire: Centrifugo's client protocol, on which one socket is in many groups."""
