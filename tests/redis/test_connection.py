"""A call of the command connection: sent now, its reply waited for later."""

from __future__ import annotations

import weakref

import pytest
import trio
from redis import exceptions
from trio.testing import wait_all_tasks_blocked

from fastimd.redis.connection import Call


async def test_a_reply_may_come_before_it_is_waited_for() -> None:
    """It is there at once then; no turn of the scheduler goes by."""
    call = Call(trio.current_time())
    call(b"early")
    with trio.CancelScope() as scope:
        scope.cancel()
        assert await call.reply() == b"early"


async def test_a_reply_may_come_while_it_is_waited_for(nursery: trio.Nursery) -> None:
    call = Call(trio.current_time())
    heard: list[object] = []

    async def wait() -> None:
        heard.append(await call.reply())

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    assert not call.is_done
    call(b"late")
    await wait_all_tasks_blocked()
    assert heard == [b"late"]


@pytest.mark.parametrize("is_early", [True, False])
async def test_a_refusal_is_raised(is_early: bool) -> None:
    call = Call(trio.current_time())
    refusal = exceptions.ResponseError("WRONGTYPE")

    async def refuse() -> None:
        await wait_all_tasks_blocked()
        call(refusal)

    async with trio.open_nursery() as nursery:
        if is_early:
            call(refusal)
        else:
            nursery.start_soon(refuse)
        with pytest.raises(exceptions.ResponseError, match="WRONGTYPE"):
            await call.reply()


async def test_only_the_first_reply_counts() -> None:
    """A call that has taken too long has failed, whatever comes then."""
    call = Call(trio.current_time())
    call.give_up(1.5)
    call(b"late")
    with pytest.raises(TimeoutError, match=r"no answer within 1\.5 s"):
        await call.reply()


async def test_who_gave_up_waiting_is_not_woken() -> None:
    call = Call(trio.current_time())
    with trio.move_on_after(0) as scope:
        await call.reply()
    assert scope.cancelled_caught
    assert call.is_done
    call(b"late")
    await wait_all_tasks_blocked()


@pytest.mark.parametrize("is_early", [True, False])
async def test_a_reply_is_not_kept_after_it_was_taken(is_early: bool) -> None:
    """The connection looks after its calls for a while; their replies may be long."""

    class Page(list[bytes]):
        """A reply that can be watched."""

    call = Call(trio.current_time())
    pages = [Page([b"a message"])]
    there = weakref.ref(pages[0])

    def deliver() -> None:
        call(pages.pop())

    if is_early:
        deliver()
    else:
        trio.lowlevel.current_trio_token().run_sync_soon(deliver)
    assert await call.reply() == [b"a message"]
    await wait_all_tasks_blocked()
    assert there() is None
