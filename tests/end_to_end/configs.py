"""Configurations in few words: TOML text of groups, and the small programs that they run."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def python(script: str, *arguments: str) -> list[str]:
    """The argv of a worker written in Python; ``-S`` and ``-E`` because a bare interpreter starts faster."""
    return [sys.executable, "-S", "-E", "-u", "-c", script, *arguments]


TABLES = ("restart", "stop", "logs", "watchdog")

SLEEP = ["/bin/sleep", "1000"]


def toml(value: object) -> str:
    """A value as TOML, tables inline."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml(one) for one in value) + "]"
    return json.dumps(value)


def table(name: str, /, **keys: object) -> str:
    """One TOML table: ``table("daemon", name="x")``."""
    return "\n".join([f"[{name}]", *(f"{key} = {toml(value)}" for key, value in keys.items()), ""])


def group(name: str, command: Sequence[str], /, **keys: object) -> str:
    """A group's tables: ``group("trainer", SLEEP, workers=2, restart={"max_restarts": 0})`` (one worker by default)."""
    plain = {"workers": 1} | {key: value for key, value in keys.items() if key not in TABLES}
    text = table(f"groups.{name}", command=list(command), **plain)
    for key in TABLES:
        if key in keys:
            below = keys[key]
            assert isinstance(below, Mapping)
            text += "\n" + table(f"groups.{name}.{key}", **below)
    return text


def ladder(term: str, kill: str = "5s") -> dict[str, Any]:
    """SIGTERM, so long, then SIGKILL."""
    return {"ladder": [{"signal": "SIGTERM", "wait": term}, {"signal": "SIGKILL", "wait": kill}]}
