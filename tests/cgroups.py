"""A control group of version 2 for a test, whatever this machine has mounted.

The hierarchy is mounted in a mount namespace of its own, which a helper process keeps open, and seen from here through
its /proc/PID/root. Where the machine has given its controllers to version 1, groups have kill, freeze and events all
the same.
"""

from __future__ import annotations

import os
import secrets
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_HOLD = 'mount -t cgroup2 none "$1" && echo mounted && read -r _'
_ENTER = 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"'


def missing() -> str:
    """Why there can be no control groups here; empty when there can."""
    if os.geteuid():
        return "control groups are made by root"
    if tools := [tool for tool in ("unshare", "nsenter") if shutil.which(tool) is None]:
        return f"control groups need {' and '.join(tools)}: apt-get install util-linux"
    tried = subprocess.run(
        ["unshare", "-m", "mount", "-t", "cgroup2", "none", "/mnt"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return f"cgroup v2 cannot be mounted: {tried.stderr.strip()}" if tried.returncode else ""


class Place:
    """A control group of ours. ``path``: as seen from here; ``inside``: as seen in the namespace of the mount."""

    def __init__(self, holder: int, inside: Path) -> None:
        self._holder = holder
        self.inside = inside
        self.path = Path(f"/proc/{holder}/root{inside}")

    def through(self) -> list[str]:
        """What to put before an argv, so that its process is in this group and sees it mounted."""
        return ["nsenter", f"--mount=/proc/{self._holder}/ns/mnt", "sh", "-c", _ENTER, "sh", str(self.inside)]

    def groups(self) -> set[str]:
        """The groups below this one, at all depths."""
        return {str(Path(at, one).relative_to(self.path)) for at, below, _ in os.walk(self.path) for one in below}

    def processes(self) -> list[int]:
        """Who lives in here and below."""
        files = [Path(folder, "cgroup.procs") for folder, _, _ in os.walk(self.path)]
        return [int(pid) for file in files for pid in file.read_text().split()]


@contextmanager
def delegated(mount_at: Path) -> Iterator[Place]:
    """A new, empty group, marked as systemd marks what it delegates; it is taken away with all that is left in it."""
    with subprocess.Popen(
        ["unshare", "-m", "sh", "-c", _HOLD, "sh", str(mount_at)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdin
        assert holder.stdout
        try:
            assert holder.stdout.readline() == b"mounted\n"
            own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
            inside = mount_at / own.removeprefix("0::/") / f"rankd-test-{secrets.token_hex(4)}"
            place = Place(holder.pid, inside)
            place.path.mkdir()
            try:
                with suppress(OSError):
                    os.setxattr(place.path, "trusted.delegate", b"1")
                yield place
            finally:
                _remove(place.path)
        finally:
            holder.stdin.close()


def _remove(path: Path) -> None:
    (path / "cgroup.kill").write_text("1")
    with (path / "cgroup.events").open() as events:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while "populated 1" in events.read():
            poll.poll(1000)
            events.seek(0)
    for folder, _, _ in os.walk(path, topdown=False):
        os.rmdir(folder)
