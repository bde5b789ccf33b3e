"""What one client may cost: limits of size, time and number, over real sockets."""

from __future__ import annotations

import asyncio
import socket

from supervisor import clock
from supervisor.report.connection import Limits
from tests.report.client import Client
from tests.report.conftest import Serve
from tests.report.views import Standing, group

REQUEST = b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n"


async def test_a_head_that_is_too_long_is_431_and_closed(serve: Serve) -> None:
    served = await serve()
    for head in (
        b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: here\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: here\r\nX: " + b"x" * 9000 + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: here\r\n" + b"X: 1234567890\r\n" * 1000 + b"\r\n",
    ):
        client = await served.client()
        client.send(head)
        assert (await client.reply()).status == 431
        assert await client.closed() == b""
    assert served.counts.http_requests == {("other", 431): 3}


async def test_a_head_that_is_too_long_is_431_even_in_small_pieces(serve: Serve) -> None:
    client = await (await serve()).client()
    client.send(b"GET /livez HTTP/1.1\r\nHost: here\r\n")
    for _ in range(100):
        client.send(b"X: 1234567890" * 10 + b"\r\n")
        await client.writer.drain()
    assert (await client.reply()).status == 431


async def test_a_head_just_within_the_limit_is_answered(serve: Serve) -> None:
    client = await (await serve()).client()
    start, end = b"GET /livez HTTP/1.1\r\nHost: here\r\nX: ", b"\r\n\r\n"
    whole = start + b"x" * (8192 - len(start) - len(end)) + end
    client.send(whole)
    assert (await client.reply()).status == 200
    client.send(whole + REQUEST)
    assert (await client.reply()).status == 200
    assert (await client.reply()).status == 200


async def test_nonsense_is_400_and_closed_and_tells_nothing_of_us(serve: Serve) -> None:
    served = await serve()
    for nonsense in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ):
        client = await served.client()
        client.send(nonsense)
        reply = await client.reply()
        assert (reply.status, reply.text) == (400, "bad request\n"), nonsense
        assert reply.headers["server"] == "rankd"
        assert await client.closed() == b""


async def test_a_body_is_not_waited_for(serve: Serve) -> None:
    served = await serve()
    client = await served.client()
    client.send(b"POST /livez HTTP/1.1\r\nHost: here\r\nContent-Length: 1000000\r\n\r\nonly this")
    reply = await client.reply()
    assert (reply.status, reply.headers["connection"]) == (405, "close")
    assert await client.closed() == b""


async def test_a_long_body_is_answered_once(serve: Serve) -> None:
    served = await serve()
    client = await served.client()
    client.send(b"POST /livez HTTP/1.1\r\nHost: here\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000)
    assert (await client.reply()).status == 405
    assert await client.closed() == b""
    assert served.counts.http_requests == {("/livez", 405): 1}


async def test_a_head_that_does_not_come_to_an_end_is_cut_off_in_time(serve: Serve) -> None:
    served = await serve(limits=Limits(request_within=0.2))
    client = await served.client()
    begun_at = clock.now()
    client.send(b"GET /livez HTTP/1.1\r\n")

    async def drip() -> None:
        while not client.reader.at_eof():
            client.send(b"X")
            await asyncio.sleep(0.02)

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        dripping = tasks.create_task(drip())
        assert (await client.reply()).status == 408
        assert 0.15 < clock.now() - begun_at < 1.0
        assert await client.closed() == b""
        dripping.cancel()
    assert served.counts.http_requests == {("other", 408): 1}


async def test_a_client_that_says_nothing_is_closed_without_a_word(serve: Serve) -> None:
    client = await (await serve(limits=Limits(request_within=0.1))).client()
    async with asyncio.timeout(2):
        assert await client.closed() == b""


async def test_an_idle_connection_may_wait_longer_than_a_request_and_is_closed_then(serve: Serve) -> None:
    client = await (await serve(limits=Limits(request_within=0.1, idle_for=0.4))).client()
    assert (await client.get("/livez")).status == 200
    begun_at = clock.now()
    async with asyncio.timeout(2):
        assert await client.closed() == b""
    assert clock.now() - begun_at > 0.3


async def test_a_client_that_does_not_read_its_answer_is_cut_off(serve: Serve) -> None:
    served = await serve(Standing(group(size=3000)), limits=Limits(request_within=0.3))
    begun_at = clock.now()
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        loop = asyncio.get_running_loop()
        host, port = served.addresses[0].split(":")
        await loop.sock_connect(deaf, (host, int(port)))
        await loop.sock_sendall(deaf, b"GET /status HTTP/1.1\r\nHost: here\r\n\r\n" * 30)
        async with asyncio.timeout(5):
            await _until_reset(deaf)
    assert clock.now() - begun_at > 0.3


async def test_one_connection_too_many_closes_the_one_that_has_been_idle_longest(serve: Serve) -> None:
    served = await serve(limits=Limits(connections=4))
    busy, first, second, third = [await served.client() for _ in range(4)]
    for client in (first, second, third):
        assert (await client.get("/livez")).status == 200
    assert (await first.get("/livez")).status == 200, "now second is the one that has been idle longest"
    busy.send(REQUEST[:10])
    await _taken_in(second)
    newest = await served.client()
    assert (await newest.get("/livez")).status == 200
    assert await second.closed() == b""
    for client in (first, third, newest):
        assert (await client.get("/livez")).status == 200
    busy.send(REQUEST[10:])
    assert (await busy.reply()).status == 200


async def test_when_none_is_idle_the_oldest_gives_way_so_that_a_probe_gets_in(serve: Serve) -> None:
    served = await serve(limits=Limits(connections=3))
    slow = [await served.client() for _ in range(3)]
    for client in slow:
        client.send(REQUEST[:10])
        await _taken_in(client)
    probe = await served.client()
    assert (await probe.get("/livez")).status == 200
    assert await slow[0].closed() == b""
    slow[1].send(REQUEST[10:])
    assert (await slow[1].reply()).status == 200


async def test_a_probe_gets_in_past_a_crowd_of_half_open_connections(serve: Serve) -> None:
    served = await serve(limits=Limits(connections=64))
    for _ in range(100):
        (await served.client()).send(REQUEST[:10])
    probe = await served.client()
    async with asyncio.timeout(5):
        assert (await probe.get("/livez")).status == 200


async def _taken_in(client: Client) -> None:
    """Until the listener, in this same loop, has seen what the client has sent."""
    await client.writer.drain()
    for _ in range(5):
        await asyncio.sleep(0)


async def _until_reset(deaf: socket.socket) -> None:
    """Until the other side has reset the connection, seen without reading from it (tcp(7), TCP_INFO: tcpi_state)."""
    established = 1
    while deaf.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == established:  # noqa: ASYNC110 -- no event for it
        await asyncio.sleep(0.01)
