"""What the functions of a group have returned, as far as there is room to tell it."""

from __future__ import annotations

import json
from typing import Any

from supervisor.core.state import Group

ROOM = 16384
"""Characters of JSON in one record or status, for all ranks together."""


def returned(group: Group) -> dict[str, Any]:
    """``return_values`` by global rank, as JSON wants its keys; ``return_notes``: why a rank has none;
    ``return_values_left_out``: how many had no room here. What would be empty is left out.
    """
    values: dict[str, Any] = {}
    notes: dict[str, str] = {}
    left_out = 0
    room = ROOM
    for local_rank, ended in sorted(group.ended.items()):
        one, rank = ended.returned, str(group.rank(local_rank))
        if one is None:
            continue
        takes = len(one.note or one.text) + len(rank)
        if takes > room:
            left_out += 1
            continue
        room -= takes
        if one.note:
            notes[rank] = one.note
        else:
            values[rank] = json.loads(one.text)
    told = {"return_values": values, "return_notes": notes, "return_values_left_out": left_out}
    return {name: one for name, one in told.items() if one}
