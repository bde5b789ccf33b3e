"""What groups are to each other: names, dependencies, ports."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from supervisor import values
from supervisor.config.mistakes import Mistakes
from supervisor.report.listen import parse_address

if TYPE_CHECKING:
    from supervisor.config import tables


def check(groups: Mapping[str, tables.Group], listeners: tables.Health, mistakes: Mistakes) -> None:
    """Say what is wrong between all groups of a file, and between them and the daemon's own addresses."""
    _check_names(groups, mistakes)
    _check_dependencies(groups, mistakes)
    _check_ports(groups, mistakes)
    _check_ranges(groups, listeners, mistakes)


def _check_names(groups: Mapping[str, tables.Group], mistakes: Mistakes) -> None:
    for name in groups:
        if not re.fullmatch(values.GROUP_NAME, name) or name in (".", "..") or len(name) > 255:
            mistakes.say(
                ("groups", name),
                f"{values.shown(name)} cannot name a group "
                '(allowed: 1 to 255 letters, digits, "_", "." and "-"; it becomes a folder and a label)',
            )


def _check_ports(groups: Mapping[str, tables.Group], mistakes: Mistakes) -> None:
    taken: dict[int, str] = {}
    for name, group in groups.items():
        if group.master_port and (first := taken.setdefault(group.master_port, name)) != name:
            mistakes.say(("groups", name, "master_port"), f"{group.master_port} is the port of group {first} already")


def _check_ranges(groups: Mapping[str, tables.Group], listeners: tables.Health, mistakes: Mistakes) -> None:
    """No two workers are given one port, nor one that the daemon or a group's rendezvous takes."""
    taken = dict(_taken(groups, listeners))
    earlier: dict[str, range] = {}
    for name, group in groups.items():
        if group.ports is None:
            continue
        for other, ports in earlier.items():
            both = range(max(ports[0], group.ports[0]), min(ports[-1], group.ports[-1]) + 1)
            if both:
                shared = f"{both[0]}" if len(both) == 1 else f"{both[0]}-{both[-1]}"
                mistakes.say(("groups", name, "ports"), f"{shared} belongs to group {other} already")
        for port in sorted(taken.keys() & set(group.ports)):
            mistakes.say(("groups", name, "ports"), f"{port} is {taken[port]}")
        earlier[name] = group.ports


def _taken(groups: Mapping[str, tables.Group], listeners: tables.Health) -> Iterator[tuple[int, str]]:
    """Ports that are not for workers to listen on, each with whose it is. 0 is none."""
    for name, group in groups.items():
        yield group.master_port, f"the master_port of group {name}"
    for text in listeners.listen:
        yield parse_address(text).port, f"the health listener's ({text})"
    if listeners.agent_check:
        yield parse_address(listeners.agent_check).port, f"agent_check's ({listeners.agent_check})"


def _check_dependencies(groups: Mapping[str, tables.Group], mistakes: Mistakes) -> None:
    for name, group in groups.items():
        for other, condition in group.depends_on.items():
            path = ("groups", name, "depends_on", other)
            if other == name:
                mistakes.say(path, "a group cannot wait for itself")
            elif other not in groups:
                if not mistakes.about("groups", other):
                    mistakes.say(path, f"there is no group {values.shown(other)} {values.choices(other, groups)}")
            elif condition == "succeeded" and groups[other].restart.policy == "always":
                mistakes.say(path, f'{other} never succeeds: its restart policy is "always"')
    for cycle in _cycles({name: list(group.depends_on) for name, group in groups.items()}):
        mistakes.say(("groups", cycle[0], "depends_on", cycle[1]), f"groups wait for each other: {' -> '.join(cycle)}")


def _cycles(edges: Mapping[str, list[str]]) -> list[list[str]]:
    """Cycles of two and more, closed (``[a, b, a]``): one for every group that others lead back to.

    Depth first without recursion: a chain of groups may be longer than the stack.
    """
    found: dict[str, list[str]] = {}
    done: set[str] = set()
    for root in edges:
        trail: dict[str, list[str]] = {}
        here: str | None = root if root not in done else None
        while here is not None:
            if here not in trail:
                trail[here] = [other for other in reversed(edges[here]) if other in edges and other != here]
            if not trail[here]:
                done.add(here)
                del trail[here]
                here = next(reversed(trail), None)
                continue
            other = trail[here].pop()
            if other in trail:
                names = list(trail)
                found.setdefault(other, [*names[names.index(other) :], other])
            elif other not in done:
                here = other
    return list(found.values())
