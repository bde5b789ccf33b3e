"""What the page looks back on: the phases that each group went through, and the root causes of its failures."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass

from supervisor.core.events import Event
from supervisor.core.view import public

STRETCHES = 200
"""Of each group; fifty restarts of a gang."""

CAUSES = 20
"""Of each group."""

_BECAME = {
    "group.starting": "starting",
    "group.ready": "ready",
    "group.degraded": "degraded",
    "group.stopping": "stopping",
    "group.backing_off": "backing off",
    "group.stopped": "stopped",
    "group.succeeded": "succeeded",
    "group.failed": "failed",
}


@dataclass(frozen=True, slots=True)
class Stretch:
    """From ``at`` (monotonic seconds) until the next one, the group was ``state``."""

    at: float
    state: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Cause:
    """A failure that was no consequence of another; ``rank`` is global."""

    at: float
    attempt: int
    rank: int
    reason: str


class History:
    """Hears every event, and keeps what is newest."""

    def __init__(self) -> None:
        self._stretches: defaultdict[str, deque[Stretch]] = defaultdict(lambda: deque(maxlen=STRETCHES))
        self._causes: defaultdict[str, deque[Cause]] = defaultdict(lambda: deque(maxlen=CAUSES))

    def observe(self, event: Event) -> None:
        """Note a change of phase or a root cause; anything else is passed over."""
        group, state = event.group, _BECAME.get(event.name)
        if group is None:
            return
        if state is not None:
            self._stretches[group].append(Stretch(event.at, state, event.fields["attempt"]))
        elif event.name == "worker.failed" and event.fields["root_cause"]:
            told = event.fields
            self._causes[group].append(Cause(event.at, told["attempt"], told["rank"], public(told["reason"])))

    def stretches(self, group: str) -> Sequence[Stretch]:
        """Oldest first."""
        return tuple(self._stretches.get(group, ()))

    def causes(self, group: str) -> Sequence[Cause]:
        """Newest first."""
        return tuple(reversed(self._causes.get(group, ())))
