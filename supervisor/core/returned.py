"""What the functions of a group have returned, as far as there is room to tell it."""

from __future__ import annotations

import json
from typing import Any

from supervisor.core.state import Group

ROOM = 16384
"""Characters of JSON in one record or status, for all ranks together."""

NO_ROOM = f"there is no room for it here (at most {ROOM} bytes together): see return.json in the worker's directory"


def returned(group: Group) -> tuple[dict[str, Any], dict[str, str]]:
    """Values by global rank, as JSON wants its keys; and for those that are missing, why."""
    values: dict[str, Any] = {}
    notes: dict[str, str] = {}
    room = ROOM
    for local_rank, ended in sorted(group.ended.items()):
        one, rank = ended.returned, str(group.rank(local_rank))
        if one is None:
            continue
        if one.note:
            notes[rank] = one.note
        elif len(one.text) > room:
            notes[rank] = NO_ROOM
        else:
            values[rank] = json.loads(one.text)
            room -= len(one.text)
    return values, notes
