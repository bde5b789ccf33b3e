"""A real systemd as PID 1, with journald and a delegated cgroup v2: an operating system booted in a container.

The root file system is made by debootstrap once a machine and only ever read: every boot lays a tmpfs over it
(systemd-nspawn(1), --volatile=overlay), so it takes half a second and nothing that happens inside is kept. The
network inside is a loopback of its own. ``python -m tests.interop.booted`` makes the root file system beforehand.
"""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NoReturn

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = ("systemd", "systemd-sysv", "dbus", "python3", "python3-venv")
TOOLS = ("debootstrap", "systemd-nspawn", "nsenter", "setpriv")
INSTALL = "apt-get install debootstrap systemd-container"
PATIENCE = 60.0
"""Seconds after which a test gives up on something that takes much less."""

Entry = dict[str, Any]
"""A journal entry as ``journalctl -o json`` tells it (systemd.journal-fields(7))."""

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_INSIDE = {"PATH": _SYSTEM_PATH, "HOME": "/root", "LANG": "C.UTF-8", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}
# Killing nsenter would leave its child to an outer init that may never wait for it: so it is asked to end.
_FOLLOW = "journalctl --follow --no-tail --all -o json & read -r _; kill $!; wait"
_PROCESSES = """
find "$1" -name cgroup.procs -exec cat {} + | while read -r pid; do
    command=$(tr '\\0' ' ' <"/proc/$pid/cmdline") && echo "$pid $command"
done 2>/dev/null
"""
_JOIN = 'while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done; shift; exec "$@"'


def missing() -> str:
    """Why nothing can be booted here, and what to do about it; empty when all is there."""
    tools = [tool for tool in TOOLS if shutil.which(tool, path=_SYSTEM_PATH) is None]
    wanted = [*(["root"] if os.geteuid() else []), *tools]
    return f"a booted systemd needs {', '.join(wanted)}; as root: {INSTALL}" if wanted else ""


# ---- what is booted


def root() -> Path:
    """The root file system, this machine's own Debian release; made (in a minute or two) if it is not there yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rankd-tests"
    cache.mkdir(parents=True, exist_ok=True)
    release = Path("/etc/os-release").read_text()
    suite = re.search(r"^VERSION_CODENAME=(\S+)$", release, re.MULTILINE)
    assert suite, "/etc/os-release has no VERSION_CODENAME: whose release is to be booted?"
    recipe = inspect.getsource(_debootstrap) + repr(PACKAGES)
    made = cache / f"{suite[1]}-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            partial = made.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            _debootstrap(suite[1], partial)
            partial.rename(made)
    return made


def _debootstrap(suite: str, folder: Path) -> None:
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", suite, folder, _mirror(suite)],
        env=os.environ | {"PATH": _SYSTEM_PATH},
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        check=True,
    )
    for folder_of_apt in ("var/cache/apt", "var/lib/apt/lists"):
        shutil.rmtree(folder / folder_of_apt)
    for of_this_machine in ("etc/apt/sources.list", "etc/hostname"):
        (folder / of_this_machine).unlink()


def _mirror(suite: str) -> str:
    """Where apt gets this machine's own packages (sources.list(5), both styles)."""
    apt = Path("/etc/apt")
    one_line = rf"^deb\s+(?:\[.*?\]\s*)?(\S+)\s+{suite}\s"
    stanza = rf"^URIs:\s*(\S+).*\n(?:.+\n)*?Suites:(?:.*\s)?{suite}(?:\s|$)"
    for sources in [*sorted(apt.glob("sources.list.d/*")), apt / "sources.list"]:
        for style in (one_line, stanza):
            if sources.exists() and (found := re.search(style, sources.read_text(), re.MULTILINE)):
                return found[1]
    raise AssertionError(f"{apt} names no mirror to take {suite} from")


