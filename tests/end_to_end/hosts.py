"""Several hosts of one job on this machine: a daemon each, with addresses 127.0.0.x and an etcd of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tests.end_to_end.configs import SLEEP, table
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import Rankd, Record
from tests.peers.etcd import Etcd


class Hosts:
    """One job; ``start`` has another host arrive."""

    def __init__(self, rankd: Start, etcd: Etcd, run_id: str) -> None:
        self._rankd = rankd
        self._etcd = etcd
        self.run_id = run_id

    def start(
        self, name: str, command: Sequence[str] = SLEEP, nodes: str = "2:3", workers: int = 1, max_restarts: int = 3,
        store: dict[str, object] | None = None, addr: str = "", through: Sequence[str] = (), **rules: object,
    ) -> Rankd:  # fmt: skip
        """``name`` is the last part of its address, unless ``addr`` says another, and ``h`` before it its name.

        ``through``: argv to put before rankd's own.
        """
        addr = addr or f"127.0.0.{name}"
        timings = {"last_call_timeout": "300ms", "lease_ttl": "2s", "join_timeout": "30s"} | rules
        return self._rankd(
            table("daemon", node_id=f"h{name}", run_id=self.run_id)
            + table("rendezvous", backend="etcd", endpoints=self._etcd.endpoints, addr=addr, **store or {})
            + table("groups.job", command=list(command), workers=workers)
            + table("groups.job.restart", max_restarts=max_restarts)
            + table("groups.job.rendezvous", nodes=nodes, **timings),
            through=through,
        )


def formed(daemon: Rankd, hosts: int, count: int = 1) -> Record:
    """The ``count``-th world of that many hosts, all of whose workers of this host run."""
    world = daemon.wait_for("rendezvous.formed", hosts=hosts, count=count)
    daemon.wait_for("group.started", attempt=world["attempt"])
    return world


def answers(etcd: Etcd) -> None:
    """Returns once etcd does."""
    asyncio.run(etcd.answers())
