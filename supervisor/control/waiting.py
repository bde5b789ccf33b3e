"""Whether what was asked of a group is so by now, or cannot become so any more: pure, from ``/status``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DONE = {"start": "started", "stop": "stopped", "restart": "restarted", "scale": "scaled"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """``words`` go on after the group's name, or say why it is not so."""

    is_so: bool
    words: str


def outcome(verb: str, group: Mapping[str, Any] | None, before: int) -> Outcome | None:
    """None: it is not decided yet. ``before``: the attempt when it was asked for; ``group`` None: there is none."""
    if verb == "stop":
        return _of_a_stop(group)
    if group is None:
        return Outcome(False, "the configuration has it no more")
    if group["phase"] == "finished" and verb == "scale" and group["attempt"] == before:
        return Outcome(True, f"is not running, and has {group['size']} workers when it is started")
    if group["phase"] == "finished":
        if group["attempt"] > before or verb == "start":
            return Outcome(True, "has succeeded") if group["succeeded"] else Outcome(False, group["why"])
        return Outcome(False, group["why"])  # only what cannot be killed keeps a group from beginning anew
    if verb != "start" and group["roll"] is not None:
        halted = group["roll"]["halted"]
        return Outcome(False, f"goes on with workers that are not replaced: {halted}") if halted else None
    anew = verb != "restart" or group["attempt"] > before
    settled = all(worker["state"] in ("ready", "succeeded") for worker in group["workers"])
    return Outcome(True, "is ready") if anew and group["phase"] == "running" and settled else None


def outcome_of_rank(verb: str, group: Mapping[str, Any] | None, rank: int, before: int) -> Outcome | None:
    """Likewise of one rank; ``before`` is the attempt of the worker that it had."""
    if group is None:
        return Outcome(False, "the configuration has its group no more")
    row = next((worker for worker in group["workers"] if worker["rank"] == rank), None)
    if row is None or group["phase"] not in ("starting", "running"):
        return Outcome(False, group["why"])
    if row["state"] in ("ready", "succeeded") and (verb == "start" or row["attempt"] > before):
        return Outcome(True, "has succeeded" if row["state"] == "succeeded" else "is ready")
    return Outcome(False, row["exit"]) if row["state"] == "failed" else None


def may_decide(records: Sequence[Mapping[str, Any]], group: str) -> bool:
    """Whether one of them may have decided it: a crowd of workers that start or end is no reason to ask each time."""
    return any(
        record["event"] == "lost"
        or record["event"].startswith("daemon.")
        or (record.get("group") == group and record["event"].startswith(("group.", "worker.unkillable")))
        for record in records
    )


def _of_a_stop(group: Mapping[str, Any] | None) -> Outcome | None:
    if group is None:
        return Outcome(True, "has stopped, and the configuration has it no more")
    if any(worker["state"] == "unkillable" for worker in group["workers"]):
        return Outcome(False, group["why"])
    return Outcome(True, "has stopped") if group["phase"] == "finished" else None


def so_far(verb: str, group: Mapping[str, Any] | None) -> str:
    """What has become of it when nobody waits any longer."""
    if group is None:
        return "is gone"
    ready = f"{group['ready_workers']}/{group['size']} workers ready"
    why = f": {group['why']}" if group["why"] else ""
    return f"is not {DONE[verb]} yet, but {group['phase'].replace('_', ' ')}, {ready}{why}"
