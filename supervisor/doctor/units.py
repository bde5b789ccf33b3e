"""The systemd service that runs rankd: whether it waits as long as a stop may take, and lets itself be told."""

from __future__ import annotations

import os
import pwd
import re
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from supervisor.doctor import Finding
from supervisor.plan import DaemonPlan, GroupPlan

UNIT = "rankd.service"
BOOTED = "/run/systemd/system"
JOURNAL = "/run/systemd/journal/socket"
ASKED = (
    "LoadState", "ExecStart", "User", "Type", "NotifyAccess", "WatchdogUSec", "TimeoutStopUSec", "KillMode", "Delegate",
    "ControlGroup", "LimitNOFILE", "LimitNPROC", "TasksMax", "OOMScoreAdjust", "OOMPolicy", "StateDirectory",
    "RuntimeDirectory", "LogRateLimitIntervalUSec", "LogRateLimitBurst",
)  # fmt: skip
_UNITS = {
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1,
    "min": 60,
    "h": 3600,
    "d": 86400,
    "w": 604800,
    "month": 2629800,
    "y": 31557600,
}


@dataclass(frozen=True, slots=True)
class Unit:
    """A loaded unit and what ``systemctl show`` says of it; a property that this systemd does not know is not there."""

    name: str
    properties: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        return self.properties.get(name, "")

    @property
    def user(self) -> str:
        return self["User"]

    def number(self, name: str) -> int | None:
        """A limit; -1: infinity. None: not told."""
        text = self[name]
        if text in ("infinity", str(2**64 - 1)):
            return -1
        return int(text) if re.fullmatch("-?[0-9]+", text) else None

    def seconds(self, name: str) -> float:
        return span(self[name])


def span(text: str) -> float:
    """Seconds of a time span as systemctl shows it: ``1min 30s``, ``infinity`` (systemd.time(7))."""
    if text == "infinity":
        return float("inf")
    return sum(float(number) * _UNITS[unit or "us"] for number, unit in re.findall(r"([0-9.]+)([a-z]*)", text))


def find(name: str | None, config: str | None, booted: str = BOOTED) -> tuple[Unit | None, list[Finding]]:
    """The unit to judge by, and what there is to say of its absence. ``name`` None: ours, if that runs ``config``."""
    if not os.path.isdir(booted):
        if name is None:
            return None, [Finding("systemd", "ok", "did not boot this host: nobody restarts rankd if it dies")]
        return None, [Finding("systemd", "failed", f"did not boot this host, so that there is no {name}")]
    wanted = name or UNIT
    try:
        properties = show(wanted)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return None, [Finding("systemd", "warning", f"cannot be asked: {error}")]
    if properties.get("LoadState") != "loaded":
        if name is None:
            return None, [Finding("systemd", "ok", f"runs, and {UNIT} is not installed (name another with --unit)")]
        return None, [
            Finding("systemd", "failed", f"knows no {name} ({properties.get('LoadState')})", "systemctl daemon-reload")
        ]
    unit = Unit(wanted, properties)
    if name is None and config is not None and os.path.abspath(config) not in unit["ExecStart"].split():
        return None, [
            Finding("systemd", "ok", f"runs; {UNIT} does not run {config} (name the one that does with --unit)")
        ]
    return unit, []


def show(name: str) -> dict[str, str]:
    """What systemd says of a unit."""
    said = subprocess.run(
        ["systemctl", "show", f"--property={','.join(ASKED)}", "--", name],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=True,
    ).stdout  # fmt: skip
    return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)


