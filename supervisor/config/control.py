"""``[control]``: where the control socket is, and whose uids may use it."""

from __future__ import annotations

import os
import pwd

from supervisor import values
from supervisor.config import tables
from supervisor.config.mistakes import Mistakes
from supervisor.report.listen import LONGEST_PATH


def socket(given: tables.Control, runtime_dir: str, mistakes: Mistakes) -> str:
    """The socket's path; empty for none."""
    if not given.socket:
        return ""
    path = os.path.normpath(os.path.join(runtime_dir, given.socket))
    if len(os.fsencode(path)) > LONGEST_PATH and "socket" in given.model_fields_set:
        mistakes.say(
            ("control", "socket"), f"{values.shown(path)}: a unix socket's path has at most {LONGEST_PATH} bytes"
        )
    return path


def users(given: tables.Control, mistakes: Mistakes) -> tuple[int, ...]:
    """Their uids. A uid needs no name here; a name has to have one."""
    found = []
    for number, user in enumerate(given.allow_users):
        try:
            found.append(int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid)
        except KeyError:
            mistakes.say(("control", "allow_users", number), f"there is no user {values.shown(user)} on this host")
    return tuple(sorted(set(found)))
