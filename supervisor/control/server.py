"""The control socket: JSON over HTTP/1.1 on a unix socket, for ``rankd status``, ``rankd stop`` and their like.

GET reads (``/status``, ``/events``) and POST asks (``/drain``, ``/groups/NAME/restart``, parameters in the query).
No body is read, so a request is bounded as the health listener's are: in bytes, in time, in connections.

Imports aiohttp, and is therefore imported only after the first workers have been started; ``claim`` has the socket long
before, and who connects meanwhile is answered then.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable, Collection, Mapping
from typing import Any

from aiohttp import web

from supervisor.control.verbs import OF_A_GROUP, OF_THE_DAEMON, Asker, Reply, Verbs
from supervisor.core.health import Snapshot
from supervisor.report.connection import FAREWELL, Connection, Connections, Limits, respond
from supervisor.report.listen import BoundListener
from supervisor.report.look import Look
from supervisor.report.ring import Ring
from supervisor.report.status import status
from supervisor.report.stream import Streams

LIMITS = Limits(connections=128)
STRANGERS = 16
HEARD_FOR = 5.0
_UCRED = struct.Struct("iII")
"""pid, uid, gid of struct ucred (unix(7))."""


class ControlListener:
    """Answers on the control socket until it is stopped."""

    def __init__(
        self,
        listener: BoundListener,
        verbs: Verbs,
        look: Look,
        *,
        allowed: Mapping[int, str],
        about: Mapping[str, str],
        logs: Callable[[Snapshot], Mapping[str, str]],
        ring: Ring,
    ) -> None:
        """``allowed``: uids that may ask, with their names. ``logs``: where each group's ``attempt_<n>`` are."""
        self._listener = listener
        self._verbs = verbs
        self._look = look
        self._allowed = allowed
        self._about = about
        self._logs = logs
        self._ring = ring
        self._streams = Streams(ring)
        self._connections = Connections(LIMITS, lambda _status: None)
        self._web = web.Server(self._answer)
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Let clients in; those who have connected already come first."""
        self._server = await self._listener.serve(lambda: _Door(self._allowed, self._let_in))

    async def stop(self) -> None:
        """Remove the socket and close every connection, those with an answer under way at most a second later."""
        if self._server is not None:
            self._server.close()
        self._listener.close()
        self._streams.end()
        self._web.pre_shutdown()
        await self._web.shutdown(FAREWELL)
        self._connections.abort()
        await asyncio.sleep(0)  # transports say goodbye to their protocols in the loop's next turn

    def _let_in(self) -> Connection:
        return Connection(self._web, self._connections)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        uid = _uid(request.transport)
        asker = Asker(uid, self._allowed[uid])
        if request.path == "/events" and request.method == "GET":
            if self._streams.full:
                return _reply(request, Reply(503, {"error": "too many listen already"}))
            return await self._streams.serve(request)
        return _reply(request, await self._do(request, asker))

    async def _do(self, request: web.BaseRequest, asker: Asker) -> Reply:
        match request.method, request.path.split("/")[1:]:
            case "GET", ["status"]:
                return Reply(200, self._status())
            case "GET", ["plan"]:
                _take_your_time(request)
                return await self._verbs.plan(request.query.get("path", ""), asker)
            case "POST", ["groups", name, "dump"]:
                _take_your_time(request)
                return await self._verbs.dump(name, request.query.get("rank", ""), asker)
            case "POST", ["groups", name, "scale"]:
                _take_your_time(request)
                return await self._verbs.scale(name, request.query.get("workers", ""), asker)
            case "GET", ["groups", name, "hosts"]:
                return await self._verbs.hosts_of(name)
            case "POST", [verb] if verb in OF_THE_DAEMON:
                _take_your_time(request)
                return await self._verbs.do(verb, asker)
            case "POST", ["groups", name, verb] if verb in OF_A_GROUP:
                return self._verbs.do_to(name, verb, request.query, asker)
        return Reply(404, {"error": f"this daemon has no {request.method} {request.path}"})

    def _status(self) -> dict[str, Any]:
        """What ``/status`` of the health listener says, and what is for those alone who may ask here."""
        snapshot = self._look(workers=True)
        return status(snapshot, self._about) | {"seq": self._ring.last, "logs": self._logs(snapshot)}


class _Door(asyncio.Protocol):
    """Whoever may ask is let in; a stranger is told so as soon as he has said anything, and takes nobody's place.

    A stranger who says nothing is put out after ``HEARD_FOR`` seconds, and more than ``STRANGERS`` at a time at once.
    """

    _there = 0

    def __init__(self, allowed: Collection[int], let_in: Callable[[], asyncio.Protocol]) -> None:
        self._allowed = allowed
        self._let_in = let_in
        self._transport: asyncio.Transport | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._uid = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._uid = _uid(transport)
        if self._uid in self._allowed:
            inside = self._let_in()
            transport.set_protocol(inside)
            inside.connection_made(transport)
            return
        _Door._there += 1
        self._transport = transport
        if _Door._there > STRANGERS:
            transport.abort()
        else:
            self._alarm = asyncio.get_running_loop().call_later(HEARD_FOR, transport.abort)

    def data_received(self, _data: bytes) -> None:
        assert self._transport is not None
        why = f"uid {self._uid} may not ask this daemon; [control] allow_users says who may"
        body = json.dumps({"error": why})
        self._transport.write(
            f"HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"Connection: close\r\n\r\n{body}".encode()
        )
        self._transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        _Door._there -= 1
        if self._alarm is not None:
            self._alarm.cancel()


def _take_your_time(request: web.BaseRequest) -> None:
    """The answer takes as long as reading a file does, or looking at workers."""
    assert isinstance(request.protocol, Connection)
    request.protocol.endure(lambda: None)


def _uid(transport: asyncio.BaseTransport) -> int:
    wire = transport.get_extra_info("socket")
    _, uid, _ = _UCRED.unpack(wire.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)


def _reply(request: web.BaseRequest, reply: Reply) -> web.Response:
    body = json.dumps(reply.body, ensure_ascii=False, separators=(",", ":"))
    response = respond(reply.status, body, "application/json")
    if not request.content.is_eof():
        response.force_close()  # no body is read, so nothing can follow it
    return response
