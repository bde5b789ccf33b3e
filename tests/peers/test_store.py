"""What every store does: the same suite for the embedded one and for a real etcd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from supervisor.peers.store import (
    Changes,
    Committed,
    Conflict,
    Delete,
    Entry,
    LeaseLost,
    Put,
    Store,
    StoreRefused,
    Unchanged,
)
from tests.peers.conftest import Memory, Real

Either = Memory | Real


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return f"/{request.node.name}/"


async def put(store: Store, key: str, value: bytes = b"value", lease: int = 0) -> int:
    outcome = await store.transact([], [Put(key, value, lease)])
    assert isinstance(outcome, Committed)
    return outcome.revision


async def news(watch: AsyncIterator[Changes]) -> Changes:
    async with asyncio.timeout(10):
        return await anext(watch)


async def test_a_range_is_sorted_by_key_and_holds_the_prefix_alone(either: Either, prefix: str) -> None:
    for name in ("b", "a", "ä", "c/d"):
        await put(either.store, prefix + name, name.encode())
    await put(either.store, prefix[:-1] + "0", b"the first key behind the prefix")
    found = await either.store.range(prefix)
    assert [(entry.key, entry.value) for entry in found.entries] == [
        (prefix + name, name.encode()) for name in ("a", "b", "c/d", "ä")
    ]
    assert (await either.store.range(prefix + "none")).entries == ()


async def test_a_key_is_got_by_itself(either: Either, prefix: str) -> None:
    revision = await put(either.store, prefix + "host-1", b"1")
    await put(either.store, prefix + "host-10", b"10")
    assert await either.store.get(prefix + "host-1") == Entry(prefix + "host-1", b"1", revision, revision)
    assert await either.store.get(prefix + "host-") is None


async def test_any_byte_and_no_byte_is_a_value(either: Either, prefix: str) -> None:
    await put(either.store, prefix + "all", bytes(range(256)))
    await put(either.store, prefix + "none", b"")
    found = await either.store.range(prefix)
    assert [entry.value for entry in found.entries] == [bytes(range(256)), b""]


async def test_an_entry_knows_what_wrote_it_first_and_last(either: Either, prefix: str) -> None:
    first = await put(either.store, prefix + "key")
    second = await put(either.store, prefix + "key", b"again")
    assert second == first + 1
    found = await either.store.range(prefix)
    assert found.entries == (Entry(prefix + "key", b"again", second, first),)
    assert found.revision >= second


async def test_a_key_is_created_once(either: Either, prefix: str) -> None:
    key = prefix + "leader"
    won = await either.store.transact([Unchanged(key, 0)], [Put(key, b"first")])
    lost = await either.store.transact([Unchanged(key, 0)], [Put(key, b"second")])
    assert isinstance(won, Committed)
    assert isinstance(lost, Conflict)
    assert lost.found.entries == (Entry(key, b"first", won.revision, won.revision),)


async def test_a_conflict_writes_nothing_and_shows_what_there_is(either: Either, prefix: str) -> None:
    revision = await put(either.store, prefix + "round", b"1")
    outcome = await either.store.transact(
        [Unchanged(prefix + "round", revision - 1), Unchanged(prefix + "absent", 0)],
        [Put(prefix + "round", b"2"), Put(prefix + "other", b"x"), Delete(prefix + "absent")],
    )
    assert isinstance(outcome, Conflict)
    assert [entry.value for entry in outcome.found.entries] == [b"1"]
    assert [entry.key for entry in (await either.store.range(prefix)).entries] == [prefix + "round"]


async def test_a_transaction_is_written_whole_with_one_revision(either: Either, prefix: str) -> None:
    old = await put(either.store, prefix + "old")
    outcome = await either.store.transact(
        [Unchanged(prefix + "old", old)], [Put(prefix + "a", b"1"), Put(prefix + "b", b"2"), Delete(prefix + "old")]
    )
    assert isinstance(outcome, Committed)
    found = await either.store.range(prefix)
    assert [(entry.key, entry.revision) for entry in found.entries] == [
        (prefix + "a", outcome.revision),
        (prefix + "b", outcome.revision),
    ]


async def test_of_many_who_swap_at_once_one_wins(either: Either, prefix: str) -> None:
    revision = await put(either.store, prefix + "round")
    outcomes = await asyncio.gather(
        *(
            either.store.transact([Unchanged(prefix + "round", revision)], [Put(prefix + "round", bytes([host]))])
            for host in range(20)
        )
    )
    assert [isinstance(outcome, Committed) for outcome in outcomes].count(True) == 1


async def test_a_key_twice_in_a_transaction_is_refused(either: Either, prefix: str) -> None:
    with pytest.raises(StoreRefused):
        await either.store.transact([], [Put(prefix + "key", b"1"), Put(prefix + "key", b"2")])
    assert (await either.store.range(prefix)).entries == ()


async def test_a_revoked_lease_takes_its_entries_along(either: Either, prefix: str) -> None:
    lease = await either.store.grant(30)
    await put(either.store, prefix + "mine", lease=lease.id)
    await put(either.store, prefix + "stays")
    assert (await either.store.range(prefix)).entries[0].lease == lease.id
    await either.store.revoke(lease.id)
    await either.store.revoke(lease.id)
    assert [entry.key for entry in (await either.store.range(prefix)).entries] == [prefix + "stays"]


async def test_a_key_written_without_its_lease_outlives_it(either: Either, prefix: str) -> None:
    lease = await either.store.grant(30)
    await put(either.store, prefix + "key", lease=lease.id)
    await put(either.store, prefix + "key", b"free")
    await either.store.revoke(lease.id)
    assert [entry.value for entry in (await either.store.range(prefix)).entries] == [b"free"]


async def test_a_lease_that_nobody_keeps_alive_ends(either: Either, prefix: str) -> None:
    lease = await either.store.grant(1)
    assert lease.ttl >= 1
    revision = await put(either.store, prefix + "host", lease=lease.id)
    async with aclosing(either.store.watch(prefix, revision)) as watch:
        assert (await news(watch)).deleted == (prefix + "host",)
    assert await either.store.keep_alive(lease.id) is None


async def test_a_lease_that_is_kept_alive_lasts(either: Either, prefix: str) -> None:
    kept, other = await either.store.grant(1), await either.store.grant(1)
    revision = await put(either.store, prefix + "host", lease=kept.id)
    await put(either.store, prefix + "other", lease=other.id)

    async def keep() -> None:
        while True:
            assert await either.store.keep_alive(kept.id) == kept.ttl
            await asyncio.sleep(kept.ttl / 4)

    keeping = asyncio.create_task(keep())
    async with aclosing(either.store.watch(prefix, revision + 1)) as watch:
        assert (await news(watch)).deleted == (prefix + "other",)
    assert await either.store.keep_alive(kept.id) is not None
    assert not keeping.done()
    keeping.cancel()


async def test_nothing_is_written_under_a_lease_that_has_ended(either: Either, prefix: str) -> None:
    lease = await either.store.grant(30)
    await either.store.revoke(lease.id)
    assert await either.store.keep_alive(lease.id) is None
    with pytest.raises(LeaseLost):
        await either.store.transact([], [Put(prefix + "other", b""), Put(prefix + "host", b"", lease.id)])
    assert (await either.store.range(prefix)).entries == ()


async def test_a_watch_tells_what_has_happened_since_and_what_happens(either: Either, prefix: str) -> None:
    first = await put(either.store, prefix + "a", b"1")
    second = await put(either.store, prefix + "b", b"2")
    await put(either.store, "/elsewhere" + prefix, b"3")
    async with aclosing(either.store.watch(prefix, first)) as watch:
        past = await news(watch)
        assert past.written == (Entry(prefix + "b", b"2", second, second),)
        assert not past.whole
        outcome = await either.store.transact([], [Put(prefix + "c", b"4"), Delete(prefix + "a")])
        assert isinstance(outcome, Committed)
        both = await news(watch)
        assert [entry.key for entry in both.written] == [prefix + "c"]
        assert both.deleted == (prefix + "a",)
        assert both.revision == outcome.revision


async def test_what_was_written_and_deleted_since_is_only_deleted(either: Either, prefix: str) -> None:
    first = await put(either.store, prefix + "a")
    await either.store.transact([], [Delete(prefix + "a")])
    seen: list[str] = []
    async with aclosing(either.store.watch(prefix, first - 1)) as watch:
        while prefix + "a" not in seen:
            changes = await news(watch)
            seen += changes.deleted
    assert changes.written == ()


async def test_a_watch_from_a_forgotten_revision_begins_with_the_whole(either: Either, prefix: str) -> None:
    first = await put(either.store, prefix + "a")
    await put(either.store, prefix + "b")
    await either.store.transact([], [Delete(prefix + "a")])
    await put(either.store, prefix + "c")
    await either.compact()
    async with aclosing(either.store.watch(prefix, first)) as watch:
        whole = await news(watch)
        assert whole.whole
        assert [entry.key for entry in whole.written] == [prefix + "b", prefix + "c"]
        await put(either.store, prefix + "d")
        after = await news(watch)
        assert not after.whole
        assert [entry.key for entry in after.written] == [prefix + "d"]
