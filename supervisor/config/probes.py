"""What ``[groups.X.probe]`` means, and whether whom it asks can be asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from supervisor import values
from supervisor.config.mistakes import Mistakes
from supervisor.config.places import Path
from supervisor.plan import (
    DaemonPlan,
    GroupPlan,
    Probe,
    group_environment,
    single_host_world,
    worker_plan,
    world_environment,
)

if TYPE_CHECKING:
    from supervisor.config import tables

SHORTEST_INTERVAL = 0.1


def probe_of(path: Path, given: tables.Probe, mistakes: Mistakes) -> Probe | None:
    """None when nobody is to be asked."""
    ways = [way for way in ("http", "tcp", "exec") if getattr(given, way) is not None]
    if len(ways) > 1:
        mistakes.say((*path, ways[1]), f"there is {ways[0]} already (allowed: one of http, tcp, exec)")
    if given.interval < SHORTEST_INTERVAL:
        mistakes.say((*path, "interval"), f"is too short (allowed: {values.shown('100ms')} and more)")
    if not given.timeout:
        mistakes.say((*path, "timeout"), "leaves no time for an answer (allowed: more than 0)")
    if given.exec is not None and not given.exec[0]:
        mistakes.say((*path, "exec", 0), "must not be empty")
    if not ways:
        if given.liveness:
            mistakes.say((*path, "liveness"), "there is nobody to ask (needs http, tcp or exec)")
        return None
    return Probe(
        http=given.http or "",
        tcp=given.tcp or "",
        exec=tuple(given.exec or ()),
        interval=given.interval,
        timeout=given.timeout,
        rise=given.rise,
        fall=given.fall,
        liveness=given.liveness,
    )


def check_addresses(path: Path, group: GroupPlan, environ: Mapping[str, str], mistakes: Mistakes) -> None:
    """Whom the first worker would be asked at, with its own environment filled in."""
    if group.probe is None or group.probe.exec:
        return
    world = single_host_world(group, 0, "127.0.0.1", 1)
    daemon = DaemonPlan("", "", "", "", "", {})
    shared = group_environment(daemon, group, environ) | world_environment(world)
    try:
        probe = worker_plan(daemon, group, world, shared, 0, attempt=0, restarts=0).probe
    except ValueError:  # it could not be started, of which its start will tell
        return
    assert probe is not None
    for way, read, text in (("http", values.http_url, probe.http), ("tcp", values.tcp_address, probe.tcp)):
        try:
            if text:
                read(text)
        except ValueError as error:
            mistakes.say((*path, way), str(error))
