"""What a group's workers run: a command as it is written, or a function as the command that calls it."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from supervisor import values
from supervisor.config.mistakes import Mistakes, no_string
from supervisor.config.places import Path
from supervisor.worker import call

if TYPE_CHECKING:
    from supervisor.config import tables

LONGEST = 100_000
"""Bytes of a function's arguments as JSON: they are one word of a command (execve(2): 128 KiB)."""


def command(name: str, group: tables.Group, environ: Mapping[str, str], mistakes: Mistakes) -> tuple[str, ...]:
    """The argv of the group's workers, whose environment is ``environ``. A function is called by the Python that runs
    rankd, or by the one named in PYTHON_EXEC (torch.distributed.run)."""
    path = ("groups", name)
    if group.function is None:
        return _program(path, group, mistakes)
    if group.command is not None:
        mistakes.say((*path, "function"), "a group runs either a function or a command (remove one of the two)")
    for key, given in (("args", group.args), ("kwargs", group.kwargs)):
        for where, what in _not_json(given):
            mistakes.say((*path, key, *where), what)
    if mistakes.within(*path, "args") or mistakes.within(*path, "kwargs"):
        return ()
    arguments = json.dumps({"args": group.args, "kwargs": group.kwargs})
    if len(arguments) > LONGEST:
        mistakes.say(
            (*path, "args"), f"args and kwargs have {len(arguments)} bytes as JSON (allowed: {LONGEST}; use a file)"
        )
    # A dollar written like this stays one: what is for the function is not for us to replace.
    words = (os.path.abspath(call.__file__), group.function, arguments.replace("$", "\\u0024"))
    return (environ.get("PYTHON_EXEC") or sys.executable, "-u", *words)


def _program(path: Path, group: tables.Group, mistakes: Mistakes) -> tuple[str, ...]:
    if group.kwargs:
        mistakes.say((*path, "kwargs"), "is for a function, and this group has none")
    for number, word in enumerate(group.args):
        place = (*path, "args", number)
        try:
            if not isinstance(word, str):
                mistakes.say(place, no_string(place, word))
            else:
                values.no_nul(word)
        except ValueError as error:
            mistakes.say(place, str(error))
    if group.command is None:
        if not any(mistakes.within(*path, key) for key in ("command", "function")):
            mistakes.say((*path, "command"), "is missing")
        return ()
    if not group.command[0]:
        mistakes.say((*path, "command", 0), "must not be empty")
    return (*group.command, *group.args)


def _not_json(value: Any, place: Path = ()) -> Iterator[tuple[Path, str]]:
    """Where a TOML value has what JSON has no word for."""
    if isinstance(value, list | dict):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _not_json(one, (*place, key))
    elif isinstance(value, float) and not math.isfinite(value):
        yield place, f"{values.shown(value)} cannot be handed on as JSON (write it as a string)"
    elif not isinstance(value, str | int | float | bool):
        yield place, f"{values.shown(value)} is a date or time: write it as a string"
