"""What is done by a thread for each place, and what of it is waited for."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing
from functools import partial

import pytest

from supervisor.host.apart import Apart


def refuse() -> int:
    raise PermissionError(13, "Permission denied")


async def test_what_a_job_gives_or_raises_is_told_in_its_order() -> None:
    told: list[object] = []
    over = asyncio.Event()
    with closing(Apart()) as apart:
        apart.do("here", partial(int, "1"), told.append)
        apart.do("here", refuse, told.append)
        apart.do("here", threading.get_ident, told.append)
        apart.do("here", int, lambda _: over.set())
        await asyncio.wait_for(over.wait(), 20)
    one, error, thread = told
    assert one == 1
    assert isinstance(error, PermissionError)
    assert thread != threading.get_ident()


async def test_a_place_that_hangs_holds_up_no_other() -> None:
    answers = threading.Event()
    with closing(Apart()) as apart:
        apart.do("there", partial(answers.wait, 20), lambda _: None)
        assert await apart.ask("here", partial(int, "7"), lambda _: None, 20) == 7
        answers.set()


async def test_an_answer_is_waited_for_and_no_longer_than_so_long() -> None:
    answers = threading.Event()
    late: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    with closing(Apart()) as apart:
        with pytest.raises(PermissionError):
            await apart.ask("here", refuse, lambda _: None, 20)
        with pytest.raises(OSError, match="the disk does not answer"):
            await apart.ask("here", partial(answers.wait, 20), late.set_result, 0.01)
        answers.set()
        assert await asyncio.wait_for(late, 20)


async def test_a_late_refusal_is_nobodys_business() -> None:
    answers = threading.Event()

    def refuse_late() -> int:
        answers.wait(20)
        return refuse()

    with closing(Apart()) as apart:
        with pytest.raises(OSError, match="the disk does not answer"):
            await apart.ask("here", refuse_late, lambda _: None, 0.01)
        answers.set()
        assert await apart.ask("here", partial(int, "7"), lambda _: None, 20) == 7


async def test_at_its_end_all_that_was_asked_for_is_done() -> None:
    done: list[int] = []
    apart = Apart()
    for number in range(100):
        apart.do("here", partial(done.append, number), lambda _: None)
    apart.close()
    assert done == list(range(100))
