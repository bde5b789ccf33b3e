"""Who meets: torchrun's rendezvous flags, as far as one host is concerned.

A host that is alone has nobody to wait for. So c10d and static differ in this: c10d chooses a run id (where torchrun
does) and a free port; static says where rank 0 listens.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Callable
from typing import NamedTuple

from supervisor import values

HERE = "localhost"
"""MASTER_ADDR when nothing else is said. torchrun takes the host's full name, which need not resolve to anything."""

_STATIC_ADDR, _STATIC_PORT = "127.0.0.1", 29500

SEVERAL_HOSTS = "this version runs one host; a job of several hosts still needs torchrun"
_ETCD = "there is no etcd rendezvous in this version; on one host use --standalone"
_REFUSED = {"etcd": _ETCD, "etcd-v2": f"etcd's v2 API is gone from etcd 3.6, and {_ETCD}"}


class Meeting(NamedTuple):
    """``master_port`` 0: one that is free. ``backend``: torchrun's word for it."""

    run_id: str
    master_addr: str
    master_port: int
    backend: str


def meeting(flags: Namespace, refuse: Callable[[str], None], note: Callable[[str], None]) -> Meeting:
    """What the workers are told of the rendezvous. Whatever cannot be is given to ``refuse``."""
    most = _hosts(flags.nnodes, refuse)
    for why in _conf_mistakes(flags.rdzv_conf):
        refuse(f"--rdzv-conf: {why}")
    backend = flags.rdzv_backend
    alone = most == 1 and backend == "static" and not flags.rdzv_endpoint and flags.master_port is None
    if most > 1:
        refuse(f"--nnodes {flags.nnodes}: {SEVERAL_HOSTS}")
    elif not flags.standalone and backend in _REFUSED:
        refuse(f"--rdzv-backend {backend}: {_REFUSED[backend]}")
    elif not flags.standalone and backend not in ("static", "c10d"):
        refuse(f"--rdzv-backend {backend}: a backend from another package needs torch (allowed: c10d, static)")
    elif backend == "static" and not flags.standalone and not alone:
        return _static(flags, refuse)
    if flags.node_rank:
        note("--node-rank is for --rdzv-backend static with a --master-port, and means nothing here")
    if flags.master_addr is not None or flags.master_port is not None:
        note("--master-addr and --master-port are for static with both given: MASTER_ADDR and MASTER_PORT are chosen")
    named = not (flags.standalone or alone) and flags.rdzv_id
    return Meeting(_run_id(flags.rdzv_id if named else "", refuse), flags.local_addr or HERE, 0, "c10d")


def _static(flags: Namespace, refuse: Callable[[str], None]) -> Meeting:
    addr, port = flags.master_addr or _STATIC_ADDR, flags.master_port or _STATIC_PORT
    if flags.rdzv_endpoint:
        found = re.fullmatch(r"\s*(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+):([0-9]{1,5})\s*", flags.rdzv_endpoint)
        if found is None:
            refuse(f"--rdzv-endpoint {flags.rdzv_endpoint}: static needs HOST:PORT, or --master-addr and --master-port")
        else:
            addr, port = found[1], int(found[2])
    if not 0 < port < 65536:
        refuse(f"MASTER_PORT {port} is not a port (allowed: 1 to 65535)")
    if flags.node_rank != 0:
        refuse(f"--node-rank {flags.node_rank}: of one host there is only number 0")
    return Meeting(_run_id(flags.rdzv_id, refuse), addr.strip("[]"), port, "static")


def _hosts(nnodes: str, refuse: Callable[[str], None]) -> int:
    """The most hosts there may be."""
    found = re.fullmatch(r"\s*([0-9]+)\s*(?::\s*([0-9]+)\s*)?", nnodes)
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 0 < least <= most:
        refuse(f"--nnodes {nnodes}: not a number of hosts (allowed: N, or MIN:MAX with 0 < MIN <= MAX)")
        return 1
    return most


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
    """What is wrong in ``key=value,...`` (torch's ``_parse_rendezvous_config``); for one host, nothing else matters."""
    mistakes = []
    for pair in text.split(",") if text.strip() else ():
        key, _, value = (part.strip() for part in pair.partition("="))
        if not key or not value:
            mistakes.append(f"{pair!r} is not KEY=VALUE")
        elif key == "is_host" and value.lower() in ("0", "false", "f", "no", "n"):
            mistakes.append("is_host is false, and there is no other host to wait for")
    return mistakes
