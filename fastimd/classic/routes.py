"""Where the sockets of this dialect are: the paths of Fast-IM."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from ..base.codec import check_id
from ..base.errors import BadParameter
from ..door.head import Refused


@dataclass(frozen=True, slots=True)
class Route:
    """Where a socket goes: a chat socket has a ``group``, a group-list socket has none."""

    group: str | None
    user: str
    token: str

    @property
    def kind(self) -> str:
        """``chat`` or ``list``."""
        return "list" if self.group is None else "chat"


def find_route(target: bytes) -> Route:
    """Read ``/group/chat/{groupId}/{userId}/{token}`` or ``/group/list/{userId}/{token}``.

    Raises:
        Refused: it is another path, or an id in it is none.
    """
    path = target.partition(b"?")[0]
    try:
        match _segments(path):
            case ["", "group", "chat", group, user, token] if token:
                return Route(check_id("groupId", group), check_id("userId", user), token)
            case ["", "group", "list", user, token] if token:
                return Route(None, check_id("userId", user), token)
    except UnicodeDecodeError:
        raise Refused(400, "the path is not UTF-8") from None
    except BadParameter as exc:
        raise Refused(400, str(exc)) from None
    raise Refused(404, "no socket here: /group/chat/{groupId}/{userId}/{token}")


def _segments(path: bytes) -> list[str]:
    if b"%" not in path:  # as nearly always
        return path.decode().split("/")
    return [unquote_to_bytes(segment).decode() for segment in path.split(b"/")]
