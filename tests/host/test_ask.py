"""One question over TCP or HTTP: whatever is at the other end, there is an answer in time, and nothing is left open."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.host import ask
from supervisor.host.ask import Answer


class Server:
    """Somebody who listens. ``heard``: all that was sent by each client; ``resets``: how many left something unread."""

    def __init__(self, answer: bytes, *, closes: bool = True) -> None:
        self._answer = answer
        self._closes = closes
        self.heard: list[bytes] = []
        self.resets = 0
        self.port = 0
        self._serving: set[asyncio.Task[None]] = set()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heard.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self._answer)
            await writer.drain()
            if not self._closes:
                await reader.read()
        except asyncio.IncompleteReadError:
            pass  # it was not there for a word
        except ConnectionError:
            self.resets += 1
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def left(self) -> None:
        """Every client so far has been served."""
        async with asyncio.timeout(10):
            await asyncio.gather(*self._serving)

    @asynccontextmanager
    async def listening(self, host: str = "127.0.0.1") -> AsyncIterator[Server]:
        server = await asyncio.start_server(self._connected, host, 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await self.left()
            await server.wait_closed()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def asked(answer: bytes, *, within: float = 10.0, closes: bool = True) -> Answer:
    """The answer that a server with these bytes gives."""

    async def main() -> Answer:
        async with Server(answer, closes=closes).listening() as server:
            return await ask.http(f"http://127.0.0.1:{server.port}/", within)

    before = open_files()
    found = asyncio.run(main())
    assert open_files() == before
    return found


@pytest.mark.parametrize(
    ("answer", "passed", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nok", True, "status 200 OK"),
        (b"HTTP/1.0 204\r\n\r\n", True, "status 204"),
        (b"HTTP/1.1 302 Found\nLocation: /\n\n", True, "status 302 Found"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", False, "status 404 Not Found"),
        (b"HTTP/1.1 503 " + b"x" * 1000 + b"\r\n\r\n", False, "status 503 " + "x" * 80),
        (b"HTTP/1.1 199 No\r\n\r\n", False, "status 199 No"),
        (b"HTTP/2 200\r\n\r\n", False, "the answer is not HTTP"),
        (b"HTTP/1.1 200 \x1b[2J\r\n", False, "the answer is not HTTP"),
        (b"SSH-2.0-OpenSSH\r\n", False, "the answer is not HTTP"),
        (b"x" * 100_000, False, "the answer is not HTTP"),
        (b"HTTP/1.1 200", False, "the answer is not HTTP"),
    ],
)
def test_a_status_from_200_to_399_is_well_and_nothing_else_is(answer: bytes, passed: bool, reason: str) -> None:
    assert asked(answer) == Answer(passed, reason)


def test_who_closes_without_a_word_has_not_answered() -> None:
    assert asked(b"") == Answer(False, "the connection was closed without an answer")


def test_a_status_counts_even_if_its_body_does_not_end_in_time() -> None:
    assert asked(b"HTTP/1.1 200 OK\r\n\r\n", within=0.2, closes=False) == Answer(True, "status 200 OK")


def test_who_takes_the_connection_and_says_nothing_has_not_answered_in_time() -> None:
    assert asked(b"", within=0.2, closes=False) == Answer(False, "no answer within 0.2 s")


@given(st.binary(max_size=200))
def test_whatever_is_answered_it_is_judged(answer: bytes) -> None:
    assert asked(answer or b"x").passed in (True, False)


def test_the_request_is_one_that_every_server_understands_and_its_connection_is_not_reset() -> None:
    async def main() -> None:
        body = b"x" * 30_000
        async with Server(b"HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n" + body).listening() as server:
            assert (await ask.http(f"http://localhost:{server.port}/health?deep=1", 10.0)).passed
            await server.left()
            assert server.resets == 0
            lines = server.heard[0].decode("ascii").split("\r\n")
            assert lines[:2] == ["GET /health?deep=1 HTTP/1.1", f"Host: localhost:{server.port}"]
            assert "Connection: close" in lines

    asyncio.run(main())


def test_a_body_without_an_end_is_not_read_for_ever() -> None:
    async def main() -> None:
        server = Server(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (64 << 20))
        async with server.listening():
            assert (await ask.http(f"http://127.0.0.1:{server.port}/", 10.0)).passed
            await server.left()
            assert server.resets == 1

    asyncio.run(main())


def test_localhost_is_either_of_its_addresses() -> None:
    async def main() -> None:
        for host in ("127.0.0.1", "::1"):
            async with Server(b"HTTP/1.1 200 OK\r\n\r\n").listening(host) as server:
                assert (await ask.http(f"http://localhost:{server.port}/", 10.0)).passed, host
                assert (await ask.tcp(f"localhost:{server.port}", 10.0)).passed, host

    asyncio.run(main())


def test_a_connection_is_an_answer_and_a_refusal_is_none() -> None:
    async def main() -> None:
        async with Server(b"").listening() as server:
            address = f"127.0.0.1:{server.port}"
            assert await ask.tcp(address, 10.0) == Answer(True)
        assert await ask.tcp(address, 10.0) == Answer(False, "connection refused")
        assert await ask.http(f"http://{address}", 10.0) == Answer(False, "connection refused")

    asyncio.run(main())


def test_a_full_backlog_is_no_answer_in_time() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as busy:
            port = busy.getsockname()[1]
            waiting = [socket.socket() for _ in range(3)]
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", port))
            assert await ask.tcp(f"127.0.0.1:{port}", 0.2) == Answer(False, "no answer within 0.2 s")
            for one in waiting:
                one.close()

    asyncio.run(main())


def test_when_it_was_us_who_did_not_run_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a SIGSTOP: the deadline is long over when the loop turns again, and the worker may have answered."""
    monkeypatch.setattr(ask, "LATE", -1.0)
    assert asked(b"", within=0.1, closes=False).passed is None


def test_when_we_are_short_of_descriptors_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(asyncio, "open_connection", refused)
    assert asyncio.run(ask.tcp("127.0.0.1:1", 1.0)) == Answer(None)


def test_a_connection_with_itself_is_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that is free and from which the kernel lets us connect to it, by chance: here by choice."""
    connect = asyncio.open_connection

    async def with_itself(host: str, port: int, **options: int) -> object:
        return await connect(host, port, local_addr=(host, port), **options)

    monkeypatch.setattr(asyncio, "open_connection", with_itself)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert asyncio.run(ask.tcp(f"127.0.0.1:{port}", 5.0)) == Answer(False, "connection refused")
