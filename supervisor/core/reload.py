"""What a new configuration would change in a running daemon: plans are compared key by key.

A key that is not known to take effect by itself needs a restart, of the group or of the daemon: so does every key that
somebody adds and forgets here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from supervisor.plan import DaemonPlan, GroupPlan

AT_ONCE = frozenset({"daemon.when_done", "daemon.drain_delay", "log.level", "health.drain_status", "hooks"})
"""Keys of the daemon that take effect at once; all others hold from its start to its end."""

_GROUP_AT_ONCE = frozenset(
    {"depends_on", "required", "ready_after", "unready_after", "stop.ladder", "stop.scope"}
    | {f"restart.{key}" for key in ("policy", "max_restarts", "window", "backoff", "reset_after", "drain")}
    | {f"restart.{key}_exit_codes" for key in ("fatal", "success")}
    | {"restart.max_unavailable"}
    | {f"probe.{key}" for key in ("interval", "timeout", "rise", "fall", "liveness")}
    | {f"watchdog.{key}" for key in ("boot", "start_timeout", "sections", "auto", "out_of_section", "stopping")}
    | {"watchdog.uninterruptible", "watchdog.dump"}
)
"""Keys of a group that its workers need not be started anew for."""
_TABLES = {
    "daemon.log_level": "log.level",
    "daemon.log_format": "log.format",
    "daemon.listen": "health.listen",
    "daemon.drain_status": "health.drain_status",
    "daemon.agent_check": "health.agent_check",
    "daemon.hooks": "hooks",
    "daemon.torchelastic_events": "log.torchelastic_events",
    "daemon.torchelastic_metrics": "log.torchelastic_metrics",
    "daemon.control": "control.socket",
    "daemon.control_users": "control.allow_users",
    "daemon.store": "rendezvous",
    "rendezvous.hosts": "rendezvous.nodes",
    "rendezvous.min_hosts": "rendezvous.nodes",
    "daemon.state_dir_is_common": "daemon.state_dir",
    "resources.cpus": "resources.cpu_affinity",
}
"""Keys that the plan calls by another name than the file."""


Fate = Literal["unchanged", "apply live", "restart", "add", "remove"]


@dataclass(frozen=True, slots=True)
class GroupChange:
    """``keys`` of a group's table, dotted; ``restart``: those of them that hold only for workers started anew."""

    keys: tuple[str, ...]
    restart: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """``fixed``: keys of the daemon that only a new daemon can go by; ``applied``: the other ones that differ.

    Groups are in the order of the new configuration, ``removed`` ones in that of the old.
    """

    fixed: tuple[str, ...] = ()
    applied: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: Mapping[str, GroupChange] = field(default_factory=dict)

    def of(self, name: str) -> tuple[Fate, tuple[str, ...]]:
        """What becomes of that group of either configuration, and for which keys."""
        if name in self.added or name in self.removed:
            return "add" if name in self.added else "remove", ()
        change = self.changed.get(name)
        if change is None:
            return "unchanged", ()
        return ("restart", change.restart) if change.restart else ("apply live", change.keys)

    def is_but_scaling(self, name: str) -> bool:
        """Nothing changes but how many workers that group has."""
        others = {group: change for group, change in self.changed.items() if group != name}
        scaled = self.changed.get(name)
        return replace(self, changed=others) == Changes() and (scaled is None or scaled.keys == ("workers",))

    @property
    def restarted(self) -> tuple[str, ...]:
        """The groups that a change restarts."""
        return tuple(name for name, change in self.changed.items() if change.restart)


def compare(old: DaemonPlan, new: DaemonPlan) -> Changes:
    """From the one configuration to the other."""
    keys = [key for key in dict.fromkeys(_differing(old, new, "daemon.", deep=False)) if key != "daemon.groups"]
    return Changes(
        fixed=tuple(key for key in keys if key not in AT_ONCE),
        applied=tuple(key for key in keys if key in AT_ONCE),
        added=tuple(name for name in new.groups if name not in old.groups),
        removed=tuple(name for name in old.groups if name not in new.groups),
        changed={
            name: _change(old.groups[name], plan)
            for name, plan in new.groups.items()
            if name in old.groups and old.groups[name] != plan
        },
    )


def _change(old: GroupPlan, new: GroupPlan) -> GroupChange:
    keys = tuple(_differing(old, new))
    # A worker's READY=1 is waited for from its start or not at all.
    at_once = _GROUP_AT_ONCE - (frozenset() if old.readiness == new.readiness else {"watchdog.start_timeout"})
    return GroupChange(keys, tuple(key for key in keys if key not in at_once))


def _differing(old: Any, new: Any, table: str = "", *, deep: bool = True) -> Iterator[str]:
    """The keys in which two plans differ, as the file has them; those of its tables with their table's name."""
    for one in fields(old):
        key = table + one.name
        before, after = getattr(old, one.name), getattr(new, one.name)
        if before == after:
            continue
        if deep and not table and is_dataclass(before) and type(before) is type(after):
            yield from _differing(before, after, f"{key}.")
        else:
            yield _TABLES.get(key, key)
