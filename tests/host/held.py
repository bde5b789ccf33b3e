"""A process that is held by the kernel, as one is that waits for a dead disk, until somebody lets it go."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HOLD = """
import os, sys
def hold(fifo):
    # Between vfork(2) and exec(2) of the child the parent is in state D, and the child waits for somebody to write.
    opens = (os.POSIX_SPAWN_OPEN, 9, fifo, os.O_RDONLY, 0)
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}, file_actions=[opens]), 0)
"""


def let_go(fifo: Path) -> None:
    """Of who is held, or is just about to be."""
    os.close(os.open(fifo, os.O_WRONLY))


def held_for(fifo: Path, times: int) -> list[str]:
    """The command of a process of which one thread is held so many times, and says each time that it was let go."""
    os.mkfifo(fifo)
    script = f"""{HOLD}
import threading
def often():
    for _ in range({times}):
        hold(sys.argv[1])
        print("let go", flush=True)
threading.Thread(target=often).start()
"""
    return [sys.executable, "-c", script, str(fifo)]
