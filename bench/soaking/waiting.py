"""Waiting for what other processes do."""

from __future__ import annotations

from collections.abc import Callable

import trio

END_SECONDS = 20.0


async def wait_until(
    condition: Callable[[], bool], what: str, seconds: float = END_SECONDS
) -> None:
    """Look again and again, beside the people who talk, until something holds.

    Raises:
        TimeoutError: it does not come to hold.
    """
    end = trio.current_time() + seconds
    while not await trio.to_thread.run_sync(condition):
        if trio.current_time() > end:
            raise TimeoutError(f"no {what} within {seconds:g} s")
        await trio.sleep(0.05)
