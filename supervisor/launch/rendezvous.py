"""Who meets: torchrun's rendezvous flags.

A host that is alone has nobody to wait for. So c10d and static differ in this: c10d chooses a run id (where torchrun
does) and a free port; static says where rank 0 listens. Several hosts are numbered by hand (static), or meet in etcd.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Callable
from typing import NamedTuple

from supervisor import values
from supervisor.launch.elastic import elastic
from supervisor.plan import RendezvousRules, StorePlan

HERE = "localhost"
"""MASTER_ADDR when nothing else is said. torchrun takes the host's full name, which need not resolve to anything."""

_STATIC_ADDR, _STATIC_PORT = "127.0.0.1", 29500

_C10D = "c10d is torch's own store on one of the hosts, and ends with it; use --rdzv-backend etcd, or static"
_V2 = "--rdzv-backend etcd-v2 is taken for etcd, which is version 3 here: etcd 3.6 has no v2 API any more"


class Meeting(NamedTuple):
    """``master_port`` 0: one that is free. ``backend``: torchrun's word for it."""

    run_id: str
    master_addr: str
    master_port: int
    backend: str
    rules: RendezvousRules = RendezvousRules()
    store: StorePlan | None = None


def meeting(flags: Namespace, refuse: Callable[[str], None], note: Callable[[str], None]) -> Meeting:
    """What the workers are told of the rendezvous. Whatever cannot be is given to ``refuse``."""
    least, most = _hosts(flags.nnodes, refuse)
    for why in _conf_mistakes(flags.rdzv_conf):
        refuse(f"--rdzv-conf: {why}")
    backend = flags.rdzv_backend
    alone = most == 1 and backend == "static" and not flags.rdzv_endpoint and flags.master_port is None
    if most > 1 and flags.standalone:
        refuse(f"--nnodes {flags.nnodes}: --standalone is for one host")
    elif most > 1 and backend == "c10d":
        refuse(f"--nnodes {flags.nnodes}: {_C10D}")
    elif not flags.standalone and backend in ("etcd", "etcd-v2"):
        if backend == "etcd-v2":
            note(_V2)
        rules, store = elastic(flags, least, most, refuse, note)
        return Meeting(_run_id(flags.rdzv_id, refuse), "", 0, "etcd", rules, store)
    elif not flags.standalone and backend not in ("static", "c10d"):
        refuse(f"--rdzv-backend {backend}: a backend from another package needs torch (allowed: c10d, etcd, static)")
    elif backend == "static" and not flags.standalone and not alone:
        if least < most:
            refuse(f"--nnodes {flags.nnodes}: static asks nobody how many have come (allowed: N)")
        return _static(flags, most, refuse)
    if flags.node_rank:
        note("--node-rank is for --rdzv-backend static with a --master-port, and means nothing here")
    if flags.master_addr is not None or flags.master_port is not None:
        note("--master-addr and --master-port are for static with both given: MASTER_ADDR and MASTER_PORT are chosen")
    named = not (flags.standalone or alone) and flags.rdzv_id
    return Meeting(_run_id(flags.rdzv_id if named else "", refuse), flags.local_addr or HERE, 0, "c10d")


def _static(flags: Namespace, hosts: int, refuse: Callable[[str], None]) -> Meeting:
    addr, port = flags.master_addr or _STATIC_ADDR, flags.master_port or _STATIC_PORT
    if flags.rdzv_endpoint:
        found = re.fullmatch(r"\s*(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+):([0-9]{1,5})\s*", flags.rdzv_endpoint)
        if found is None:
            refuse(f"--rdzv-endpoint {flags.rdzv_endpoint}: static needs HOST:PORT, or --master-addr and --master-port")
        else:
            addr, port = found[1], int(found[2])
    if not 0 < port < 65536:
        refuse(f"MASTER_PORT {port} is not a port (allowed: 1 to 65535)")
    if not 0 <= flags.node_rank < hosts:
        numbers = "only number 0" if hosts == 1 else f"number 0 to {hosts - 1}"
        refuse(f"--node-rank {flags.node_rank}: of {hosts} host{'s' * (hosts > 1)} there is {numbers}")
    rules = RendezvousRules("static", hosts, flags.node_rank)
    return Meeting(_run_id(flags.rdzv_id, refuse), addr.strip("[]"), port, "static", rules)


def _hosts(nnodes: str, refuse: Callable[[str], None]) -> tuple[int, int]:
    """How many hosts there are, at least and at most."""
    try:
        return values.nodes("".join(nnodes.split()))
    except ValueError as error:
        refuse(f"--nnodes {nnodes}: {error}")
        return 1, 1


def _run_id(given: str, refuse: Callable[[str], None]) -> str:
    if not given:
        from uuid import uuid4  # noqa: PLC0415 - 5 ms that a named run need not pay

        return str(uuid4())
    try:
        values.directory_name(f"{given}_12345678")
    except ValueError:
        refuse(f"--rdzv-id {given!r}: cannot begin the name of a directory (no '/', at most 246 bytes)")
    return given


def _conf_mistakes(text: str) -> list[str]:
    """What is wrong in ``key=value,...`` (torch's ``_parse_rendezvous_config``), whatever the keys are."""
    mistakes = []
    for pair in text.split(",") if text.strip() else ():
        key, _, value = (part.strip() for part in pair.partition("="))
        if not key or not value:
            mistakes.append(f"{pair!r} is not KEY=VALUE")
        elif key == "is_host" and value.lower() in ("0", "false", "f", "no", "n"):
            mistakes.append("is_host is false, and there is no other host to wait for")
    return mistakes
