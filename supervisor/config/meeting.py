"""With which hosts a group meets: the tables ``[rendezvous]`` and ``[groups.NAME.rendezvous]`` together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.config.mistakes import Mistakes
from supervisor.plan import RendezvousRules

if TYPE_CHECKING:
    from supervisor.config import tables


def rules(name: str, group: tables.Group, common: tables.Rendezvous, mistakes: Mistakes) -> RendezvousRules:
    """The rules of one group; what contradicts them is told."""
    given = group.rendezvous
    path = ("groups", name, "rendezvous")
    most = given.nodes[1]
    if common.backend == "static":
        _check_static(path, group, mistakes)
        return RendezvousRules("static", most, given.node_rank)
    for key in ("node_rank", "master_addr", "master_port"):
        if getattr(given, key):
            mistakes.say((*path, key), f'is for [rendezvous] backend = "static", not "{common.backend}"')
    if most > 1:
        mistakes.say((*path, "nodes"), 'is more than this host: [rendezvous] backend says "local" (allowed: static)')
    return RendezvousRules()


def _check_static(path: tuple[str, ...], group: tables.Group, mistakes: Mistakes) -> None:
    given = group.rendezvous
    least, most = given.nodes
    if least != most:
        mistakes.say((*path, "nodes"), f'"{least}:{most}" leaves it open, and static asks nobody (allowed: N)')
    if given.node_rank >= most:
        mistakes.say((*path, "node_rank"), f"there is no host {given.node_rank} of {most} (allowed: 0 to {most - 1})")
    if most == 1:
        return
    if not given.master_addr:
        mistakes.say((*path, "master_addr"), "is missing: the workers of all hosts have to know the address of host 0")
    if not (given.master_port or group.master_port):
        mistakes.say((*path, "master_port"), "is missing: the workers of all hosts have to know a port of host 0")
