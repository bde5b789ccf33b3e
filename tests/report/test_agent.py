"""What HAProxy's agent-check is told, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from supervisor.report.agent import MOST, AgentListener, answer
from supervisor.report.listen import bind
from tests.report.client import Client
from tests.report.views import Standing, group


@pytest.fixture
async def standing() -> Standing:
    return Standing(group(size=4))


@pytest.fixture
async def address(standing: Standing) -> AsyncIterator[str]:
    listener = AgentListener(standing)
    (address,) = await listener.start(bind(["127.0.0.1:0"]))
    yield address
    await listener.stop()


def test_it_is_up_with_the_share_of_workers_that_are_ready() -> None:
    standing = Standing(group(size=4))
    assert answer(standing()) == "up ready 100%\n"
    standing.put(group(size=4, ready=False, ready_workers=3, gang=False))
    assert answer(standing()) == "up ready 75%\n"


def test_it_drains_and_only_then_goes_down() -> None:
    standing = Standing()
    standing.stage, standing.why = "draining", "SIGTERM"
    assert answer(standing()) == "drain\n"
    standing.stage = "stopping"
    assert answer(standing()) == "down #stopping: SIGTERM\n"


def test_down_says_why_in_one_short_line_of_ascii() -> None:
    down = answer(Standing(group(ready=False, why="é\n" * 500))())
    assert down.startswith("down #group trainer is running, 0/2 workers ready: ? ?")
    assert down.isascii()
    assert (down.count("\n"), len(down) <= 210) == (1, True)


async def test_whoever_connects_is_told_and_hung_up_on(standing: Standing, address: str) -> None:
    client = await Client.to(address)
    assert await client.reader.read() == b"up ready 100%\n"
    await client.close()
    assert standing.looks == [False], "it does not look at single workers"


async def test_what_a_client_sends_does_not_take_the_answer_back(address: str) -> None:
    client = await Client.to(address)
    client.send(b"agent-send " * 1000)
    assert await client.reader.read() == b"up ready 100%\n"
    await client.close()


async def test_clients_that_stay_are_closed_in_their_order(address: str) -> None:
    clients = [await Client.to(address) for _ in range(MOST + 1)]
    assert await clients[-1].reader.read() == b"up ready 100%\n"
    assert await clients[0].closed() in {b"", b"up ready 100%\n"}
    for client in clients:
        await client.close()


async def test_stop_hangs_up_and_gives_the_address_back() -> None:
    listener = AgentListener(Standing())
    (address,) = await listener.start(bind(["127.0.0.1:0"]))
    client = await Client.to(address)
    await client.reader.readline()
    await listener.stop()
    assert await asyncio.wait_for(client.closed(), 5) == b""
    with pytest.raises(ConnectionRefusedError):
        await Client.to(address)
    await client.close()
