"""The leader's part in a rendezvous: it reads all hosts and seats, plans the seats, and forms the rounds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import anyio

from supervisor import clock
from supervisor.core.rendezvous import Call, Form, Host, Rules, Seat, Table, Turn, Wait, preside
from supervisor.peers.mirror import LOOK_AGAIN_AFTER, Mirror
from supervisor.peers.records import Keys, Unreadable, pieces, read_host, read_round, read_seat, written
from supervisor.peers.store import Committed, Entry, Put, Store, StoreAway, Unchanged


async def lead(
    store: Store, keys: Keys, rules: Rules, leader: Entry, odd: Callable[[str, str], None],
    show: Callable[[Table], None],
) -> None:  # fmt: skip
    """Lead for as long as ``leader``, our own entry, stands; then return.

    ``odd`` is told of a key whose value is unreadable, and why: it counts as not there, and without a round that can be
    read nothing is done. ``show`` is given what is decided on. Raises ``StoreRefused``.
    """
    call = Call()
    while True:
        mirror = Mirror(store, keys.all)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(mirror.follow)
            while mirror.revision < leader.revision:
                await mirror.changed()
            call = await _lead_on(store, keys, rules, leader, mirror, call, odd, show)
            tasks.cancel_scope.cancel()
        if not _stands(mirror, keys, leader):
            return


async def _lead_on(
    store: Store, keys: Keys, rules: Rules, leader: Entry, mirror: Mirror, call: Call,
    odd: Callable[[str, str], None], show: Callable[[Table], None],
) -> Call:  # fmt: skip
    """Until we lead no more, or until a write has gone otherwise than planned, so that all has to be read anew."""
    while _stands(mirror, keys, leader):
        try:
            table = table_of(mirror.entries, keys, odd)
        except Unreadable as why:
            odd(keys.round, str(why))
            await mirror.changed()
            continue
        show(table)
        call, action = preside(table, rules, call, clock.now())
        if isinstance(action, Wait):
            await mirror.changed(action.until)
            continue
        revision = await _write(store, keys, leader, mirror, action)
        if revision is None:
            return call
        while mirror.revision < revision:
            await mirror.changed()
    return call


async def _write(store: Store, keys: Keys, leader: Entry, mirror: Mirror, action: Turn | Form) -> int | None:
    """Write it all; the revision of the last of it. None: it was not all written, or nobody knows."""
    round = mirror.entries.get(keys.round)
    fence = [Unchanged(keys.round, round.revision if round is not None else 0), Unchanged(keys.leader, leader.revision)]
    batches = pieces(action, keys) if isinstance(action, Form) else [(Put(keys.round, written(action.round)),)]
    revision = 0
    for batch in batches:
        try:
            outcome = await store.transact(fence, batch)
        except StoreAway:
            await asyncio.sleep(LOOK_AGAIN_AFTER)
            return None
        if not isinstance(outcome, Committed):
            return None
        revision = outcome.revision
    return revision


def _stands(mirror: Mirror, keys: Keys, leader: Entry) -> bool:
    entry = mirror.entries.get(keys.leader)
    return entry is not None and entry.revision == leader.revision


def table_of(entries: Mapping[str, Entry], keys: Keys, odd: Callable[[str, str], None]) -> Table:
    """What a leader decides on. Raises ``Unreadable`` when there is something else in the place of the round."""
    hosts: dict[str, Host] = {}
    seats: dict[str, Seat] = {}
    for key, entry in entries.items():
        try:
            if (name := keys.host_of(key)) is not None:
                hosts[name] = read_host(entry.value, name, entry.created)
            elif (name := keys.seat_of(key)) is not None:
                seats[name] = read_seat(entry.value, name)
        except Unreadable as why:
            odd(key, str(why))
    found = entries.get(keys.round)
    return Table(read_round(found.value) if found is not None else None, hosts, seats)
