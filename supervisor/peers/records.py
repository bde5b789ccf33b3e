"""What the store holds of a rendezvous: which keys, and JSON that people can read with ``etcdctl get --prefix``.

Nothing read from a store is trusted: a value is small, of a version we know, and every field of its type, or it is
``Unreadable``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar, cast, get_args
from urllib.parse import quote, unquote

from supervisor.core.messages import Because
from supervisor.core.rendezvous import Form, Host, Round, Seat, Verdict
from supervisor.peers.store import MAX_OPERATIONS, Delete, Put

VERSION = 1
MAX_VALUE = 16 * 1024
"""Bytes of one value. Ours have a few hundred."""

_LONGEST_TEXT = 4096
_LONGEST_NAME = 255
_TYPES: dict[str, type] = {"str": str, "int": int, "bool": bool}

R = TypeVar("R", Host, Round, Seat, Verdict)


class Unreadable(ValueError):
    """A value in the store is not what belongs there, and why."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one job's group. What every host watches is under ``now``; what only the leader does is not."""

    base: str

    @classmethod
    def of(cls, prefix: str, run_id: str, group: str) -> Keys:
        return cls(f"{prefix.rstrip('/')}/{quote(run_id, safe='')}/{quote(group, safe='')}")

    @property
    def all(self) -> str:
        return f"{self.base}/"

    @property
    def now(self) -> str:
        return f"{self.base}/now/"

    @property
    def round(self) -> str:
        return f"{self.base}/now/round"

    @property
    def leader(self) -> str:
        return f"{self.base}/now/leader"

    def host(self, name: str) -> str:
        return f"{self.base}/hosts/{quote(name, safe='')}"

    def seat(self, name: str) -> str:
        return f"{self.base}/seats/{quote(name, safe='')}"

    def host_of(self, key: str) -> str | None:
        """The name of the host whose record is under ``key``; None when it is no host's."""
        return self._name(key, f"{self.base}/hosts/")

    def seat_of(self, key: str) -> str | None:
        """The name of the host whose seat is under ``key``; None when it is no seat."""
        return self._name(key, f"{self.base}/seats/")

    def _name(self, key: str, folder: str) -> str | None:
        return unquote(key.removeprefix(folder)) if key.startswith(folder) else None


def read_leader(value: bytes) -> str:
    """The name of the host that leads, for people: nothing is decided by it."""
    return value[:_LONGEST_NAME].decode(errors="replace")


def written(record: Host | Round | Seat) -> bytes:
    """The value for a record. When a host has arrived is the store's to know."""
    data = {"v": VERSION, **asdict(record)}
    data.pop("arrived", None)
    return json.dumps(data, separators=(",", ":")).encode()


def read_round(value: bytes) -> Round:
    """Raises ``Unreadable``, as all of these do."""
    data = _document(value)
    given = data.get("verdict")
    verdict = None if given is None else _record(Verdict, {} if not isinstance(given, dict) else given)
    round = _record(Round, {**data, "verdict": verdict})
    if round.phase not in {"open", "formed", "closed"}:
        raise Unreadable(f"{round.phase!r} is no phase of a round")
    if round.because not in {"", *get_args(Because)}:
        raise Unreadable(f"{round.because!r} is no reason for a round")
    if round.phase != "open" and (round.phase == "closed") != (round.verdict is not None):
        raise Unreadable("a round has a verdict when it is closed, and not when it is formed")
    if verdict is not None and verdict.outcome not in {"succeeded", "failed"}:
        raise Unreadable(f"{verdict.outcome!r} is no outcome")
    return round


def read_host(value: bytes, name: str, arrived: int) -> Host:
    """The record of the host ``name``, which first appeared with the store's revision ``arrived``."""
    host = _record(Host, {**_document(value), "arrived": arrived})
    if host.name != name:
        raise Unreadable(f"the record of host {host.name!r} is under the name {name!r}")
    if not 0 < host.port < 65536 or host.workers < 1:
        raise Unreadable(f"port {host.port} and {host.workers} workers: one of them cannot be")
    return host


def read_seat(value: bytes, name: str) -> Seat:
    """The seat of the host ``name``."""
    seat = _record(Seat, _document(value))
    if seat.host != name:
        raise Unreadable(f"the seat of host {seat.host!r} is under the name {name!r}")
    return seat


def pieces(form: Form, keys: Keys, most: int = MAX_OPERATIONS) -> list[tuple[Put | Delete, ...]]:
    """What it takes to form a round, as transactions of at most ``most`` operations. The last one has the round."""
    writes: list[Put | Delete] = [Put(keys.seat(seat.host), written(seat)) for seat in form.seats]
    writes += [Delete(keys.seat(name)) for name in form.unseat]
    writes.append(Put(keys.round, written(form.round)))
    return [tuple(writes[at : at + most]) for at in range(0, len(writes), most)]


def _document(value: bytes) -> dict[str, Any]:
    if len(value) > MAX_VALUE:
        raise Unreadable(f"{len(value)} bytes are too many")
    try:
        data = json.loads(value)
    except (ValueError, RecursionError):
        raise Unreadable("it is not JSON") from None
    if not isinstance(data, dict):
        raise Unreadable("it is not a JSON object")
    version = data.get("v")
    if type(version) is not int or version != VERSION:
        raise Unreadable(f"it has version {str(version)[:20]}, not {VERSION}")
    return data


def _record(kind: type[R], data: dict[str, Any]) -> R:
    """A record of the fields that it has; others are a later version's and passed over."""
    chosen = {}
    for one in fields(kind):
        if one.name not in data:
            raise Unreadable(f"{one.name} is missing")
        value = data[one.name]
        wanted = None if one.name == "verdict" else _TYPES.get(cast("str", one.type), str)
        if wanted is not None and type(value) is not wanted:
            raise Unreadable(f"{one.name} is not of type {wanted.__name__}")
        if type(value) is int and not 0 <= value < 2**53:
            raise Unreadable(f"{one.name} is out of range")
        if type(value) is str and len(value) > _LONGEST_TEXT:
            raise Unreadable(f"{one.name} is too long")
        chosen[one.name] = value
    return kind(**chosen)
