"""How the hosts of a job stand, for people: who runs, who waits for a place, and what a host waits for."""

from __future__ import annotations

from supervisor.core.health import HostState, HostView
from supervisor.core.rendezvous import Round, Rules, Table, is_ready


def attendance(table: Table, rules: Rules) -> list[HostView]:
    """Those with a seat in the order of their ranks, then the others in the order in which they would get one."""
    round = table.round
    seated: list[HostView] = []
    waiting: list[tuple[int, HostView]] = []
    for name, host in table.hosts.items():
        if round is None or is_ready(table, name, round):
            waiting.append((host.arrived, HostView(name, without_workers(round, rules), host.addr, host.workers)))
            continue
        seat = table.seats[name]
        state: HostState = "succeeded" if seat.succeeded else "running" if seat.round == round.number else "stopping"
        seated.append(HostView(name, state, host.addr, host.workers, seat.group_rank, seat.base_rank))
    for name, seat in table.seats.items():
        if round is not None and name not in table.hosts and seat.round == round.number - (round.phase == "open"):
            state = "succeeded" if seat.succeeded else "gone"
            seated.append(HostView(name, state, group_rank=seat.group_rank, base_rank=seat.base_rank))
    seated.sort(key=lambda one: (one.group_rank or 0, one.name))
    return seated + [one for _, one in sorted(waiting, key=lambda it: (it[0], it[1].name))]


def without_workers(round: Round | None, rules: Rules) -> HostState:
    """How a host stands that is there and runs none."""
    full = round is not None and round.phase == "formed" and round.hosts >= rules.max_hosts
    return "spare" if full else "waiting"


def waits_for(round: Round | None, rules: Rules) -> str:
    """What a host without workers waits for, as far as it follows what goes on."""
    least, most = rules.min_hosts, rules.max_hosts
    hosts = f"{least} host{'s' * (least > 1)}" if least == most else f"{least} to {most} hosts"
    if round is None or (round.number == 1 and round.phase == "open"):
        return f"waits for the first round, of {hosts}"
    if round.phase == "open":
        return f"waits for round {round.number}, of {hosts}: {round.why}"
    if without_workers(round, rules) == "spare":
        return f"waits as a spare: round {round.number} runs with {round.hosts} hosts, as many as there may be"
    return f"waits for a place: round {round.number} runs with {round.hosts} host{'s' * (round.hosts > 1)}"
