"""What only etcd has: several endpoints that come and go, TLS, users, and answers that are no answers."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from aiohttp import web

from supervisor.peers.etcd import EtcdStore, Login, Patience, client_tls, patience_for
from supervisor.peers.store import Changes, Committed, Conflict, Put, StoreAway, StoreRefused, Unchanged
from tests.peers.etcd import Etcd, ask, needs_etcd, ready

pytestmark = needs_etcd

HASTY = Patience(call=3.0, answer=0.5, first_pause=0.01, longest_pause=0.1)
SHORT = Patience(call=0.3, answer=0.2, first_pause=0.01, longest_pause=0.1)
DEAD = "http://127.0.0.1:1"


@contextmanager
def cluster(directory: Path, members: int = 1, scheme: str = "http", *flags: str) -> Iterator[Etcd]:
    server = Etcd(directory, members, scheme, flags)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@asynccontextmanager
async def client(
    *endpoints: str, tls: ssl.SSLContext | None = None, login: Login | None = None, patience: Patience = HASTY
) -> AsyncIterator[EtcdStore]:
    store = EtcdStore(endpoints, chance=random.Random(7), tls=tls, login=login, patience=patience)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def http(answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """Something else than etcd that speaks HTTP; gives its URL."""
    runner = web.ServerRunner(web.Server(answer), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Wire:
    """A connection to etcd that may go silent: bytes are taken and lead nowhere, as in a partition."""

    def __init__(self, endpoint: str) -> None:
        self._port = int(endpoint.rsplit(":", 1)[1])
        self._carries = asyncio.Event()
        self._carries.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> str:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        self._carries.clear()

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            await asyncio.gather(self._carry(reader, far_writer), self._carry(far_reader, writer))
        finally:
            writer.close()
            far_writer.close()

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while piece := await source.read(65536):
            await self._carries.wait()
            sink.write(piece)
        sink.close()


async def news(watch: AsyncIterator[Changes]) -> Changes:
    async with asyncio.timeout(45):
        return await anext(watch)


async def test_the_next_endpoint_is_used_when_one_cannot_be_reached(etcd: Etcd) -> None:
    async with client(DEAD, *etcd.endpoints) as store:
        assert isinstance(await store.transact([], [Put("/dead-first", b"x")]), Committed)


async def test_a_killed_member_is_failed_over_with_its_watches_and_leases(tmp_path: Path) -> None:
    with cluster(tmp_path, members=3) as server:
        async with client(*server.endpoints, patience=Patience()) as store:
            await ready(store)
            lease = await store.grant(5)
            first = await store.transact([], [Put("/job/host", b"1", lease.id)])
            assert isinstance(first, Committed)
            async with aclosing(store.watch("/job/", first.revision)) as watch:
                waiting = asyncio.create_task(news(watch))
                await store.range("/job/")
                server.members[0].kill()
                assert await store.keep_alive(lease.id) is not None
                await ready(store)
                second = await store.transact([], [Put("/job/round", b"2")])
                assert isinstance(second, Committed)
                seen = await waiting
                assert [(entry.key, entry.value) for entry in seen.written] == [("/job/round", b"2")]
            assert [entry.key for entry in (await store.range("/job/")).entries] == ["/job/host", "/job/round"]


async def test_a_watch_goes_on_where_it_was_when_etcd_is_back(tmp_path: Path) -> None:
    with cluster(tmp_path) as server:
        async with client(*server.endpoints) as store, client(*server.endpoints) as other:
            await ready(store)
            first = await store.transact([], [Put("/job/a", b"1")])
            assert isinstance(first, Committed)
            async with aclosing(store.watch("/job/", first.revision)) as watch:
                waiting = asyncio.create_task(news(watch))
                server.members[0].kill()
                with pytest.raises(StoreAway, match=r"127\.0\.0\.1"):
                    await other.range("/job/")
                server.start_member(server.members[0])
                await ready(other)
                await other.transact([], [Put("/job/b", b"2")])
                seen = await waiting
                assert [entry.key for entry in seen.written] == ["/job/b"]
                assert not seen.whole


async def test_every_call_is_bounded_when_etcd_is_away() -> None:
    async with client(DEAD, "http://127.0.0.1:2", patience=SHORT) as store:
        for call in (
            store.range("/"), store.grant(5), store.keep_alive(1), store.revoke(1), store.transact([], [Put("/a", b"")])
        ):  # fmt: skip
            began = time.monotonic()
            with pytest.raises(StoreAway, match="Connect"):
                await call
            assert 0.2 < time.monotonic() - began < 3


async def test_a_silent_connection_is_left_with_the_watch_on_it(etcd: Etcd) -> None:
    wire = Wire(etcd.endpoints[0])
    async with client(await wire.open(), *etcd.endpoints) as store:
        revision = (await store.range("/silent/")).revision
        async with aclosing(store.watch("/silent/", revision)) as watch:
            waiting = asyncio.create_task(news(watch))
            await store.range("/silent/")
            wire.cut()
            await store.range("/silent/")
            await store.transact([], [Put("/silent/a", b"1")])
            assert [entry.key for entry in (await waiting).written] == ["/silent/a"]
    await wire.close()


async def test_the_shortest_lease_survives_an_endpoint_that_goes_silent(etcd: Etcd) -> None:
    """Nobody refuses a connection in a partition. A third of the lease has passed when it is noticed at the soonest."""
    ttl = 2.0
    wire = Wire(etcd.endpoints[0])
    async with client(await wire.open(), *etcd.endpoints, patience=patience_for(ttl)) as store:
        lease = await store.grant(ttl)
        wire.cut()
        asked_at = time.monotonic()
        assert await store.keep_alive(lease.id) is not None
        assert time.monotonic() - asked_at < ttl * 2 / 3
    assert patience_for(3600.0) == Patience()
    await wire.close()


async def test_a_watch_that_hears_nothing_asks_anew(etcd: Etcd) -> None:
    wire = Wire(etcd.endpoints[0])
    patience = Patience(call=3, answer=0.5, silence=0.5, first_pause=0.01, longest_pause=0.1)
    async with client(await wire.open(), *etcd.endpoints, patience=patience) as store, client(*etcd.endpoints) as other:
        revision = (await store.range("/mute/")).revision
        async with aclosing(store.watch("/mute/", revision)) as watch:
            wire.cut()
            waiting = asyncio.create_task(news(watch))
            await other.transact([], [Put("/mute/a", b"1")])
            assert [entry.key for entry in (await waiting).written] == ["/mute/a"]
    await wire.close()


async def test_a_watch_in_a_quiet_hour_is_never_away_for_longer_than_the_first_pause() -> None:
    asked: list[float] = []
    enough = asyncio.Event()

    async def say_nothing(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(time.monotonic())
        if len(asked) == 6:
            enough.set()
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"result": {"header": {"revision": "5"}, "created": true}}\n')
        await asyncio.Event().wait()
        return response

    patience = Patience(answer=5.0, silence=0.6, first_pause=0.05, longest_pause=0.5)
    async with (
        http(say_nothing) as url,
        client(url, patience=patience) as store,
        aclosing(store.watch("/quiet/", 5)) as watch,
    ):
        waiting = asyncio.create_task(news(watch))
        await enough.wait()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    gaps = [later - earlier - patience.silence for earlier, later in pairwise(asked)]
    assert min(gaps[3:]) < 0.2, gaps


async def test_an_endpoint_that_says_nothing_has_not_answered_in_time() -> None:
    async def hang(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    async with http(hang) as url, client(url, patience=replace(SHORT, call=2.0)) as store:
        with pytest.raises(StoreAway, match=f"{url}: no answer in time"):
            await store.range("/")


def test_a_certificate_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    """What ssl says of it names no file."""
    (tmp_path / "empty.pem").touch()
    for files in (["none.pem"], ["empty.pem"], ["", "none.pem", "none.key"], ["", "empty.pem", "empty.pem"]):
        name = str(tmp_path / files[-1])
        with pytest.raises(OSError, match=name):
            client_tls(*(file and str(tmp_path / file) for file in files))


async def test_a_transaction_whose_answer_is_lost_is_not_sent_again() -> None:
    asked: list[str] = []

    async def lose(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(request.path)
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async with http(lose) as one, http(lose) as two, client(one, two) as store:
        with pytest.raises(StoreAway):
            await store.transact([Unchanged("/a", 0)], [Put("/a", b"1")])
        assert asked == ["/v3/kv/txn"]


@pytest.mark.parametrize(
    "text",
    [
        b"", b"<html>It works!</html>", b"[]", b"null", b'"text"', b"{}", b'{"header": {"revision": "many"}}',
        b'{"header": {"revision": "5"}, "kvs": [{"key": "!!"}]}', b'{"header": {"revision": "5"}, "kvs": {"a": 1}}',
        b'{"error": "?"}', b'{"error": {"message": 1}}', b"[" * 5000,
    ],
)  # fmt: skip
async def test_what_is_not_etcd_is_no_answer(etcd: Etcd, text: bytes) -> None:
    async def junk(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=text)

    async with http(junk) as other:
        usual = Patience()  # a transaction is not repeated, and etcd may be kept waiting for its disk
        servers = other, *etcd.endpoints
        short = replace(SHORT, call=1.0, answer=1.0)
        async with client(*servers, patience=usual) as store, client(other, patience=short) as alone:
            revision = (await store.range("/junk/")).revision
            with pytest.raises(StoreAway, match="not an answer of etcd's"):
                await alone.range("/junk/")
            async with aclosing(store.watch("/junk/", revision)) as watch:
                waiting = asyncio.create_task(news(watch))
                await store.transact([], [Put("/junk/a", text)])
                assert (await waiting).written[0].value == text


async def test_an_answer_without_end_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.peers.etcd.MAX_ANSWER", 100_000)
    sent = 0

    async def flood(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 50_000)
            sent += 50_000

    async with http(flood) as url, client(url, patience=Patience(call=1, answer=0.5)) as store:
        with pytest.raises(StoreAway, match="more than 100000 bytes"):
            await store.range("/")
    assert sent < 50_000_000


async def test_pauses_grow_to_their_bound_and_differ_by_chance() -> None:
    asked_at: list[float] = []

    async def away(request: web.BaseRequest) -> web.StreamResponse:
        asked_at.append(asyncio.get_running_loop().time())
        return web.json_response({"error": "etcdserver: no leader", "code": 14}, status=503)

    patience = Patience(call=2.0, answer=0.5, first_pause=0.05, longest_pause=0.4)
    async with http(away) as url, client(url, patience=patience) as store:
        with pytest.raises(StoreAway, match="no leader"):
            await store.range("/")
    chance = random.Random(7)
    wanted = [min(0.4, 0.05 * 2**number) * (1 - chance.random() / 2) for number in range(len(asked_at) - 1)]
    pauses = [later - earlier for earlier, later in pairwise(asked_at)]
    assert len(pauses) >= 5
    for pause, least in zip(pauses, wanted, strict=True):
        assert least - 0.002 <= pause < least + 0.5


@pytest.fixture
def secured(tmp_path: Path) -> Path:
    """A folder with a CA and what it has signed: server.pem/.key and client.pem/.key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here; install it with: apt-get install openssl")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=tmp_path, check=True, capture_output=True)

    fresh = ["req", "-newkey", "rsa:2048", "-nodes"]
    openssl(*fresh, "-x509", "-subj", "/CN=ca", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem")
    for name in ("server", "client"):
        openssl(*fresh, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (tmp_path / "names").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", "names", "-out", f"{name}.pem",
        )  # fmt: skip
    return tmp_path


async def test_tls_knows_both_sides(secured: Path) -> None:
    def path(name: str) -> str:
        return str(secured / name)

    flags = (
        "--cert-file", path("server.pem"), "--key-file", path("server.key"),
        "--trusted-ca-file", path("ca.pem"), "--client-cert-auth",
    )  # fmt: skip
    with cluster(secured, 1, "https", *flags) as server:
        async with client(
            *server.endpoints, tls=client_tls(path("ca.pem"), path("client.pem"), path("client.key"))
        ) as store:
            await ready(store)
            assert isinstance(await store.transact([], [Put("/a", b"1")]), Committed)
        async with client(*server.endpoints, tls=client_tls(path("ca.pem"))) as stranger:
            with pytest.raises(StoreAway):
                await stranger.range("/")
        async with client(*server.endpoints) as trustless:
            with pytest.raises(StoreAway, match="CERTIFICATE_VERIFY_FAILED"):
                await trustless.range("/")


async def test_a_user_logs_in_and_again_when_the_token_has_run_out(tmp_path: Path) -> None:
    word = tmp_path / "password"
    word.write_text("secret\n")
    with cluster(tmp_path, 1, "http", "--auth-token-ttl", "1") as server:
        (url,) = server.endpoints
        async with client(url) as stranger:
            await ready(stranger)
            for path, body in (
                ("auth/user/add", {"name": "root", "password": "root"}),
                ("auth/user/grant", {"user": "root", "role": "root"}),
                ("auth/user/add", {"name": "rankd", "password": "secret"}),
                ("auth/role/add", {"name": "rankd"}),
                ("auth/role/grant", {"name": "rankd", "perm": {
                    "permType": "READWRITE", "key": "L3JhbmtkLw==", "range_end": "L3JhbmtkMA==",
                }}),
                ("auth/user/grant", {"user": "rankd", "role": "rankd"}),
                ("auth/enable", {}),
            ):  # fmt: skip
                await ask(url, path, dict(body))
            with pytest.raises(StoreRefused, match="etcd wants a user and a password"):
                await stranger.range("/rankd/")
        async with client(url, login=Login("rankd", str(word))) as store:
            first = await store.transact([], [Put("/rankd/a", b"1")])
            assert isinstance(first, Committed)
            with pytest.raises(StoreRefused, match="permission denied"):
                await store.range("/other/")
            with pytest.raises(StoreRefused, match="permission denied"):
                async with aclosing(store.watch("/other/", 1)) as forbidden:
                    await news(forbidden)
            async with aclosing(store.watch("/rankd/", first.revision - 1)) as watch:
                assert (await news(watch)).written[0].value == b"1"
            stale = store._token
            await _until_refused(url, stale)
            assert isinstance(await store.transact([Unchanged("/rankd/a", 0)], [Put("/rankd/a", b"2")]), Conflict)
            assert store._token != stale
            store._token = "made.up"
            async with aclosing(store.watch("/rankd/", first.revision - 1)) as watch:
                assert (await news(watch)).written[0].value == b"1"
        word.write_text("wrong")
        async with client(url, login=Login("rankd", str(word))) as store:
            with pytest.raises(StoreRefused, match="invalid user ID or password"):
                await store.range("/rankd/")
        async with client(url, login=Login("rankd", str(tmp_path / "none"))) as store:
            with pytest.raises(StoreRefused, match="No such file"):
                await store.range("/rankd/")


async def _until_refused(url: str, token: str) -> None:
    """Wait for a token that nobody uses to run out; asking with it would prolong it, so the pause grows."""
    for pause in (2.0, 3.0, 4.0, 5.0):
        await asyncio.sleep(pause)
        try:
            await ask(url, "kv/range", {"key": "L3JhbmtkLw=="}, token)
        except AssertionError as refusal:
            print(json.dumps(str(refusal)))
            return
    pytest.fail("the token never ran out")