def install(os_root: Path, folder: Path) -> Path:
    """What is to be bound to /opt/rankd: this checkout installed from its wheel, as README tells people to do it."""
    wheels, opt = folder / "wheels", folder / "rankd"
    for made in (wheels, opt):
        made.mkdir(mode=0o755)
    version = (os_root / "usr/bin/python3").readlink().name.removeprefix("python")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", f"--wheel-dir={wheels}", str(CHECKOUT)], check=True)
    (rankd,) = wheels.iterdir()
    theirs = ["--only-binary=:all:", f"--python-version={version}"]
    subprocess.run([*pip, "download", *theirs, f"--dest={wheels}", str(rankd)], check=True)
    with booted(os_root, folder / "console", bind={"/mnt": wheels, "/opt/rankd": opt}) as machine:
        machine.run("python3", "-m", "venv", "/opt/rankd", timeout=120)
        machine.run("/opt/rankd/bin/pip", "install", "--no-index", "--find-links=/mnt", "rankd", timeout=120)
    return opt


# ---- a boot


class Machine:
    """One booted system. ``leader`` is its PID 1, as numbered outside."""

    def __init__(self, leader: int, console: Path) -> None:
        self.leader = leader
        self.console = console
        self._entries: list[Entry] = []
        self._read_to_the_end = False
        self._changed = threading.Condition()

    def run(
        self, *command: str, input: str | None = None, check: bool = True, timeout: float = PATIENCE
    ) -> subprocess.CompletedProcess[str]:
        """A command inside, as root. With ``check`` a failing one is an ``AssertionError`` with all that it said."""
        try:
            ran = subprocess.run(
                self._inside(*command),
                env=_INSIDE,
                input=input or "",
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            self.give_up(f"{' '.join(command)} takes longer than {timeout} s")
        if check and ran.returncode:
            self.give_up(f"{' '.join(command)}: exit code {ran.returncode}\n{ran.stdout}{ran.stderr}")
        return ran

    def _inside(self, *command: str) -> list[str]:
        return ["nsenter", f"--target={self.leader}", "--all", *command]

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file inside, with the folders on the way to it."""
        self.run("install", "-D", f"--mode={mode:o}", "/dev/stdin", path, input=text)

    def show(self, unit: str, name: str) -> str:
        """A property of a unit (org.freedesktop.systemd1(5))."""
        return self.run("systemctl", "show", f"--property={name}", "--value", "--", unit).stdout.strip()

    def processes(self, unit: str) -> dict[int, str]:
        """Command lines by pid (as numbered inside) of all that lives in the control group of a service or slice."""
        group = self.show(unit, "ControlGroup")
        if not group:
            return {}
        lines = self.run("sh", "-c", _PROCESSES, "sh", f"/sys/fs/cgroup{group}", check=False).stdout.splitlines()
        found = (line.partition(" ") for line in lines)
        return {int(pid): command.strip() for pid, _, command in found}

    def journal(self, unit: str) -> list[Entry]:
        """All that the unit has said and that systemd has said about it, up to now."""
        self.run("journalctl", "--sync")
        return [
            json.loads(line) for line in self.run("journalctl", "--all", "-o", "json", "-u", unit).stdout.splitlines()
        ]

    def wait_for(
        self, found: Callable[[Entry], bool], what: str, *, count: int = 1, timeout: float = PATIENCE
    ) -> Entry:
        """The ``count``-th such entry of the whole journal since boot, now or as soon as it comes."""
        give_up_at = time.monotonic() + timeout
        seen = 0
        with self._changed:
            while True:
                for entry in self._entries[seen:]:
                    count -= found(entry)
                    if not count:
                        return entry
                seen = len(self._entries)
                left = give_up_at - time.monotonic()
                if left <= 0 or self._read_to_the_end:
                    self.give_up(f"no {what} within {timeout} s")
                self._changed.wait(left)

    def give_up(self, why: str) -> NoReturn:
        """Fail, with the end of the journal and of the console for whoever reads it."""
        journal = subprocess.run(
            self._inside("sh", "-c", "journalctl --sync; journalctl --all --no-hostname -n 40"),
            env=_INSIDE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
        )
        ends = (journal.stdout, self.console.read_bytes())
        raise AssertionError("\n".join([why, *(end.decode(errors="replace")[-30_000:] for end in ends)]))

    @contextmanager
    def following(self) -> Iterator[None]:
        """Meanwhile every journal entry is read as it comes."""
        with subprocess.Popen(
            self._inside("sh", "-c", _FOLLOW), env=_INSIDE, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as follow:
            reader = threading.Thread(target=self._read, args=(follow.stdout,), daemon=True)
            reader.start()
            try:
                yield
            finally:
                assert follow.stdin
                follow.stdin.close()
                reader.join(PATIENCE)

    def _read(self, lines: IO[bytes]) -> None:
        for line in lines:
            if line.endswith(b"\n"):  # else: broken off when the follower was ended
                with self._changed:
                    self._entries.append(json.loads(line))
                    self._changed.notify_all()
        with self._changed:
            self._read_to_the_end = True
            self._changed.notify_all()


@contextmanager
def booted(os_root: Path, console: Path, bind: Mapping[str, Path], *, writable: bool = True) -> Iterator[Machine]:
    """A machine that is up, until the block is left; then nothing of it is left either.

    ``bind``: folders from outside by where they are seen inside. ``console``: the file for what it says at boot.
    """
    name = f"rankd-{secrets.token_hex(4)}"
    option = "--bind" if writable else "--bind-ro"
    with ExitStack() as stack:
        # Its own control group: two containers started from one would take each other's for their own.
        groups = [stack.enter_context(_control_group(parent / name)) for parent in _hierarchies()]
        # Closed as soon as it is ready: nspawn passes more on, and would wait for somebody to read it.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as plug:
            plug.bind("")  # an abstract name that is free
            nspawn = subprocess.Popen(
                ["sh", "-c", _JOIN, "sh", *map(str, groups), "--"]
                + ["setpriv", "--pdeathsig=TERM", "systemd-nspawn", "--quiet"]  # it does not outlive a killed test run
                + ["--register=no", "--keep-unit", "--link-journal=no", "--resolv-conf=off", "--timezone=off"]
                + ["--private-network", "--notify-ready=yes", "--console=pipe", "--volatile=overlay"]
                + [f"--machine={name}", f"--hostname={name}", f"--directory={os_root}"]
                + [f"{option}={outside}:{inside}" for inside, outside in bind.items()]
                + ["--boot"],
                env={
                    "PATH": _SYSTEM_PATH,
                    "NOTIFY_SOCKET": f"@{plug.getsockname()[1:].decode()}",
                    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
                    "SYSTEMD_NSPAWN_LOCK": "0",  # what is only read may be booted twice at once
                },
                stdin=subprocess.DEVNULL,
                stdout=stack.enter_context(console.open("wb")),
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            stack.callback(_power_off, nspawn, name)
            machine = Machine(_leader_when_ready(plug, console), console)
        stack.enter_context(machine.following())
        yield machine


def _leader_when_ready(plug: socket.socket, console: Path) -> int:
    """The pid of the container's PID 1, as soon as that says that the system is up."""
    heard: dict[str, str] = {}
    plug.settimeout(PATIENCE)
    while not {"READY", "X_NSPAWN_LEADER_PID"} <= heard.keys():
        try:
            lines = plug.recv(4096).decode().splitlines()
        except TimeoutError:
            raise AssertionError(f"it does not boot:\n{console.read_text(errors='replace')}") from None
        heard |= dict(line.split("=", 1) for line in lines)
    return int(heard["X_NSPAWN_LEADER_PID"])


def _power_off(nspawn: subprocess.Popen[bytes], name: str) -> None:
    for ending in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):  # in order; at once; whatever happens
        nspawn.send_signal(ending)
        with suppress(subprocess.TimeoutExpired):
            nspawn.wait(PATIENCE)
            break
    else:
        raise AssertionError(f"systemd-nspawn {nspawn.pid} cannot be killed")
    with suppress(FileNotFoundError):  # it does not always take it away where /run is on a disk
        os.rmdir(f"/run/systemd/nspawn/propagate/{name}")


def _hierarchies() -> Iterator[Path]:
    """Our own control groups that a systemd inside would use: version 2, and systemd's named one beside version 1."""
    ours = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mounted_at, kind, options = line.split()[:4]
        if kind == "cgroup2":
            yield Path(mounted_at + ours[""])
        elif kind == "cgroup" and "name=systemd" in options.split(","):
            yield Path(mounted_at + ours["name=systemd"])


@contextmanager
def _control_group(path: Path) -> Iterator[Path]:
    path.mkdir()
    try:
        yield path
    finally:
        for folder, _, _ in os.walk(path, topdown=False):
            os.rmdir(folder)


if __name__ == "__main__":
    began_at = time.monotonic()
    if missing():
        sys.exit(missing())
    print(f"{root()} ({time.monotonic() - began_at:.1f} s)")
