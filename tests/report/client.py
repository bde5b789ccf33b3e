"""A client that says exactly what it is told to say, byte by byte."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reply:
    """``headers`` by lower-case name."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @staticmethod
    async def to(address: str) -> Client:
        if address.startswith("unix:"):
            return Client(*await asyncio.open_unix_connection(address.removeprefix("unix:")))
        host, port = address.rsplit(":", 1)
        return Client(*await asyncio.open_connection(host.strip("[]"), int(port)))

    def send(self, raw: bytes) -> None:
        self.writer.write(raw)

    async def reply(self, *, head: bool = False) -> Reply:
        """The next response; ``head`` when there is none but a head."""
        raw = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").rstrip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        status = int(first.split()[1])
        length = 0 if head or status == 204 else int(headers["content-length"])
        return Reply(status, headers, await self.reader.readexactly(length))

    async def get(self, path: str, *, method: str = "GET", **headers: str) -> Reply:
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.send(f"{method} {path} HTTP/1.1\r\nHost: here\r\n{more}\r\n".encode())
        return await self.reply(head=method == "HEAD")

    async def closed(self) -> bytes:
        """Wait until the other side closes; what it still said."""
        try:
            return await self.reader.read()
        except ConnectionResetError:
            return b""

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            return  # closed from the other side, which is as good
