"""``learnt.json``: how long sections took when they went well, for the next daemon in the state directory.

Replaced by rename(2), like ``state.json``, and written a while after something was learnt: nobody waits for it, and a
daemon that learns nothing does not wake up for it. What is read is believed only as far as it is checked.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from supervisor.host.replaced import replace_file

NAME = "learnt.json"
VERSION = 1
LIMIT = 1 << 24
"""Bytes that are read at most; a section takes ten thousand."""

EVERY = 60.0
"""Seconds from something learnt to its writing: what a daemon that is killed forgets."""


class LearntFile:
    """The file of one state directory. Lives in one event loop; has to be closed."""

    def __init__(
        self, directory: str, gather: Callable[[], Mapping[str, Any]], troubled: Callable[[str], None]
    ) -> None:
        """``gather`` gives JSON values by the group's name. ``troubled`` is told once why nothing can be written."""
        self._path = os.path.join(directory, NAME)
        self._gather = gather
        self._troubled = troubled
        self._in_trouble = False
        self._pending: asyncio.TimerHandle | None = None

    def read(self) -> Mapping[str, Any]:
        """What an earlier daemon has learnt, by the group's name: nothing where there is no file.

        Raises ``ValueError`` if the file is not one of ours, and ``OSError``.
        """
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return {}
        with open(fd, "rb") as file:
            text = file.read(LIMIT + 1)
        if len(text) > LIMIT:
            raise ValueError("it is too long")
        try:
            written = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError("it is not JSON") from None
        if not isinstance(written, dict) or written.get("version") != VERSION:
            raise ValueError(f"it is not of version {VERSION}")
        groups = written.get("groups")
        if not isinstance(groups, dict):
            raise ValueError("it has no groups")  # noqa: TRY004 - wrong data, and no wrong call
        return groups

    def changed(self) -> None:
        """Something was learnt: it is written within ``EVERY`` seconds."""
        if self._pending is None:
            self._pending = asyncio.get_running_loop().call_later(EVERY, self._write)

    def close(self) -> None:
        """Write what is not written yet. Idempotent."""
        if self._pending is not None:
            self._pending.cancel()
            self._write()

    def _write(self) -> None:
        self._pending = None
        text = json.dumps({"version": VERSION, "groups": self._gather()}, allow_nan=False) + "\n"
        try:
            replace_file(self._path, text.encode())
        except OSError as error:
            if not self._in_trouble:
                self._troubled(error.strerror or str(error))
            self._in_trouble = True
        else:
            self._in_trouble = False
