"""The routes of groups: their history, and the recall of a message."""

from __future__ import annotations

from quart import Response, request
from quart_trio import QuartTrio

from ..base import texts
from ..base.codec import check_id
from ..groups.store import Store
from .answers import answer, answer_history
from .guard import Guard
from .parameters import read_group, read_integer, read_text


def add_groups(app: QuartTrio, store: Store, guard: Guard) -> None:
    """Add the routes under ``/group/``."""

    @app.post("/group/listMessage")
    @guard.allowed("history")
    async def list_message(_user: str) -> Response:
        given = await request.values
        if "startPage" not in given and "ts" in given:
            return await _before(store)
        group = await read_group()
        start, stop = await read_integer("startPage"), await read_integer("endPage")
        return answer_history(await store.history.range(group, start, stop))

    @app.post("/group/listOldMessage")
    @guard.allowed("history")
    async def list_old_message(_user: str) -> Response:
        return await _before(store)

    @app.post("/group/delMessage")
    @guard.allowed("recall")
    async def delete_message(user: str) -> Response:
        group, ts = await read_group(), await read_integer("ts", least=0)
        match await store.messages.recall(group, user, ts):
            case "done":
                return answer(200, texts.RECALLED)
            case "old":
                return answer(100, texts.TOO_OLD)
            case _:
                return answer(100, texts.NO_SUCH_MESSAGE)


async def _before(store: Store) -> Response:
    group = await read_group()
    user = await _read_author()
    ts, count = await read_integer("ts", least=0), await read_integer("count", least=0)
    return answer_history(await store.history.before(group, user, ts, count))


async def _read_author() -> str:
    """The parameter ``userId`` of a message, which is empty where the server itself has spoken."""
    if (await request.values).get("userId") == "":
        return ""
    return check_id("userId", await read_text("userId"))
