"""What a worker may import: its side of the contract with whoever supervises it. Standard library only.

Importing it costs next to nothing, and all of it does nothing in a program that nobody supervises.
"""

from __future__ import annotations

from supervisor.worker.recording import record

TYPE_CHECKING = False  # typing itself takes a few milliseconds
if TYPE_CHECKING:
    from supervisor.worker.notify import expires, heartbeat, progress, ready, section, status, stopping

__all__ = ["expires", "heartbeat", "progress", "ready", "record", "section", "status", "stopping"]


def __getattr__(name: str) -> object:
    """A program that only records its error need not load sockets (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from supervisor.worker import notify  # noqa: PLC0415

    return getattr(notify, name)