def environment(unit: Unit | None, environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` with the directories that systemd would give a system service (systemd.exec(5))."""
    found = dict(environ)
    if unit is not None:
        for key, variable, above in (
            ("StateDirectory", "STATE_DIRECTORY", "/var/lib"),
            ("RuntimeDirectory", "RUNTIME_DIRECTORY", "/run"),
        ):
            if folders := unit[key].split():
                found[variable] = os.path.join(above, folders[0].partition(":")[0])
    return found


def uid(unit: Unit | None) -> int:
    """Who the daemon would be."""
    if unit is None:
        return os.geteuid()
    if not unit.user:
        return 0
    try:
        return int(unit.user) if unit.user.isdecimal() else pwd.getpwnam(unit.user).pw_uid
    except KeyError:
        return -1


def findings(unit: Unit | None, plan: DaemonPlan | None) -> Iterator[Finding]:
    if unit is not None:
        yield _service(unit)
        yield _stop(unit, plan)
    yield journal(unit)


def longest_stop(plan: DaemonPlan) -> float:
    """Seconds that a stop may take: the drain, and then the slowest chain of groups, dependents first."""
    dependents: dict[str, list[GroupPlan]] = {name: [] for name in plan.groups}
    for group in plan.groups.values():
        for other in group.depends_on:
            dependents[other].append(group)
    ended: dict[str, float] = {}
    waiting = list(plan.groups.values())
    while waiting:  # a chain of groups may be longer than the stack
        group = waiting[-1]
        before = [other for other in dependents[group.name] if other.name not in ended]
        if before:
            waiting += before
            continue
        waiting.pop()
        begins = max((ended[other.name] for other in dependents[group.name]), default=0.0)
        ended[group.name] = begins + sum(rung.wait for rung in group.stop.ladder)
    return plan.drain_delay + max(ended.values(), default=0.0)


def _service(unit: Unit) -> Finding:
    wrong = []
    if uid(unit) < 0:
        return Finding("unit", "failed", f"{unit.name}: there is no user {unit.user}", "systemd-sysusers")
    if unit["Type"] not in ("notify", "notify-reload"):
        wrong.append((f"Type={unit['Type']}: systemd does not hear when rankd is ready", "Type=notify"))
    elif unit["NotifyAccess"] == "none":
        wrong.append(("NotifyAccess=none: systemd does not listen to rankd", "NotifyAccess=main"))
    if unit.seconds("WatchdogUSec") in (0, float("inf")):
        wrong.append(("no watchdog: a rankd that hangs stays", "WatchdogSec=30"))
    if unit["KillMode"] != "mixed":
        wrong.append(
            (f"KillMode={unit['KillMode']}: a stop would not follow the ladder, or leave workers", "KillMode=mixed")
        )
    if unit["Delegate"] != "yes":
        wrong.append(("not delegated: no control group of its own for a worker", "Delegate=yes"))
    if unit["OOMPolicy"] == "stop":
        wrong.append(("OOMPolicy=stop: one worker out of memory ends everything", "OOMPolicy=continue"))
    if wrong:
        what, advice = ("; ".join(words) for words in zip(*wrong, strict=True))
        return Finding("unit", "warning", f"{unit.name}: {what}", f"in the unit: {advice}")
    watchdog = f"watchdog {unit['WatchdogUSec']}"
    return Finding("unit", "ok", f"{unit.name}: Type={unit['Type']}, {watchdog}, KillMode=mixed, delegated")


def _stop(unit: Unit, plan: DaemonPlan | None) -> Finding:
    allowed, shown = unit.seconds("TimeoutStopUSec"), f"TimeoutStopSec={unit['TimeoutStopUSec'].replace(' ', '')}"
    if plan is None:
        return Finding("stop", "ok", f"{shown} (name the configuration to compare it with its ladders)")
    takes = longest_stop(plan)
    if allowed > takes:
        return Finding("stop", "ok", f"{shown}; a stop takes at most {takes:g} s, dependents first")
    advice = f"TimeoutStopSec={int(takes) + 10} in the unit"
    if unit["Type"] in ("notify", "notify-reload") and unit["NotifyAccess"] != "none":
        words = (
            f"{shown}, but a stop may take {takes:g} s: rankd asks systemd for more, which only works while it is well"
        )
        return Finding("stop", "warning", words, advice)
    words = f"{shown}, but a stop may take {takes:g} s: systemd would kill workers in the midst of their ladder"
    return Finding("stop", "failed", words, advice)


def journal(unit: Unit | None, path: str = JOURNAL) -> Finding:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
        try:
            door.connect(path)
        except FileNotFoundError:
            return Finding("journal", "ok", "there is none: records go to stdout")
        except OSError as error:
            found = f"{path}: {error.strerror}"
            return Finding(
                "journal", "warning", found, "systemctl status systemd-journald; records are on stdout meanwhile"
            )
    burst = unit.number("LogRateLimitBurst") if unit else None
    limited = (
        f"{burst} lines in {unit['LogRateLimitIntervalUSec']}" if unit and burst else "journald.conf's RateLimitBurst"
    )
    return Finding(
        "journal", "ok", f"reachable; beyond {limited} it drops a service's lines (LogRateLimitIntervalSec=0)"
    )
