"""Lines of one turn go out in one piece, in order, and none is left behind."""

from __future__ import annotations

import asyncio

from supervisor.report.together import Together


async def test_lines_of_one_turn_are_written_together() -> None:
    written: list[bytes] = []
    together = Together(written.append, asyncio.get_running_loop().call_soon)
    together.add(b"one\n")
    together.add(b"two\n")
    assert written == []
    await asyncio.sleep(0)
    assert written == [b"one\ntwo\n"]
    together.add(b"three\n")
    await asyncio.sleep(0)
    assert written == [b"one\ntwo\n", b"three\n"]


async def test_what_the_loop_did_not_get_to_is_flushed_once() -> None:
    written: list[bytes] = []
    together = Together(written.append, asyncio.get_running_loop().call_soon)
    together.add(b"last words\n")
    together.flush()
    await asyncio.sleep(0)
    assert written == [b"last words\n"]
