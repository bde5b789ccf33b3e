"""Records as entries of journald's native protocol, on a real datagram socket; and the catalog of what they mean."""

from __future__ import annotations

import json
import re
import select
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.core import events
from supervisor.core.events import Event, Who
from supervisor.core.messages import ExitStatus
from supervisor.host.journal import Journal
from supervisor.host.journal_records import JournalRecords, message_id
from supervisor.report.log import Records
from tests.core.test_events import CONSTRUCTORS, made

CATALOG = Path(__file__).parents[2] / "systemd/rankd.catalog"
WHO = Who("trainer", 5, 1, 2)


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as plug:
        plug.bind(str(tmp_path / "journal"))
        plug.settimeout(45)
        yield plug


class Told:
    """Records to a journal at ``path``; ``lines`` is what has gone to stdout instead."""

    def __init__(self, path: Path) -> None:
        self.lines: list[bytes] = []
        self.entries = JournalRecords(Journal(str(path)), "run-1", self.lines.append, lambda _: None)
        self.records = Records(
            self.lines.append, service="rankd", host="h", run_id="run-1", format="journal", journal=self.entries.add
        )

    def tell(self, *told: Event) -> None:
        for event in told:
            self.records.tell(event)
        self.entries.flush()


def fields(entry: bytes) -> dict[str, str]:
    """An entry as journald reads it."""
    found = {}
    while entry:
        line, _, entry = entry.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack("<Q", entry[:8])
            value, entry = entry[8 : 8 + length], entry[8 + length + 1 :]
        found[name.decode()] = value.decode()
    return found


def test_a_record_has_the_fields_that_one_asks_by(journald: socket.socket, tmp_path: Path) -> None:
    told = Told(tmp_path / "journal")
    told.tell(
        events.worker_exited(1.0, WHO, 4711, ExitStatus(3), "itself", 2.0), events.daemon_stopping(2.0, "SIGTERM")
    )
    worker, daemon = fields(journald.recv(1 << 16)), fields(journald.recv(1 << 16))
    said = json.loads(worker.pop("MESSAGE"))
    assert (said["event"], said["seq"], said["rank"]) == ("worker.exited", 1, 5)
    assert worker == {
        "PRIORITY": "6", "MESSAGE_ID": message_id("worker.exited"), "SYSLOG_IDENTIFIER": "rankd",
        "RANKD_EVENT": "worker.exited", "RANKD_GROUP": "trainer", "RANK": "5", "LOCAL_RANK": "1", "RANKD_ATTEMPT": "2",
        "RANKD_RUN_ID": "run-1", "WORKER_PID": "4711",
    }  # fmt: skip
    assert daemon.keys() == {
        "PRIORITY", "MESSAGE_ID", "SYSLOG_IDENTIFIER", "RANKD_EVENT", "RANKD_RUN_ID", "MESSAGE"
    }  # fmt: skip
    told.entries.close(0.0)


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_every_event_can_be_an_entry_of_its_priority(journald: socket.socket, tmp_path: Path, name: str) -> None:
    told = Told(tmp_path / "journal")
    event = made(name)
    told.records.set_level("debug")
    told.tell(event)
    entry = fields(journald.recv(1 << 16))
    assert entry["PRIORITY"] == {"error": "3", "warning": "4", "info": "6", "debug": "7"}[event.level]
    assert json.loads(entry["MESSAGE"])["event"] == entry["RANKD_EVENT"] == event.name
    told.entries.close(0.0)


def test_what_no_journald_takes_is_a_line_of_stdout_and_the_next_goes_to_the_one_that_is_back(tmp_path: Path) -> None:
    told = Told(tmp_path / "journal")
    told.tell(events.daemon_stopping(1.0, "SIGTERM"))
    assert [line[:4] for line in told.lines] == [b"<6>{"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(tmp_path / "journal"))
        told.tell(events.daemon_stopping(1.0, "SIGTERM"))
        assert json.loads(fields(journald.recv(1 << 16))["MESSAGE"])["seq"] == 2
    assert len(told.lines) == 1
    told.entries.close(0.0)


def test_a_journald_that_reads_nothing_is_not_waited_for_and_nothing_is_lost(
    journald: socket.socket, tmp_path: Path
) -> None:
    told = Told(tmp_path / "journal")
    for _ in range(2000):
        told.tell(events.daemon_stopping(1.0, "SIGTERM"))
    assert told.lines
    seqs = [json.loads(line[3:])["seq"] for line in told.lines]
    while select.select([journald], [], [], 0)[0]:
        seqs.append(json.loads(fields(journald.recv(1 << 16))["MESSAGE"])["seq"])
    assert sorted(seqs) == list(range(1, 2001))
    told.entries.close(0.0)


def test_the_last_words_are_waited_for_until_they_are_read(journald: socket.socket, tmp_path: Path) -> None:
    told = Told(tmp_path / "journal")
    told.records.tell(events.daemon_stopped(1.0, 0, 1.0, "SIGTERM"))
    heard: list[bytes] = []
    reader = threading.Timer(0.1, lambda: heard.append(journald.recv(1 << 16)))
    reader.start()
    told.entries.close(20.0)
    reader.join()
    assert heard


def test_last_words_that_nobody_reads_hold_nobody_up(journald: socket.socket, tmp_path: Path) -> None:
    told = Told(tmp_path / "journal")
    told.records.tell(events.daemon_stopped(1.0, 0, 1.0, "SIGTERM"))
    told.entries.close(0.05)
    assert journald.recv(1 << 16)


def test_the_catalog_explains_every_event_by_the_identifier_that_it_has() -> None:
    """When this fails: give the event an entry, after the pattern of the others, with the identifier that is named."""
    entries = dict(re.findall(r"^# ([a-z_]+\.[a-z_]+)\n-- ([0-9a-f]{32})$", CATALOG.read_text(), re.MULTILINE))
    for name in {made(constructor).name for constructor in CONSTRUCTORS} | {"log.lines_dropped"}:
        assert entries.get(name) == message_id(name), f"systemd/rankd.catalog: {name} needs -- {message_id(name)}"
    assert len(set(entries.values())) == len(entries)
