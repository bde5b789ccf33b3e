"""A file that is there whole, as it was or as it is to be, whenever somebody is killed."""

from __future__ import annotations

import os
from contextlib import suppress


def replace_file(path: str, text: bytes) -> None:
    """Write a new file beside it, readable by its owner alone, and rename(2) that over it. Raises ``OSError``."""
    new = path + ".new"
    try:
        file = _create(new)
    except FileExistsError:  # one of ours was killed here
        os.unlink(new)
        file = _create(new)
    try:
        try:
            while text:
                text = text[os.write(file, text) :]
        finally:
            os.close(file)
        os.rename(new, path)
    except OSError:
        with suppress(OSError):
            os.unlink(new)
        raise


def _create(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
