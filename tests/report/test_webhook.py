"""A record as a POST, to a real server on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from supervisor.report.webhook import post


class Server:
    """Answers every request with the bytes it was given; None: not at all."""

    def __init__(self, answer: bytes | None) -> None:
        self.heard = b""
        self.url = ""
        self.done = asyncio.Event()
        self.done.set()
        self._answer = answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.done.clear()
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        self.heard = head + await reader.readexactly(length)
        if self._answer is None:
            await reader.read()
        else:
            writer.write(self._answer)
        writer.close()
        with suppress(ConnectionError):  # the client was done before us
            await writer.wait_closed()
        self.done.set()


@asynccontextmanager
async def server(answer: bytes | None) -> AsyncIterator[Server]:
    serving = Server(answer)
    listening = await asyncio.start_server(serving.serve, "127.0.0.1", 0)
    async with listening:
        serving.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/hook"
        yield serving
        await serving.done.wait()


def status(code: int, *more: str) -> bytes:
    lines = [f"HTTP/1.1 {code} Whatever", "Content-Length: 0", *more, "", ""]
    return "\r\n".join(lines).encode()


async def test_the_record_is_the_body_and_headers_are_ours_and_yours() -> None:
    async with server(status(204)) as serving:
        assert await post(serving.url, b'{"event":"x"}', {"Authorization": "Bearer a"}, 10) == ("", False)
    head, _, body = serving.heard.partition(b"\r\n\r\n")
    assert body == b'{"event":"x"}'
    lines = head.decode().splitlines()
    assert lines[0] == "POST /hook HTTP/1.1"
    assert {"Content-Type: application/json", "User-Agent: rankd", "Authorization: Bearer a"} <= set(lines)


@pytest.mark.parametrize(
    ("code", "again"), [(500, True), (503, True), (429, True), (408, True), (400, False), (404, False), (302, False)]
)
async def test_a_refusal_says_whether_trying_again_is_of_use(code: int, again: bool) -> None:
    async with server(status(code, "Location: /elsewhere")) as serving:
        assert await post(serving.url, b"{}", {}, 10) == (f"answered {code}", again)


async def test_a_server_that_does_not_answer_is_waited_for_so_long_and_no_longer() -> None:
    async with server(None) as serving:
        assert await post(serving.url, b"{}", {}, 0.2) == ("no answer within 0.2 s", True)


async def test_nobody_there_and_nonsense_are_no_exceptions() -> None:
    async with server(b"nonsense\r\n\r\n") as serving:
        words, again = await post(serving.url, b"{}", {}, 10)
        assert (words.startswith("no answer: "), again) == (True, True)
    assert (await post(serving.url, b"{}", {}, 10))[1]
