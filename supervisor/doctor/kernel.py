"""What rankd cannot do without: this Python, this kernel, and that orphans come to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

from supervisor.doctor import Finding
from supervisor.host.containment import become_subreaper

_ORPHAN = "sleep 60 </dev/null >/dev/null 2>&1 & echo $!"


def findings() -> Iterator[Finding]:
    yield kernel()
    yield python(sys.version_info[:2])
    yield subreaper()


def kernel() -> Finding:
    release = f"Linux {os.uname().release}"
    try:
        pidfd = os.pidfd_open(os.getpid())
        try:
            signal.pidfd_send_signal(pidfd, 0)
        finally:
            os.close(pidfd)
    except OSError as error:
        advice = "rankd needs Linux 5.4 or newer; in a container, a seccomp profile that allows pidfd_open"
        return Finding("kernel", "failed", f"{release}; pidfds do not work: {error.strerror}", advice)
    return Finding("kernel", "ok", f"{release}; pidfds work")


def python(version: tuple[int, ...]) -> Finding:
    found = f"{'.'.join(map(str, version))} at {sys.executable}"
    if version < (3, 11):
        return Finding("python", "failed", found, "rankd needs Python 3.11 or newer")
    return Finding("python", "ok", found)


def subreaper() -> Finding:
    """An orphan is made, and has to come to us: we are one for the rest of our short life (prctl(2))."""
    try:
        become_subreaper()
        said = subprocess.run(["/bin/sh", "-c", _ORPHAN], stdout=subprocess.PIPE, timeout=10, check=True).stdout
        orphan = int(said)
        os.kill(orphan, signal.SIGKILL)
        os.waitpid(orphan, 0)
    except ChildProcessError:
        why = "an orphan did not come to us"
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        why = str(error)
    else:
        return Finding("subreaper", "ok", "orphans come to us, and are killed with their worker")
    advice = "rankd needs PR_SET_CHILD_SUBREAPER: processes that leave their worker would not be found without it"
    return Finding("subreaper", "failed", why, advice)
