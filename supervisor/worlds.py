"""Worlds: of this host alone, of fixed hosts that the configuration numbers, or of those that meet in a store."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from supervisor.core.health import Snapshot
from supervisor.core.messages import ToPeers
from supervisor.host.ports import PortClaim, PortRefused, claim_port, renew
from supervisor.plan import GroupPlan, World, fixed_world

if TYPE_CHECKING:
    from supervisor.rounds import Rounds


class Worlds:
    """Forms worlds, and holds the MASTER_PORT of each group whose rank 0 is on this host."""

    def __init__(self, open_rounds: Callable[[], Rounds]) -> None:
        """``open_rounds`` is called once, when a group is to meet other hosts in a store."""
        self._open_rounds = open_rounds
        self._rounds: Rounds | None = None
        self._chance = random.Random()  # noqa: S311 - which port is nobody's secret
        self._claims: dict[str, PortClaim] = {}

    def form(self, plan: GroupPlan, attempt: int) -> World | str | None:
        """The world of that attempt, or why there is none; None: it is posted when there is one.

        Ask while no worker of the group runs.
        """
        if plan.rendezvous.is_elastic:
            if self._rounds is None:
                self._rounds = self._open_rounds()
            self._rounds.join(plan, attempt)
            return None
        if plan.rendezvous.node_rank:
            return fixed_world(plan, attempt, plan.master_port)  # the port is another host's
        port = self._port(plan)
        return f"no MASTER_PORT: {port.reason}" if isinstance(port, PortRefused) else fixed_world(plan, attempt, port)

    def tell_peers(self, group: str, word: ToPeers) -> None:
        """What other hosts are to know of the group."""
        if self._rounds is not None:
            self._rounds.tell(group, word)

    def with_rendezvous(self, snapshot: Snapshot) -> Snapshot:
        """With how this host stands among those that it shares groups with."""
        if self._rounds is None:
            return snapshot
        groups = {
            name: replace(view, rendezvous=self._rounds.rendezvous_of(name)) for name, view in snapshot.groups.items()
        }
        return replace(snapshot, groups=groups)

    async def hosts_of(self, group: str) -> Mapping[str, Any]:
        """Who leads the group's job, and how its hosts stand; see ``Rounds``. Nobody where it meets nobody."""
        return await self._rounds.hosts_of(group) if self._rounds is not None else {"leader": "", "hosts": []}

    async def part(self, within: float | None) -> None:
        """Return when this host has taken leave of the others; see ``Rounds.close``."""
        if self._rounds is not None:
            await self._rounds.close(within)

    def keep(self, groups: Collection[str]) -> None:
        """Others may have the ports of all groups but these."""
        for gone in self._claims.keys() - set(groups):
            self._claims.pop(gone).release()

    def _port(self, plan: GroupPlan) -> int | PortRefused:
        held = self._claims.get(plan.name)
        if held is not None and plan.master_port not in (0, held.port):
            self._claims.pop(plan.name).release()  # a reload has named another
            held = None
        claim = renew(held, chance=self._chance) if held else claim_port(plan.master_port, chance=self._chance)
        if isinstance(claim, PortRefused):
            return claim
        self._claims[plan.name] = claim
        return claim.port
