"""What a configuration does not say: directories and names, found out from the environment and the machine."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping


def state_dir(environ: Mapping[str, str]) -> str:
    """Where state and logs go: systemd's (systemd.exec(5)), else the user's (XDG base directories).

    Raises ``ValueError`` when there is neither.
    """
    if names_state_dir(environ):
        return os.path.abspath(environ["STATE_DIRECTORY"].split(":")[0])
    xdg = environ.get("XDG_STATE_HOME", "")
    return os.path.join(xdg if os.path.isabs(xdg) else os.path.join(_home(environ), ".local/state"), "rankd")


def names_state_dir(environ: Mapping[str, str]) -> bool:
    """Whether whoever started us gave us a state directory of our own, as systemd does to each unit."""
    return bool(environ.get("STATE_DIRECTORY", "").split(":")[0])


def runtime_dir(environ: Mapping[str, str]) -> str:
    """Where sockets and pipes go. The last resort is in a place that others write to: whoever makes it has to see
    that it is ours and of mode 0700."""
    if given := environ.get("RUNTIME_DIRECTORY", "").split(":")[0]:
        return os.path.abspath(given)
    if os.path.isabs(xdg := environ.get("XDG_RUNTIME_DIR", "")):
        return os.path.join(xdg, "rankd")
    if os.geteuid() == 0:
        return "/run/rankd"
    return os.path.join(os.path.abspath(environ.get("TMPDIR") or "/tmp"), f"rankd-{os.geteuid()}")  # noqa: S108


def run_id() -> str:
    """Twelve random hexadecimal digits."""
    return os.urandom(6).hex()


def _home(environ: Mapping[str, str]) -> str:
    if os.path.isabs(home := environ.get("HOME", "")):
        return home
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        raise ValueError("is missing, and there is no home directory to put it in") from None
