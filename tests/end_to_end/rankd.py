"""The daemon as a process of its own: start it on a TOML text, read its records as they come, leave nothing behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, TypeVar

from tests.end_to_end.configs import table

ROOT = Path(__file__).resolve().parents[2]
ALWAYS = {"timestamp", "level", "event", "message", "seq", "service", "host", "run_id"}
NOT_FOR_TESTS = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "JOURNAL_STREAM", "XDG_STATE_HOME"}
PATIENCE = 45.0
"""Seconds after which a test gives up on what takes milliseconds: a machine may stand still for twenty."""

Record = dict[str, Any]
Found = TypeVar("Found")


def until(found: Callable[[], Found | None], what: str, timeout: float = PATIENCE) -> Found:
    """What ``found`` finds, asked again and again: for what tells nobody when it changes."""
    give_up_at = time.monotonic() + timeout
    pause = threading.Event()
    while not (thing := found()):
        assert time.monotonic() < give_up_at, f"no {what} within {timeout} s"
        pause.wait(0.01)
    return thing


@dataclass(frozen=True)
class Reply:
    """What the health listener has answered."""

    status: int
    headers: Mapping[str, str]
    text: str
    took_for: float

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Rankd:
    """One ``rankd run``. ``directory`` is its own: configuration, state and runtime directory are in there.

    ``records`` is what it says on stdout (``junk``: what there is no record), ``console`` the lines on stderr: what
    the workers print there, and what rankd itself has to say to people.
    """

    def __init__(
        self,
        directory: Path,
        config: str | Path,
        *,
        env: Mapping[str, str] | None = None,
        through: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
        console: bool = True,
    ) -> None:
        """Start it on a text (a free health port is added if it names none) or on a file.

        ``through``: argv to put before rankd's own. Without ``console`` what is written there is thrown away.
        """
        self.directory = directory
        self.records: list[Record] = []
        self.junk: list[bytes] = []
        self.console: list[str] = []
        self._deaf = False
        self._changed = threading.Condition()
        if isinstance(config, str):
            if "[health]" not in config:
                config += "\n" + table("health", listen=["127.0.0.1:0"])
            path = directory / "rankd.toml"
            path.write_text(config)
        else:
            path = config
        (directory / "run").mkdir(mode=0o700)
        environment = {name: value for name, value in os.environ.items() if name not in NOT_FOR_TESTS}
        environment |= {"STATE_DIRECTORY": str(directory / "state"), "RUNTIME_DIRECTORY": str(directory / "run")}
        self.process = subprocess.Popen(
            [*through, sys.executable, "-m", "supervisor", "run", str(path)],
            cwd=directory,
            env=environment | {"PYTHONPATH": str(ROOT)} | dict(env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if console else subprocess.DEVNULL,
            pass_fds=pass_fds,
            start_new_session=True,
        )
        takers = [(self.process.stdout, self._take_record), (self.process.stderr, self._take_line)]
        self._readers = [
            threading.Thread(target=self._read, args=(pipe, take), daemon=True) for pipe, take in takers if pipe
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, pipe: IO[bytes], take: Callable[[bytes], None]) -> None:
        with pipe:
            for line in pipe:
                with self._changed:
                    take(line)
                    self._changed.notify_all()
                    if self._deaf:
                        return

    def _take_line(self, line: bytes) -> None:
        self.console.append(line.decode(errors="replace").rstrip("\n"))

    def _take_record(self, line: bytes) -> None:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            self.records.append(record)
        else:
            self.junk.append(line)

    @property
    def is_read(self) -> bool:
        """Whether somebody still reads its stdout or stderr: until both are at their end."""
        return any(reader.is_alive() for reader in self._readers)

    def _wait_until(self, found: Callable[[], Found | None], what: str, timeout: float) -> Found:
        """What ``found`` finds, asked again whenever a line has come."""
        give_up_at = time.monotonic() + timeout
        with self._changed:
            while (thing := found()) is None:
                assert time.monotonic() < give_up_at, f"no {what} within {timeout} s\n{self.story()}"
                assert self.is_read, f"it ended without {what}\n{self.story()}"
                self._changed.wait(0.2)
            return thing

    # ---- what it says

    def all(self, event: str, **fields: object) -> list[Record]:
        """The records of that event so far whose fields have these values."""
        with self._changed:
            return [record for record in self.records if _matches(record, event, fields)]

    def wait_for(self, event: str, *, timeout: float = PATIENCE, count: int = 1, **fields: object) -> Record:
        """The ``count``-th such record, now or as soon as it comes."""

        def found() -> Record | None:
            matching = [record for record in self.records if _matches(record, event, fields)]
            return matching[count - 1] if len(matching) >= count else None

        return self._wait_until(found, f"{event} {fields}", timeout)

    def wait_for_line(self, text: str, *, timeout: float = PATIENCE, count: int = 1) -> str:
        """The ``count``-th console line with that text in it, now or as soon as it comes."""

        def found() -> str | None:
            matching = [line for line in self.console if text in line]
            return matching[count - 1] if len(matching) >= count else None

        return self._wait_until(found, f"line with {text!r}", timeout)

    def story(self) -> str:
        """All that is known, for the person who reads a failure."""
        lines = [f"{r.get('seq', '?'):>5} {r.get('event', '?'):<20} {r.get('message', '')}" for r in self.records[-80:]]
        lines += [f"not a record: {line[:500]!r}" for line in self.junk[-20:]]
        return "\n".join([*lines, f"exit code: {self.process.poll()}", "console:", *self.console[-40:]])

    def log(self, group: str, attempt: int, local_rank: int, stream: str = "stdout") -> Path:
        """A worker's log file."""
        run_id = self.wait_for("daemon.started")["run_id"]
        return self.directory / f"state/logs/{group}/{run_id}/attempt_{attempt}/{local_rank}/{stream}.log"

    # ---- asking it

    @cached_property
    def port(self) -> int:
        """Where the health listener is."""
        address: str = self.wait_for("health.listening")["addresses"][0]
        return int(address.rpartition(":")[2].rstrip("/"))

    def http(self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        asked_at = time.monotonic()
        try:
            connection.request(method, path, headers=dict(headers or {}))
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        return Reply(response.status, dict(response.getheaders()), text, time.monotonic() - asked_at)

    def until(self, path: str, status: int, timeout: float = PATIENCE) -> Reply:
        """Ask until the answer has that status: events say when to ask, this only bridges the way to the listener."""
        return until(
            lambda: reply if (reply := self.http(path)).status == status else None, f"{status} from {path}", timeout
        )

    # ---- its end

    def hang_up(self) -> None:
        """Close our end of its stdout and stderr at the next line that comes."""
        self._deaf = True

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its exit code, negative for a signal as in ``subprocess``; all that it said has been read then."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it still runs after {timeout} s\n{self.story()}") from None
        for reader in self._readers:
            reader.join(timeout)
        assert not self.is_read, f"somebody still holds its output: {self.strays()}\n{self.story()}"
        return code

    def stop(self, timeout: float = PATIENCE) -> int:
        """SIGTERM, then its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def strays(self) -> list[int]:
        """Processes of this run that live: by the state directory in their environment, or by a recorded pid."""
        mark = f"RANKD_STATE_DIR={self.directory}/".encode()
        found = []
        recorded = {record["pid"] for record in self.all("worker.started")}
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            try:
                stat = Path(f"/proc/{name}/stat").read_bytes().rpartition(b") ")[2].split()
                environment = Path(f"/proc/{name}/environ").read_bytes()
            except OSError:
                continue
            ours = mark in environment or (int(name) in recorded and int(stat[3]) == int(name))
            if ours and stat[0] not in (b"Z", b"X"):
                found.append(int(name))
        return sorted(found)

    def close(self) -> None:
        """End what is left of it; fails on a refusal to stop, a process left behind, a line that is no record."""
        complaints = []
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                complaints.append(f"did not stop within {PATIENCE} s of SIGTERM")
                self.process.kill()
                self.process.wait()
        if left := self.strays():
            complaints.append(f"left processes behind: {left}")
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for reader in self._readers:
            reader.join(PATIENCE)
        print(self.story())  # which is shown if the test has failed
        complaints += [f"stdout has a line that is no record: {line[:200]!r}" for line in self.junk[:3]]
        complaints += [f"a record lacks {ALWAYS - set(r)}: {r}" for r in self.records if not set(r) >= ALWAYS][:3]
        numbers = [record.get("seq", -1) for record in self.records]
        if numbers != sorted(set(numbers)):
            complaints.append(f"seq does not rise: {numbers}")
        assert not complaints, "\n".join([*complaints, self.story()])


def _matches(record: Record, event: str, fields: Mapping[str, object]) -> bool:
    return record.get("event") == event and all(record.get(name) == value for name, value in fields.items())


def rankd_command(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A rankd command that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "supervisor", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
