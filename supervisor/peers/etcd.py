"""etcd, version 3.4 and later, by the JSON gateway that it serves beside gRPC (etcd.io, "gRPC gateway").

What the gateway does to the API: keys and values are base64, 64-bit integers are strings, and a field that is zero,
false or empty is left out. So an answer to a keep-alive without ``TTL`` says that the lease has ended.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import ssl
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import aiohttp

from supervisor import clock
from supervisor.peers.store import (
    Changes,
    Committed,
    Conflict,
    Delete,
    Entry,
    Found,
    Lease,
    LeaseLost,
    Put,
    StoreAway,
    StoreRefused,
    Unchanged,
    changes,
)

T = TypeVar("T")

MAX_ANSWER = 32 * 2**20
"""Bytes of one answer that we are willing to read: 10,000 hosts need five million."""

# What gRPC calls its outcomes (google.rpc.Code), as far as it matters here.
_NOT_FOUND = 5
_TRANSIENT = frozenset({1, 2, 4, 8, 10, 13, 14})
_UNAUTHENTICATED = 16
_STALE_TOKEN = ("invalid auth token", "user name is empty", "revision of auth store is old")


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: of one call in all, of one endpoint's answer, of a watch that hears nothing before it asks anew.

    Between two rounds through all endpoints lies a pause of ``first_pause``, doubled each time up to ``longest_pause``,
    less up to half of itself by chance, so that many hosts do not come back at once.
    """

    call: float = 5.0
    answer: float = 2.0
    silence: float = 60.0
    first_pause: float = 0.05
    longest_pause: float = 2.0


def patience_for(lease_ttl: float) -> Patience:
    """With which a lease that is kept alive thrice in its time survives an endpoint that has gone silent.

    A third has passed when that is asked; the next one has to be, and to answer, before the rest has.
    """
    usual = Patience()
    return replace(usual, answer=min(usual.answer, 0.4 * lease_ttl))


@dataclass(frozen=True, slots=True)
class Login:
    """A user of etcd. The password is read from its file at each login, so that it may be changed there."""

    name: str
    password_file: str


def client_tls(ca: str = "", cert: str = "", key: str = "") -> ssl.SSLContext:
    """TLS as a client: trusting ``ca`` (empty: what the system trusts), known by ``cert`` and ``key``; file names.

    Raises ``OSError`` when a file cannot be read or is not what it should be.
    """
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except OSError as error:  # which names no file, as below
        raise OSError(f"{ca}: {error}") from error
    try:
        if cert:
            context.load_cert_chain(cert, key or None)
    except OSError as error:
        raise OSError(f"{cert}, {key}: {error}") from error
    return context


class _Unanswered(Exception):
    """This endpoint has not answered as etcd does. ``sent``: it may have done what was asked all the same."""

    def __init__(self, why: str, *, sent: bool = True) -> None:
        self.sent = sent
        super().__init__(why)


class _TokenRefused(Exception):
    """The request was not looked at: its token has run out, or there was none."""


class _Cancelled(Exception):
    """etcd has ended a watch: it has forgotten the revision to watch from, or does not let us watch (any more)."""


