"""fastimd: a group-chat daemon. Clients talk WebSocket, Redis is the only state."""

from importlib.metadata import version

__version__ = version("fastimd")
