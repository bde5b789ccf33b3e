"""How all groups stand, in one line for people: what the bottom of a terminal says while the daemon runs."""

from __future__ import annotations

from collections.abc import Callable

from supervisor import clock
from supervisor.core import health
from supervisor.core.health import GroupView, Snapshot
from supervisor.report.prose import printable

NARROWEST = 10
"""Cells below which there is no room to say anything."""

ELLIPSIS = "…"

RESET, GREEN, YELLOW = "\x1b[0m", "\x1b[32m", "\x1b[33m"


def progress(snapshot: Snapshot, width: int, *, colour: bool = False) -> str:
    """One line of at most ``width`` cells; empty where nothing can be said. Green when all is ready, else yellow.

    Where there is no room for everything that can be said of several groups, less is said of each. What is too long
    even so is cut; of one group that is the end of why.
    """
    if width < NARROWEST or not snapshot.groups:
        return ""
    ending = f"{snapshot.stage}: " if snapshot.stage in ("draining", "stopping") else ""
    text = ""
    for say in (_with_reason, _with_numbers, _outline) if len(snapshot.groups) > 1 else (_with_reason,):
        text = printable(ending + " | ".join(say(view, snapshot.at) for view in snapshot.groups.values()))
        if cells(text) <= width:
            break
    text = cut(text, width)
    if not colour:
        return text
    return f"{GREEN if health.ready(snapshot).ok else YELLOW}{text}{RESET}"


def _with_reason(view: GroupView, now: float) -> str:
    text = _with_numbers(view, now)
    return text if view.phase == "running" or view.succeeded or not view.why else f"{text}: {view.why}"


def _with_numbers(view: GroupView, now: float) -> str:
    parts = [_outline(view, now)]
    if view.phase != "finished":
        if view.attempt >= 0 and view.phase != "backing_off":  # then the next one is named
            parts.append(f"attempt {view.attempt}")
        if view.restarts_left is not None:
            parts.append(f"{view.restarts_left} restart{'' if view.restarts_left == 1 else 's'} left")
    if view.phase == "running":
        parts.append(f"up {_whole(now - view.since)}")
    return ", ".join(parts)


def _outline(view: GroupView, now: float) -> str:
    if view.phase == "finished":
        return f"{view.name} {'succeeded' if view.succeeded else 'finished'}"
    if view.phase == "backing_off":  # nothing runs
        text = f"{view.name} backing off"
    else:
        text = f"{view.name} {view.phase} {view.ready_workers}/{view.size} ready"
    if view.next is None or view.next_at is None:
        return text
    return f"{text}, {view.next} in {_whole(view.next_at - now, up=True)}"


def _whole(seconds: float, *, up: bool = False) -> str:
    """In whole seconds, so that the line changes once a second at most; ``up``: what has begun counts."""
    whole = max(0, int(-(-seconds // 1) if up else seconds))
    return f"{whole} s" if whole < 60 else clock.words(whole)


def cells(text: str) -> int:
    """The columns that a terminal needs for a text (UAX 11, and nothing for what combines with what is before it)."""
    return len(text) if text.isascii() else sum(map(_measure(), text))


def cut(text: str, width: int) -> str:
    """The beginning of a text that fits into so many cells, with an ellipsis if that is not all of it."""
    if cells(text) <= width:
        return text
    measure, left = _measure(), width - 1
    for at, character in enumerate(text):
        left -= measure(character)
        if left < 0:
            return text[:at] + ELLIPSIS
    raise AssertionError("unreachable")


def _measure() -> Callable[[str], int]:
    """Cells of one character. What is ambiguous counts as one, as terminals outside of East Asia draw it."""
    import unicodedata  # noqa: PLC0415 - a megabyte, and names are ASCII nearly always

    def measure(character: str) -> int:
        if unicodedata.category(character) in ("Mn", "Me", "Cf"):
            return 0
        return 2 if unicodedata.east_asian_width(character) in "WF" else 1

    return measure
