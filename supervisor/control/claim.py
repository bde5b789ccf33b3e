"""The control socket's file: claimed before any worker starts, served later by ``server``.

Light on purpose, as ``report.listen`` is. No daemon is refused for want of it: supervising goes before being talked to.
"""

from __future__ import annotations

import errno
import os

from supervisor.plan import DaemonPlan
from supervisor.report.listen import BoundListener, bind_unix

OURS_ALONE, ANYBODY = 0o600, 0o666
"""Modes of the socket. With ``allow_users`` everybody may connect, and each request is judged by who has."""


def claim(plan: DaemonPlan) -> BoundListener | str | None:
    """The socket, listening; or why there is none; None if none is wanted.

    A file that a killed daemon has left is replaced; that of one which lives is not.
    """
    if not plan.control:
        return None
    try:
        listener = bind_unix(plan.control, ANYBODY if plan.control_users else OURS_ALONE)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        return f"{plan.control}: {'another daemon listens there' if taken else error.strerror or error}"
    if plan.control_users and os.path.dirname(plan.control) == plan.runtime_dir:
        os.chmod(plan.runtime_dir, 0o711)  # noqa: S103 - to pass through, not to look into
    return listener
