"""HAProxy's agent-check: whoever connects is told one line and is hung up on (HAProxy's configuration manual, 5.2).

Light on purpose: no HTTP, nothing is read, and a client costs a socket for a second at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from supervisor.core import health
from supervisor.core.health import Snapshot
from supervisor.report.listen import BoundListener
from supervisor.report.look import Look
from supervisor.report.wire import say_no_more

FAREWELL = 1.0
"""Seconds that a client has to take its line and to close."""

MOST = 64
"""Connections at a time; the oldest goes first."""


def answer(snapshot: Snapshot) -> str:
    """The line. ``up`` always says ``ready`` as well: HAProxy keeps ``drain`` until it hears that (as it would keep
    an operator's own drain, which this therefore ends). ``#`` begins the reason, which HAProxy shows."""
    if snapshot.stage == "draining":
        return "drain\n"
    weight = health.weight(snapshot)
    if weight:
        return f"up ready {weight}%\n"
    reasons = "; ".join(health.ready(snapshot).reasons).replace("\n", " ")
    return f"down #{reasons.encode('ascii', 'replace').decode()[:200]}\n"


class AgentListener:
    """Answers on the listeners it is given, until it is stopped."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._servers: list[asyncio.Server] = []
        self._listeners: list[BoundListener] = []
        self._open: dict[_Client, None] = {}

    async def start(self, listeners: Sequence[BoundListener]) -> list[str]:
        """Let clients in; returns the addresses as one can connect to them. Takes the listeners over, to close them.

        Raises ``AddressUnavailable`` if somebody else got hold of an address after all; ``stop`` is due then as well.
        """
        self._listeners = list(listeners)
        for listener in listeners:
            listener.listen()
        addresses = [listener.name for listener in listeners]
        for listener in listeners:
            self._servers.append(await listener.serve(lambda: _Client(self._say, self._open)))
        return addresses

    async def stop(self) -> None:
        """Give the addresses back and hang up on everybody."""
        for server in self._servers:
            server.close()
        for listener in self._listeners:
            listener.close()
        for client in list(self._open):
            client.abort()
        await asyncio.sleep(0)  # transports say goodbye to their protocols in the loop's next turn

    def _say(self) -> bytes:
        return answer(self._look(workers=False)).encode()


class _Client(asyncio.Protocol):
    """One connection: a line, then the end of what we have to say; what it says itself is not looked at."""

    def __init__(self, say: Callable[[], bytes], among: dict[_Client, None]) -> None:
        self._say = say
        self._among = among

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._wire = transport
        self._deadline = asyncio.get_running_loop().call_later(FAREWELL, transport.abort)
        self._among[self] = None
        if len(self._among) > MOST:
            next(iter(self._among)).abort()
        transport.write(self._say())
        # Not closed yet: over bytes that the client has sent (agent-send) that would take our line back (RST).
        say_no_more(transport)

    def connection_lost(self, _exc: BaseException | None) -> None:
        self._deadline.cancel()
        self._among.pop(self, None)

    def abort(self) -> None:
        """Close now."""
        self._among.pop(self, None)
        self._wire.abort()