class EtcdStore:
    """A ``Store`` on etcd. One endpoint is used until it fails; then the next, round and round."""

    def __init__(
        self, endpoints: Sequence[str], *, chance: random.Random, tls: ssl.SSLContext | None = None,
        login: Login | None = None, patience: Patience | None = None,
    ) -> None:  # fmt: skip
        """``endpoints`` are URLs, ``http://host:2379``. Nothing is connected yet."""
        self._endpoints = tuple(endpoint.rstrip("/") for endpoint in endpoints)
        self._turn = 0
        self._chance = chance
        self._tls = tls
        self._login = login
        self._patience = patience or Patience()
        self._token = ""
        self._session: aiohttp.ClientSession | None = None
        self._hearing: set[asyncio.Timeout] = set()

    async def range(self, prefix: str) -> Found:
        body = {"key": _b64(prefix or "\0"), "range_end": _b64(_end_of(prefix)), "serializable": False}
        return await self._call("kv/range", body, _found)

    async def get(self, key: str) -> Entry | None:
        found = await self._call("kv/range", {"key": _b64(key)}, _found)
        return found.entries[0] if found.entries else None

    async def transact(
        self, conditions: Sequence[Unchanged], operations: Sequence[Put | Delete]
    ) -> Committed | Conflict:
        body = {
            "compare": [
                {"key": _b64(one.key), "target": "MOD", "mod_revision": str(one.revision), "result": "EQUAL"}
                for one in conditions
            ],
            "success": [_operation(one) for one in operations],
            "failure": [
                {"request_range": {"key": _b64(key)}} for key in sorted({condition.key for condition in conditions})
            ],
        }
        return await self._call("kv/txn", body, _outcome, repeatable=False)

    async def grant(self, ttl: float) -> Lease:
        # Asked twice, one of the leases is never used and ends by itself.
        return await self._call("lease/grant", {"TTL": str(math.ceil(ttl))}, _lease)

    async def keep_alive(self, lease: int) -> float | None:
        return await self._call("lease/keepalive", {"ID": str(lease)}, _time_left)

    async def revoke(self, lease: int) -> None:
        try:
            await self._call("lease/revoke", {"ID": str(lease)}, lambda _: None)
        except LeaseLost:
            return

    async def watch(self, prefix: str, after: int) -> AsyncGenerator[Changes, None]:
        failures = 0
        while True:
            turn = self._turn
            stood_at = math.inf
            try:
                async with aclosing(self._stream(turn, prefix, after)) as stream:
                    async for news in stream:
                        stood_at = min(stood_at, clock.now())
                        if news is not None:
                            failures = 0
                            after = news.revision
                            yield news
            except _Cancelled:
                # A range has the whole, a new token where that was the reason, or the refusal in words.
                if failures:
                    await self._pause(failures)
                failures += 1
                try:
                    found = await self.range(prefix)
                except StoreAway:
                    continue
                after = found.revision
                yield Changes(found.entries, (), found.revision, whole=True)
            except (_Unanswered, _TokenRefused) as failure:
                if isinstance(failure, _Unanswered):
                    self._leave(turn)
                if clock.now() - stood_at > self._patience.longest_pause:
                    failures = 0  # to ask anew in a quiet hour is no failure, and meanwhile nothing is heard
                await self._pause(failures)
                failures += 1

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _call(self, path: str, body: dict[str, Any], read: Callable[[Any], T], *, repeatable: bool = True) -> T:
        """Ask until it is answered or the time is up. What is not ``repeatable`` is sent at most once."""
        why = "no answer in time"
        try:
            async with asyncio.timeout(self._patience.call):
                failures = 0
                while True:
                    turn = self._turn
                    endpoint = self._endpoint(turn)
                    try:
                        return await self._ask(endpoint, path, body, read)
                    except _Unanswered as failure:
                        why = f"{endpoint}: {failure}"
                        self._leave(turn)
                        if failure.sent and not repeatable:
                            raise StoreAway(why) from failure
                    failures += 1
                    if failures % len(self._endpoints) == 0:
                        await self._pause(failures // len(self._endpoints) - 1)
        except TimeoutError:
            raise StoreAway(why) from None

    async def _ask(self, endpoint: str, path: str, body: dict[str, Any], read: Callable[[Any], T]) -> T:
        """One request to one endpoint; two when the token of the first has run out."""
        try:
            return await self._post(endpoint, path, body, read, await self._authorization(endpoint))
        except _TokenRefused:
            try:
                return await self._post(endpoint, path, body, read, await self._authorization(endpoint))
            except _TokenRefused as refusal:
                raise StoreRefused(f"{endpoint}: {refusal}") from None

    async def _authorization(self, endpoint: str) -> dict[str, str]:
        if self._login is None:
            return {}
        if not self._token:
            body = {"name": self._login.name, "password": _password(self._login.password_file)}
            self._token = await self._post(endpoint, "auth/authenticate", body, _token, {})
        return {"Authorization": self._token}

    async def _post(
        self, endpoint: str, path: str, body: dict[str, Any], read: Callable[[Any], T], headers: dict[str, str]
    ) -> T:
        timeout = aiohttp.ClientTimeout(total=self._patience.answer)
        try:
            async with self._request(endpoint, path, body, headers, timeout) as response:
                pieces, size = [], 0
                async for piece in response.content.iter_any():
                    pieces.append(piece)
                    size += len(piece)
                    if size > MAX_ANSWER:
                        raise _Unanswered(f"an answer of more than {MAX_ANSWER} bytes")
                return self._understand(b"".join(pieces), read, response.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _failed(error) from error

    def _understand(self, text: bytes, read: Callable[[Any], T], status: int = 200) -> T:
        """What ``read`` makes of an answer. Anything may answer on a port: what is not etcd's is no answer."""
        try:
            answer = json.loads(text)
            if status == 200 and "error" not in answer:
                return read(answer)
            raise self._refusal(answer)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise _Unanswered(f"HTTP {status}, and not an answer of etcd's") from error

    def _refusal(self, answer: dict[str, Any]) -> Exception:
        """Why etcd did not do it. A call has ``{"error", "code", "message"}``, a stream all that within ``error``."""
        error = answer["error"]
        nested = error if isinstance(error, dict) else answer
        code = int(nested["code"] if "code" in nested else nested["grpc_code"])
        words = str(nested.get("message", error))[:200]
        if code == _UNAUTHENTICATED or any(one in words for one in _STALE_TOKEN):
            if self._login is None:
                return StoreRefused(f"etcd wants a user and a password ({words})")
            self._token = ""
            return _TokenRefused(words)
        if code == _NOT_FOUND and "lease" in words:
            return LeaseLost(words)
        return _Unanswered(words) if code in _TRANSIENT else StoreRefused(words)

    async def _stream(self, turn: int, prefix: str, after: int) -> AsyncGenerator[Changes | None, None]:
        """One connection's worth of a watch; None once it stands. Ends by raising."""
        body = {
            "create_request": {
                "key": _b64(prefix or "\0"), "range_end": _b64(_end_of(prefix)), "start_revision": str(after + 1),
            }
        }  # fmt: skip
        endpoint = self._endpoint(turn)
        timeout = aiohttp.ClientTimeout(sock_connect=self._patience.answer, sock_read=self._patience.silence)
        try:
            headers = await self._authorization(endpoint)
            async with asyncio.timeout(self._patience.answer):
                response = await self._request(endpoint, "watch", body, headers, timeout)
            async with response:
                rest: list[bytes] = []
                while piece := await self._hear(response, turn):
                    *ends, start = piece.split(b"\n")
                    for end in ends:
                        line = b"".join((*rest, end))
                        rest.clear()
                        yield self._understand(line, _news)
                    rest.append(start)
                    if sum(map(len, rest)) > MAX_ANSWER:
                        raise _Unanswered(f"a line of more than {MAX_ANSWER} bytes")
                if any(rest):
                    yield self._understand(b"".join(rest), _news)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _failed(error) from error
        raise _Unanswered("the watch was ended")

    async def _hear(self, response: aiohttp.ClientResponse, turn: int) -> bytes:
        """The next bytes of a stream, empty at its end. Raises ``TimeoutError`` once its endpoint has been left."""
        if turn != self._turn:
            raise TimeoutError
        async with asyncio.timeout(None) as until_left:
            self._hearing.add(until_left)
            try:
                return await response.content.readany()
            finally:
                self._hearing.discard(until_left)

    def _request(
        self, endpoint: str, path: str, body: dict[str, Any], headers: dict[str, str], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.client._RequestContextManager:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self._session.post(
            f"{endpoint}/v3/{path}", json=body, headers=headers, timeout=timeout, allow_redirects=False,
            ssl=self._tls if self._tls is not None else True,
        )  # fmt: skip

    def _endpoint(self, turn: int) -> str:
        return self._endpoints[turn % len(self._endpoints)]

    def _leave(self, turn: int) -> None:
        """Go on with the next endpoint, unless others have done so meanwhile; watches move along.

        A watch on a connection that carries nothing any more would not notice for long by itself.
        """
        if turn == self._turn:
            self._turn += 1
            hearing, self._hearing = self._hearing, set()
            for until_left in hearing:
                until_left.reschedule(0)

    async def _pause(self, failures: int) -> None:
        longest = min(self._patience.longest_pause, self._patience.first_pause * 2.0 ** min(failures, 32))
        await asyncio.sleep(longest * (1 - self._chance.random() / 2))


def _failed(error: aiohttp.ClientError | TimeoutError) -> _Unanswered:
    never_sent = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
    return _Unanswered(str(error) or "no answer in time", sent=not never_sent)


def _password(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreRefused(f"{path}: {error}") from error


# ---- etcd's JSON: written, and read with as little trust as anything from a socket


def _b64(text: str | bytes) -> str:
    return b64encode(text.encode() if isinstance(text, str) else text).decode()


def _end_of(prefix: str) -> bytes:
    """The first key that does not begin with ``prefix`` (UTF-8 has no byte 0xff, so one more is always a byte)."""
    raw = prefix.encode()
    return raw[:-1] + bytes([raw[-1] + 1]) if raw else b"\0"


def _operation(operation: Put | Delete) -> dict[str, Any]:
    if isinstance(operation, Put):
        put = {"key": _b64(operation.key), "value": _b64(operation.value), "lease": str(operation.lease)}
        return {"request_put": put}
    return {"request_delete_range": {"key": _b64(operation.key)}}


def _entry(kv: dict[str, Any]) -> Entry:
    return Entry(
        key=b64decode(kv["key"], validate=True).decode(),
        value=b64decode(kv.get("value", ""), validate=True),
        revision=int(kv["mod_revision"]),
        created=int(kv["create_revision"]),
        lease=int(kv.get("lease", 0)),
    )


def _revision(answer: dict[str, Any]) -> int:
    return int(answer["header"]["revision"])


def _found(answer: dict[str, Any]) -> Found:
    return Found(tuple(_entry(kv) for kv in answer.get("kvs", ())), _revision(answer))


def _outcome(answer: dict[str, Any]) -> Committed | Conflict:
    if answer.get("succeeded", False):
        return Committed(_revision(answer))
    kvs = [kv for one in answer.get("responses", ()) for kv in one["response_range"].get("kvs", ())]
    return Conflict(Found(tuple(_entry(kv) for kv in kvs), _revision(answer)))


def _lease(answer: dict[str, Any]) -> Lease:
    return Lease(int(answer["ID"]), float(answer["TTL"]))


def _time_left(answer: dict[str, Any]) -> float | None:
    left = int(answer["result"].get("TTL", 0))
    return float(left) if left > 0 else None


def _token(answer: dict[str, Any]) -> str:
    token = answer["token"]
    if not isinstance(token, str):
        raise TypeError("a token is a string")
    return token


def _news(answer: dict[str, Any]) -> Changes | None:
    result = answer["result"]
    if result.get("canceled", False):
        raise _Cancelled
    steps: list[tuple[str, Entry | None]] = []
    newest = 0
    for event in result.get("events", ()):
        kv = event["kv"]
        newest = max(newest, int(kv["mod_revision"]))
        if event.get("type", "PUT") == "DELETE":
            steps.append((b64decode(kv["key"], validate=True).decode(), None))
        else:
            entry = _entry(kv)
            steps.append((entry.key, entry))
    return changes(steps, newest) if steps else None
