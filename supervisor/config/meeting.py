"""With which hosts a group meets: the tables ``[rendezvous]`` and ``[groups.NAME.rendezvous]`` together."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from supervisor.config.mistakes import Mistakes
from supervisor.plan import RendezvousRules, StorePlan

if TYPE_CHECKING:
    from supervisor.config import tables


def rules(name: str, group: tables.Group, file: tables.File, mistakes: Mistakes) -> RendezvousRules:
    """The rules of one group; what contradicts them is told."""
    given, backend = group.rendezvous, file.rendezvous.backend
    path = ("groups", name, "rendezvous")
    least, most = given.nodes
    if backend == "static":
        _check_static(path, group, mistakes)
        return RendezvousRules("static", most, given.node_rank)
    for key in ("node_rank", "master_addr", "master_port"):
        if getattr(given, key):
            mistakes.say((*path, key), f'is for [rendezvous] backend = "static", not "{backend}"')
    if most == 1:
        return RendezvousRules()
    if backend == "local":
        mistakes.say((*path, "nodes"), 'is more than this host: [rendezvous] backend is "local"')
        return RendezvousRules()
    _check_elastic(name, group, file, mistakes)
    return RendezvousRules(
        "etcd",
        most,
        min_hosts=least,
        join_timeout=given.join_timeout,
        last_call_timeout=given.last_call_timeout,
        lease_ttl=given.lease_ttl,
        exit_barrier_timeout=given.exit_barrier_timeout,
        close_timeout=given.close_timeout,
    )


def store(given: tables.Rendezvous, folder: str, mistakes: Mistakes) -> StorePlan | None:
    """Where hosts meet, if that is in etcd."""
    if given.backend != "etcd":
        return None
    schemes = {url.partition(":")[0] for url in given.endpoints}
    if len(schemes) > 1:
        mistakes.say(("rendezvous", "endpoints"), "has http and https (allowed: one of them for all)")
    for key, file in (("ca", given.ca), ("cert", given.cert), ("key", given.key_)):
        if file and "https" not in schemes:
            mistakes.say(("rendezvous", key), "is for endpoints with https")
    if bool(given.cert) != bool(given.key_):
        mistakes.say(("rendezvous",), "needs both cert and key, or neither")
    if bool(given.username) != bool(given.password_file):
        mistakes.say(("rendezvous",), "needs both username and password_file, or neither")
    ca, cert, private, password_file = (
        file and os.path.join(folder, file) for file in (given.ca, given.cert, given.key_, given.password_file)
    )
    return StorePlan(
        tuple(given.endpoints),
        given.prefix,
        given.addr,
        ca=ca,
        cert=cert,
        key=private,
        username=given.username,
        password_file=password_file,
        on_store_loss=given.on_store_loss,
    )


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


def _check_elastic(name: str, group: tables.Group, file: tables.File, mistakes: Mistakes) -> None:
    """What one host decides alone cannot be had in a world of several."""
    path, restart = ("groups", name), group.restart
    if file.daemon.run_id is None:
        mistakes.say(("daemon", "run_id"), f"is missing: hosts that meet as group {name} have to know which job it is")
    if restart.scope == "worker":
        mistakes.say((*path, "restart", "scope"), '"worker" is for one host (allowed: group)')
    if restart.policy == "always":
        mistakes.say((*path, "restart", "policy"), '"always" is for one host (allowed: on-failure, never)')
    if restart.window:
        mistakes.say((*path, "restart", "window"), "is for one host: the hosts' common budget is for the run's life")
    if group.master_port:
        mistakes.say((*path, "master_port"), "is chosen on the host of rank 0, anew for each round (remove it)")
