"""``--rdzv-backend etcd``: hosts that come and go and meet in etcd, by torchrun's flags and words.

What torch's two etcd backends call by different names (torch.distributed.elastic.rendezvous, ``etcd_rendezvous`` and
``etcd_rendezvous_backend``) is taken by both.
"""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any

from supervisor import values
from supervisor.plan import RendezvousRules, StorePlan

PORT = 2379

_KEYS = {
    "join_timeout": "join_timeout", "timeout": "join_timeout", "last_call_timeout": "last_call_timeout",
    "close_timeout": "close_timeout", "lease_ttl": "lease_ttl", "exit_barrier_timeout": "exit_barrier_timeout",
    "prefix": "prefix", "etcd_prefix": "prefix", "protocol": "protocol", "on_store_loss": "on_store_loss",
    "ca": "ca", "cacert": "ca", "ca_cert": "ca", "cert": "cert", "ssl_cert": "cert", "key": "key",
    "ssl_cert_key": "key", "username": "username", "password_file": "password_file",
}  # fmt: skip
"""Every key that there is, and what it is here."""

_OF_LEASES = frozenset({"heartbeat_timeout", "keep_alive_interval", "keep_alive_max_attempt", "read_timeout"})
"""torch's keys for what one number says here."""

_CHOICES = {"protocol": ("http", "https"), "on_store_loss": ("keep", "stop")}
_FILES = frozenset({"ca", "cert", "key", "password_file"})


def elastic(
    flags: Namespace, least: int, most: int, refuse: Callable[[str], None], note: Callable[[str], None]
) -> tuple[RendezvousRules, StorePlan]:
    """The hosts, and where they meet. Whatever cannot be is given to ``refuse``."""
    conf: dict[str, Any] = {}
    for key, text in pairs(flags.rdzv_conf):
        if key in _OF_LEASES:
            note(f"--rdzv-conf {key} is not needed: lease_ttl says after how long a silent host is taken for dead")
        elif key not in _KEYS:
            refuse(f"--rdzv-conf {key}: etcd has no such key {values.choices(key, _KEYS)}")
        else:
            try:
                conf[_KEYS[key]] = _value(_KEYS[key], text)
            except ValueError as error:
                refuse(f"--rdzv-conf {key}: {error}")
    if flags.rdzv_id in ("", "none"):
        refuse("--rdzv-id is missing: hosts that meet have to know which job it is")
    for both in (("cert", "key"), ("username", "password_file")):
        if len(conf.keys() & set(both)) == 1:
            refuse(f"--rdzv-conf: {both[0]} and {both[1]} go together")
    if conf.get("protocol", "http") == "http":
        for key in sorted(conf.keys() & {"ca", "cert", "key"}):
            refuse(f"--rdzv-conf: {key} is for protocol=https, and etcd is asked by http")
    endpoints = tuple(
        _url(one.strip(), conf.get("protocol", "http"), refuse) for one in _endpoints(flags.rdzv_endpoint)
    )
    rules = RendezvousRules("etcd", most, min_hosts=least, **_chosen(conf, RendezvousRules))
    return rules, StorePlan(endpoints, addr=flags.local_addr or "", **_chosen(conf, StorePlan))


def pairs(text: str) -> list[tuple[str, str]]:
    """``key=value,...`` (torch's ``_parse_rendezvous_config``); what is no pair is left out."""
    found = (pair.partition("=") for pair in text.split(","))
    return [(key.strip(), value.strip()) for key, _, value in found if key.strip() and value.strip()]


def _endpoints(text: str) -> list[str]:
    return text.split(",") if text.strip() else [f"localhost:{PORT}"]


def _url(endpoint: str, protocol: str, refuse: Callable[[str], None]) -> str:
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:/\[\]\s]+)(?::([0-9]{1,5}))?", endpoint)
    if found is None or not 0 < int(found[2] or PORT) < 65536:
        refuse(f"--rdzv-endpoint {endpoint}: not where etcd could be (allowed: HOST or HOST:PORT, several with commas)")
        return endpoint
    return f"{protocol}://{found[1]}:{found[2] or PORT}"


def _value(key: str, text: str) -> object:
    if key in _CHOICES:
        if text not in _CHOICES[key]:
            raise ValueError(f"{text!r} is none of {', '.join(_CHOICES[key])}")
        return text
    if key in _FILES:
        return os.path.abspath(text)
    if key not in RendezvousRules.__dataclass_fields__:
        return text
    amount = float(text) if text.replace(".", "", 1).isdecimal() else text
    return values.lease_ttl(amount) if key == "lease_ttl" else values.duration(amount)


def _chosen(conf: Mapping[str, Any], kind: type) -> dict[str, Any]:
    return {key: value for key, value in conf.items() if key in kind.__dataclass_fields__}  # type: ignore[attr-defined]
