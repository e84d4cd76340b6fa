"""The routes of users: logging in, joining and leaving groups, and which ones a user is in."""

from __future__ import annotations

from quart import Response
from quart_trio import QuartTrio

from ..base import texts
from ..base.codec import check_id
from ..base.errors import Refused, Restrained
from ..groups.moderation.judge import Judge
from ..groups.store import Store
from ..hooks.runner import HookRunner
from .answers import answer
from .guard import Guard
from .parameters import read_group, read_text


def add_users(app: QuartTrio, store: Store, guard: Guard, judge: Judge, hooks: HookRunner) -> None:
    """Add the routes under ``/user/``."""

    @app.post("/user/login")
    async def login() -> Response:
        user = check_id("userId", await read_text("userId"))
        try:
            user_info = await hooks.login(user, await read_text("password"))
        except Refused as refused:
            return answer(100, str(refused) or texts.LOGIN_FAILED)
        return answer(200, await store.logins.log_in(user), user_info)

    @app.post("/user/joinGroup")
    @guard.allowed("join")
    async def join_group(user: str) -> Response:
        group = await read_group()
        match await store.members.join(group, user):
            case "joined":
                try:
                    await judge.check_joined(group, user)
                except Restrained:
                    await store.members.leave(group, user)
                    raise
                return answer(200, texts.DONE)
            case "full":
                return answer(100, texts.TOO_MANY_GROUPS)
            case _:
                return answer(100, texts.ALREADY_MEMBER)

    @app.post("/user/leaveGroup")
    @guard.allowed("leave")
    async def leave_group(user: str) -> Response:
        if await store.members.leave(await read_group(), user):
            return answer(200, texts.DONE)
        return answer(100, texts.NOT_A_MEMBER)

    @app.post("/user/listGroup")
    @guard.allowed("groups")
    async def list_group(user: str) -> Response:
        return answer(200, texts.DONE, await store.members.groups_of(user))
