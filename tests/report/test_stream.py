"""Records as server-sent events, over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from supervisor.core.events import Event
from supervisor.report import stream
from supervisor.report.connection import Limits
from tests.report.client import Client
from tests.report.conftest import Serve, Served


class Listener:
    """A client of ``/events``. HTTP/1.0, so that the body comes as it is."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.head = ""

    @staticmethod
    async def to(served: Served, query: str = "", last: str | None = None) -> Listener:
        listener = Listener(await served.client())
        more = "" if last is None else f"Last-Event-ID: {last}\r\n"
        listener.client.send(f"GET /events{query} HTTP/1.0\r\n{more}\r\n".encode())
        listener.head = (await listener.client.reader.readuntil(b"\r\n\r\n")).decode()
        assert await listener.block() == {"retry": "2000"}
        return listener

    async def block(self) -> dict[str, str]:
        """The next event's fields."""
        text = (await asyncio.wait_for(self.client.reader.readuntil(b"\n\n"), 10)).decode()
        return dict(line.split(": ", 1) for line in text.strip().splitlines())

    async def data(self) -> Any:
        return json.loads((await self.block())["data"])

    async def numbers(self, count: int) -> list[int]:
        return [(await self.data())["seq"] for _ in range(count)]


def add(served: Served, *numbers: int, message: str = "") -> None:
    for number in numbers:
        served.ring.add(number, Event("group.ready", "info", 0.0, message))


async def no_more_streams_than(number: int, served: Served) -> None:
    """Each answer from the same loop is a turn in which a stream may end."""
    client = await served.client()
    async with asyncio.timeout(10):
        while served.open_streams > number:
            assert (await client.get("/livez")).status == 200


async def test_a_listener_hears_what_happens_from_now_on(serve: Serve) -> None:
    served = await serve()
    add(served, 1, 2)
    listener = await Listener.to(served)
    assert "\r\nContent-Type: text/event-stream\r\n" in listener.head
    assert "\r\nCache-Control: no-store\r\n" in listener.head
    add(served, 3)
    assert await listener.block() == {"id": f"{served.ring.epoch}-3", "data": '{"seq":3,"event":"group.ready"}'}
    add(served, 4, 5)
    assert await listener.numbers(2) == [4, 5]
    assert served.counts.http_requests == {("/events", 200): 1}


async def test_a_listener_that_comes_back_hears_what_it_has_missed(serve: Serve) -> None:
    served = await serve()
    add(served, 1, 2, 3, 4)
    listener = await Listener.to(served, last=f"{served.ring.epoch}-2")
    add(served, 5)
    assert await listener.numbers(3) == [3, 4, 5]
    assert await (await Listener.to(served, "?since=3")).numbers(2) == [4, 5]
    assert await (await Listener.to(served, "?since=0")).numbers(5) == [1, 2, 3, 4, 5]


async def test_where_records_are_lost_there_is_a_marker_that_says_how_many(serve: Serve) -> None:
    served = await serve(size=4)
    add(served, *range(1, 11))
    listener = await Listener.to(served, last="2")
    assert await listener.block() == {"event": "lost", "data": '{"lost": 4, "next": 7}'}
    assert await listener.numbers(4) == [7, 8, 9, 10]


@pytest.mark.parametrize("last", ["00000000-1", "99", "nonsense", "-1", "1" * 500])
async def test_who_was_with_another_daemon_is_told_and_hears_all_there_is(serve: Serve, last: str) -> None:
    served = await serve()
    add(served, 1, 2)
    listener = await Listener.to(served, last=last)
    assert await listener.block() == {"event": "lost", "data": '{"lost": null, "next": 1}'}
    assert await listener.numbers(2) == [1, 2]


async def test_a_listener_that_takes_nothing_is_cut_off_and_keeps_nobody_waiting(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "PATIENCE", 0.2)
    served = await serve(size=4096)
    slow, quick = await Listener.to(served), await Listener.to(served)
    slow.client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    heard = 0
    served.ring._write = lambda _event, seq: b'{"seq":%d,"much":"%s"}' % (seq, b"x" * 30_000)
    for seq in range(1, 401):
        add(served, seq)
        heard += (await quick.numbers(1)) == [seq]
    assert heard == 400
    await no_more_streams_than(1, served)
    assert (await (await served.client()).get("/livez")).status == 200
    slow.client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    await slow.client.closed()


async def test_a_listener_that_goes_is_forgotten_at_once(serve: Serve) -> None:
    served = await serve()
    listener = await Listener.to(served)
    assert served.open_streams == 1
    await listener.client.close()
    await no_more_streams_than(0, served)


async def test_a_stream_outlives_the_time_that_a_request_may_take_and_shows_that_it_lives(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SIGN_OF_LIFE", 0.1)
    served = await serve(limits=Limits(request_within=0.05))
    listener = await Listener.to(served)
    for _ in range(3):
        assert await listener.client.reader.readuntil(b"\n\n") == b":\n\n"
    add(served, 1)
    while (block := await listener.client.reader.readuntil(b"\n\n")) == b":\n\n":
        pass
    assert b'{"seq":1,' in block


async def test_there_are_so_many_streams_and_no_more(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MOST", 2)
    served = await serve()
    listeners = [await Listener.to(served) for _ in range(2)]
    client = await served.client()
    assert (await client.get("/events")).status == 503
    assert (await client.get("/livez")).status == 200
    add(served, 1)
    assert [await one.numbers(1) for one in listeners] == [[1], [1]]


async def test_head_and_options_begin_no_stream(serve: Serve) -> None:
    served = await serve()
    client = await served.client()
    head = await client.get("/events", method="HEAD")
    assert (head.status, head.headers["content-type"]) == (200, "text/event-stream")
    assert (await client.get("/events", method="OPTIONS")).status == 204
    assert (await client.get("/events", method="POST")).status == 405
    assert served.open_streams == 0


async def test_streams_end_whole_when_the_listener_stops(serve: Serve) -> None:
    served = await serve()
    listener = await Listener.to(served)
    add(served, 1)
    async with asyncio.timeout(0.9):  # the farewell to those who have not got their answer takes longer
        await served.stop()
    assert b'{"seq":1,' in await listener.client.closed()
