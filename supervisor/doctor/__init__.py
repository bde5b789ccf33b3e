"""Whether this host is one on which rankd does well: one finding a check, each found by looking or by trying.

Nothing is changed. What is told holds for the process that asks, but for what the service's unit says of the service.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

Verdict = Literal["ok", "warning", "failed"]


class Finding(NamedTuple):
    """What one check has found, in words; ``advice`` says what to do about it, if there is something to do.

    ``warning``: rankd runs, and what is said will be missed one day. ``failed``: rankd or a worker would not start, or
    could not do what the configuration promises.
    """

    check: str
    verdict: Verdict
    found: str
    advice: str = ""


def examine(config: str | None, unit: str | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Every finding, in the order in which things go wrong.

    ``config``: the file whose plan is to fit this host. ``unit``: the systemd service that runs it; None: rankd.service
    if there is one, and if that is what it runs.
    """
    from supervisor.doctor import containment, kernel, limits, plans, units  # noqa: PLC0415 - the caller prints first

    yield from kernel.findings()
    service, found = units.find(unit, config)
    plan = None
    if config is not None:
        told, plan = plans.read(config, units.environment(service, environ))
        yield told
    yield containment.finding(service)
    yield limits.open_files(plan, service)
    yield limits.processes(plan, service)
    yield limits.memory(plan, service)
    yield limits.core_dumps()
    yield limits.datagrams()
    yield from found
    yield from units.findings(service, plan)
    if plan is not None:
        yield from plans.findings(plan, environ, units.uid(service))


def read(*path: str) -> str:
    """The text of a file of the kernel's, without white space around it; empty if it cannot be had."""
    try:
        with open(os.path.join(*path), encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
