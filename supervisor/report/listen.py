"""The health listener's sockets: claimed before any worker starts, served later by ``http``.

Light on purpose: a taken port must be known at once, long before the HTTP library is imported.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from supervisor.errors import AddressUnavailable

BACKLOG = 4096
"""Connections that the kernel keeps for us while we are busy, as systemd's sockets do. Beyond it a client's request to
connect is dropped, and sent again only a second later, which is as long as many a balancer waits."""

AT_ONCE = 64
"""Connections that are taken on before anything else has its turn again."""

LONGEST_PATH = 107
"""Bytes of a unix socket's path (unix(7))."""

UNIX_MODE = 0o660
"""A load balancer of the same group may connect; others may not."""


@dataclass(frozen=True, slots=True)
class Address:
    """Either ``host`` (empty: every address of this machine) and ``port`` (0: any free one), or a unix ``path``."""

    host: str = ""
    port: int = 0
    path: str = ""


def parse_address(text: str) -> Address:
    """``host:port``, ``[IPv6]:port``, ``:port`` or ``unix:/path``; raises ``ValueError`` that says what is wrong."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError("a unix socket needs an absolute path: unix:/run/rankd/health.sock")
        return Address(path=path)
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("expected host:port with a port from 0 to 65535, or unix:/path")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"an IPv6 address is written in brackets: [{host}]:{port}")
    return Address(host, int(port))


@dataclass(slots=True)
class BoundListener:
    """A socket that has its address. ``made`` names the file of a unix socket that we made, to be removed again."""

    socket: socket.socket
    made: str = ""
    _file: tuple[int, int] = (0, 0)

    @property
    def name(self) -> str:
        """The address as one can connect to it: ``127.0.0.1:45123``, ``[::1]:8080``, ``unix:/run/rankd/h.sock``."""
        at = self.socket.getsockname()
        if self.socket.family == socket.AF_UNIX:
            return "unix:" + (os.fsdecode(at) if isinstance(at, str) else "@" + os.fsdecode(at[1:]))
        host, port = at[:2]
        return f"[{host}]:{port}" if self.socket.family == socket.AF_INET6 else f"{host}:{port}"

    def listen(self) -> None:
        """Let clients in. Raises ``AddressUnavailable`` if somebody else got there first."""
        try:
            if self.socket.family != socket.AF_UNIX:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.listen(BACKLOG)
        except OSError as error:
            raise _unavailable(self.name, error) from error

    async def serve(self, connection: Callable[[], asyncio.BaseProtocol]) -> asyncio.Server:
        """Answer those who have been let in, and all who come: ``connection`` is made for each."""
        server = await asyncio.get_running_loop().create_server(connection, sock=self.socket, backlog=AT_ONCE)
        self.socket.listen(BACKLOG)  # which asyncio has just made as small as what it takes on at once
        return server

    def close(self) -> None:
        """Give the address back; the file of a unix socket goes only if it is still the one we made."""
        self.socket.close()
        if self.made:
            with suppress(FileNotFoundError):
                if _identity(self.made) == self._file:
                    os.unlink(self.made)


def bind(listen: Sequence[str]) -> list[BoundListener]:
    """Claim every address: all of them or none.

    Raises ``AddressUnavailable`` with the address in its message: taken, not of this machine, not permitted, unknown
    name or malformed. TCP sockets are bound and not yet listening (clients are refused, not kept waiting, until
    ``BoundListener.listen``); unix sockets listen at once.
    """
    bound: list[BoundListener] = []
    try:
        for text in listen:
            try:
                address = parse_address(text)
                bound += [bind_unix(address.path)] if address.path else _bind_host(address)
            except (OSError, ValueError) as error:
                raise _unavailable(text, error) from error
    except AddressUnavailable:
        for listener in bound:
            listener.close()
        raise
    return bound


def adopt(sockets: Iterable[socket.socket]) -> list[BoundListener]:
    """Listeners from sockets that systemd has made (sd_listen_fds(3)); a wrong kind raises ``AddressUnavailable``."""
    adopted = []
    for passed in sockets:
        listener = BoundListener(passed)
        if passed.type != socket.SOCK_STREAM or not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise AddressUnavailable(f"health listener: {listener.name}: not a listening stream socket")
        adopted.append(listener)
    return adopted


def _bind_host(address: Address) -> list[BoundListener]:
    found = socket.getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )  # fmt: skip
    bound: list[BoundListener] = []
    absent: OSError | None = None
    for family, kind, protocol, _, place in dict.fromkeys(found):
        try:
            bound.append(BoundListener(_bind_tcp(family, kind, protocol, place)))
        except OSError as error:
            # A name such as localhost may have an IPv6 address on a machine that has no IPv6.
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                absent = error
                continue
            for listener in bound:
                listener.close()
            raise
    if not bound and absent is not None:
        raise absent
    return bound


def _bind_tcp(family: int, kind: int, protocol: int, place: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(place)
        # With the option on, a second daemon could bind the same port for as long as nobody listens (socket(7)); off,
        # listen(2) would be refused while old connections linger in TIME-WAIT, so listen() turns it on again.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError:
        sock.close()
        raise
    return sock


def bind_unix(path: str, mode: int = UNIX_MODE) -> BoundListener:
    """A unix socket that listens, in place of one that is abandoned. Raises ``OSError``."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The file gets the mode of the socket less the umask (unix(7)): never wider than wanted, not for an instant.
        os.fchmod(sock.fileno(), mode)
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _abandoned(path):
                raise
            os.unlink(path)
            sock.bind(path)
        os.chmod(path, mode)
        # At once, because whether somebody answers is how the next one tells a live socket from an abandoned one.
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return BoundListener(sock, path, _identity(path))


def _abandoned(path: str) -> bool:
    """Whether the file is a socket on which nobody listens any more."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def _unavailable(address: str, error: Exception) -> AddressUnavailable:
    what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return AddressUnavailable(f"health listener: {address}: {what}")
