"""Settings: one frozen struct a section, filled from a TOML file and then from the environment.

A section's file has all that there is to say of its settings: default, limits, checks, and the
words of fastimd.toml and docs/SETTINGS.md, which ``make settings`` writes anew (``render.py``).
Every value is checked on its own, so that all mistakes are reported at once.
"""

from .admin import Admin
from .bind import parse_bind, unix_path
from .cluster_url import is_cluster_url, read_cluster_url
from .config import BUILT_IN, SECTIONS, Config, Setting, settings
from .group import Group
from .group_list import GroupList
from .group_message import GroupMessage
from .hooks import SECRET_PREFIX, Hooks
from .live import Live
from .log import Log
from .login import Login
from .reading import load
from .redis import Redis, default_data_dir
from .reload import FIXED, Changes, adopt
from .room import Room
from .sentinel_url import is_sentinel_url, read_sentinel_url
from .server import Server
from .socket import Socket
from .token import PEM, Token

__all__ = [
    "BUILT_IN",
    "FIXED",
    "PEM",
    "SECRET_PREFIX",
    "SECTIONS",
    "Admin",
    "Changes",
    "Config",
    "Group",
    "GroupList",
    "GroupMessage",
    "Hooks",
    "Live",
    "Log",
    "Login",
    "Redis",
    "Room",
    "Server",
    "Setting",
    "Socket",
    "Token",
    "adopt",
    "default_data_dir",
    "is_cluster_url",
    "is_sentinel_url",
    "load",
    "parse_bind",
    "read_cluster_url",
    "read_sentinel_url",
    "settings",
    "unix_path",
]
