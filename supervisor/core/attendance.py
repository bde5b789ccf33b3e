"""How the hosts of a job stand, for people: who runs, who waits for a place, and what a host waits for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from supervisor.core.rendezvous import Round, Rules, Table, is_ready

Standing = Literal["runs", "succeeded", "stopping", "waits", "gone"]


@dataclass(frozen=True, slots=True)
class Attendant:
    """A host of the job. ``group_rank`` and ``base_rank`` are those of its seat; None: it has none that counts."""

    name: str
    standing: Standing
    addr: str = ""
    workers: int = 0
    group_rank: int | None = None
    base_rank: int | None = None


def attendance(table: Table) -> list[Attendant]:
    """Those with a seat in the order of their ranks, then the others in the order in which they would get one."""
    round = table.round
    seated: list[Attendant] = []
    waiting: list[tuple[int, Attendant]] = []
    for name, host in table.hosts.items():
        if round is None or is_ready(table, name, round):
            waiting.append((host.arrived, Attendant(name, "waits", host.addr, host.workers)))
            continue
        seat = table.seats[name]
        standing: Standing = "succeeded" if seat.succeeded else "runs" if seat.round == round.number else "stopping"
        seated.append(Attendant(name, standing, host.addr, host.workers, seat.group_rank, seat.base_rank))
    for name, seat in table.seats.items():
        if round is not None and seat.round == round.number and round.phase != "open" and name not in table.hosts:
            standing = "succeeded" if seat.succeeded else "gone"
            seated.append(Attendant(name, standing, group_rank=seat.group_rank, base_rank=seat.base_rank))
    seated.sort(key=lambda one: (one.group_rank or 0, one.name))
    return seated + [one for _, one in sorted(waiting, key=lambda it: (it[0], it[1].name))]


def waits_for(round: Round | None, rules: Rules) -> str:
    """What a host without workers waits for, as far as it follows what goes on."""
    least, most = rules.min_hosts, rules.max_hosts
    hosts = f"{least} host{'s' * (least > 1)}" if least == most else f"{least} to {most} hosts"
    if round is None or (round.number == 1 and round.phase == "open"):
        return f"waits for the first round, of {hosts}"
    if round.phase == "open":
        return f"waits for round {round.number}, of {hosts}: {round.why}"
    if round.hosts >= most:
        return f"waits as a spare: round {round.number} runs with {round.hosts} hosts, as many as there may be"
    return f"waits for a place: round {round.number} runs with {round.hosts} host{'s' * (round.hosts > 1)}"
