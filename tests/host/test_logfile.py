"""Log files that we write ourselves: byte for byte, through full disks, rotations and what others do to them."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.host import logfile as under_test
from supervisor.host.logfile import LogFile, RotatedFile, open_log
from supervisor.host.sinks import Dropped, Losses
from supervisor.plan import Rotation
from tests.host.observing import open_fds

LABELS = {"group": "trainer", "role_name": "trainer", "rank": "3", "local_rank": "1", "attempt": "2"}


class Account:
    """What the losses of one stream come to."""

    def __init__(self) -> None:
        self.totals: defaultdict[str, int] = defaultdict(int)
        self.told: list[Dropped] = []
        self.losses = Losses(LABELS, "stdout", self.totals, self.told.append)


# ---- disks


class Disk:
    """A file system that takes a given number of bytes; its file is real."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = -1
        self.room = 1 << 30
        self._write = os.write

    def write(self, fd: int, data: bytes) -> int:
        if fd != self.fd:
            return self._write(fd, data)
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(fd, data[: self.room])
        self.room -= written
        return written

    def log(self, account: Account, *, patient: bool = False) -> LogFile:
        return LogFile(str(self.path), account.losses, open_file=self._open, patient=patient)

    def _open(self, path: str) -> int:
        self.fd = open_log(path)
        return self.fd

    @property
    def content(self) -> bytes:
        return self.path.read_bytes()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    made = Disk(tmp_path / "stdout.log")
    monkeypatch.setattr(os, "write", made.write)
    yield made
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(made.fd)  # the log file has closed it


def test_a_file_that_takes_nothing_for_a_while_says_how_much_is_missing_and_where(disk: Disk) -> None:
    account = Account()
    log = disk.log(account)
    log.write(b"one\n")
    disk.room = 2
    log.write(b"two\n")
    log.write(b"three\n")
    assert account.told == [Dropped(LABELS, "stdout", 2, "No space left on device", over=False, into="stdout.log")]
    disk.room = 1 << 30
    log.write(b"four\n")
    assert disk.content == b"one\ntw\n[rankd: dropped 8 bytes: No space left on device]\nfour\n"
    assert account.told[1:] == [Dropped(LABELS, "stdout", 8, "No space left on device", over=True, into="stdout.log")]
    assert account.totals == {"trainer": 8}
    log.finish()


def test_a_mark_that_does_not_fit_is_taken_back_and_written_whole_later(disk: Disk) -> None:
    account = Account()
    log = disk.log(account)
    disk.room = 0
    log.write(b"one\n")
    disk.room = 20
    log.write(b"two\n")
    assert disk.content == b""
    disk.room = 1 << 30
    log.write(b"three\n")
    assert disk.content == b"[rankd: dropped 8 bytes: No space left on device]\nthree\n"
    log.finish()


def test_a_second_gap_is_marked_and_told_as_its_own(disk: Disk) -> None:
    account = Account()
    log = disk.log(account)
    for line in (b"one\n", b"three\n"):
        disk.room = 0
        log.write(line)
        disk.room = 1 << 30
        log.write(b"kept\n")
    log.finish()
    mark = b"[rankd: dropped %d bytes: No space left on device]\n"
    assert disk.content == mark % 4 + b"kept\n" + mark % 6 + b"kept\n"
    assert [(told.bytes, told.over) for told in account.told] == [(4, False), (4, True), (6, False), (6, True)]
    assert account.totals == {"trainer": 10}


def test_a_gap_at_the_end_is_marked_at_the_end_and_told_even_if_the_mark_cannot_be_written(disk: Disk) -> None:
    account = Account()
    log = disk.log(account)
    disk.room = 0
    log.write(b"one\n")
    log.finish()
    assert disk.content == b""
    assert [(told.bytes, told.over) for told in account.told] == [(4, False), (4, True)]


def test_a_patient_file_holds_what_the_disk_may_take_later_and_loses_nothing(disk: Disk) -> None:
    account = Account()
    log = disk.log(account, patient=True)
    assert log.ready()
    disk.room = 2
    log.write(b"one\n")
    assert not log.ready()
    assert not log.ready()
    disk.room = 1 << 30
    assert log.ready()
    log.write(b"two\n")
    assert disk.content == b"one\ntwo\n"
    assert [(told.waits, told.over, told.bytes) for told in account.told] == [(True, False, 0), (True, True, 0)]
    assert account.totals == {}
    log.finish()


def test_a_patient_file_that_is_finished_waits_no_more_and_counts_what_it_held(disk: Disk) -> None:
    account = Account()
    log = disk.log(account, patient=True)
    disk.room = 1
    log.write(b"one\n")
    log.finish()
    assert disk.content == b"o"
    assert account.totals == {"trainer": 3}
    assert (account.told[-1].bytes, account.told[-1].over, account.told[-1].waits) == (3, True, False)


# ---- rotation


def all_of(path: Path) -> list[bytes]:
    """The file and the older ones, oldest first."""
    older = sorted(path.parent.glob(path.name + ".*"), key=lambda file: -int(file.suffix[1:]))
    return [file.read_bytes() for file in [*older, path]]


def cut(data: bytes, seed: int, longest: int) -> Iterator[bytes]:
    chance = random.Random(seed)
    while data:
        size = chance.randrange(1, longest)
        yield data[:size]
        data = data[size:]


@pytest.mark.parametrize("seed", range(5))
def test_a_file_begins_anew_after_the_line_that_fills_it_however_the_bytes_were_cut(tmp_path: Path, seed: int) -> None:
    print("seed", seed)
    path = tmp_path / "stdout.log"
    log = RotatedFile(str(path), Account().losses, Rotation(1000, 1000))
    written = b"".join(b"%d %s\n" % (n, b"x" * (n * seed % 97)) for n in range(2000))
    for block in cut(written, seed, 3000):
        log.write(block)
    log.finish()
    files = all_of(path)
    assert b"".join(files) == written
    assert all(file.endswith(b"\n") for file in files)
    assert all(len(file) >= 1000 > file[:-1].rfind(b"\n") + 1 for file in files[:-1])


def test_only_the_youngest_files_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "stdout.log"
    log = RotatedFile(str(path), Account().losses, Rotation(4, 2))
    for n in range(6):
        log.write(b"%d\n%d\n" % (n, n))
    log.finish()
    assert sorted(os.listdir(tmp_path)) == ["stdout.log", "stdout.log.1", "stdout.log.2"]
    assert all_of(path) == [b"3\n3\n", b"4\n4\n", b"5\n5\n"]


@given(
    blocks=st.lists(st.lists(st.sampled_from([b"\n", b"a", b"bcd" * 4]), min_size=1, max_size=9).map(b"".join)),
    limit=st.integers(1, 40),
)
def test_no_byte_is_lost_between_files_and_none_grows_beyond_twice_the_limit(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[bytes], limit: int
) -> None:
    path = tmp_path_factory.mktemp("logs") / "stdout.log"
    log = RotatedFile(str(path), Account().losses, Rotation(limit, 1000))
    for block in blocks:
        log.write(block)
    log.finish()
    files = all_of(path)
    assert b"".join(files) == b"".join(blocks)
    assert all(len(file) <= 2 * limit for file in files)


def test_a_rotation_that_fails_loses_nothing_and_is_noted_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    path = tmp_path / "stdout.log"
    log = RotatedFile(str(path), Account().losses, Rotation(4, 2))
    with monkeypatch.context() as broken:
        broken.setattr(os, "rename", refuse)
        log.write(b"one\ntwo\n")
    log.write(b"three\nfour\n")
    log.finish()
    note = b"[rankd: cannot be rotated: Read-only file system]\n"
    assert all_of(path) == [b"one\n" + note + b"two\n", b"three\n", b"four\n"]


# ---- moved and removed


def test_a_file_that_was_moved_away_gets_its_line_to_the_end_and_the_next_line_goes_to_a_new_file(
    tmp_path: Path,
) -> None:
    path, moved = tmp_path / "stdout.log", tmp_path / "stdout.log-20261122"
    before = open_fds()
    log = LogFile(str(path), Account().losses)
    log.write(b"one\nha")
    path.rename(moved)
    log.reopen()
    log.reopen()
    log.write(b"l")
    log.write(b"f\ntwo\n")
    assert (moved.read_bytes(), path.read_bytes()) == (b"one\nhalf\n", b"two\n")
    log.finish()
    log.reopen()
    assert open_fds() == before


def test_a_patient_file_keeps_the_order_while_it_moves_on(disk: Disk) -> None:
    log = disk.log(Account(), patient=True)
    log.write(b"ha")
    old, disk.room = disk.fd, 0
    moved = disk.path.with_name("moved")
    disk.path.rename(moved)
    log.reopen()
    disk.fd, new = old, disk.fd
    log.write(b"lf\nnext\n")
    assert not log.ready()
    disk.room = 1 << 30
    assert log.ready()
    assert (moved.read_bytes(), disk.content) == (b"half\n", b"next\n")
    log.finish()
    disk.fd = new


def test_a_file_that_cannot_be_opened_anew_is_written_on_and_says_so(tmp_path: Path) -> None:
    directory = tmp_path / "0"
    directory.mkdir()
    log = LogFile(str(directory / "stdout.log"), Account().losses)
    log.write(b"ha")
    directory.rename(tmp_path / "moved")
    log.reopen()
    log.write(b"lf\n")
    log.finish()
    note = b"\n[rankd: cannot open this file anew: No such file or directory]\n"
    assert (tmp_path / "moved" / "stdout.log").read_bytes() == b"ha" + note + b"lf\n"


def test_a_rotated_file_begins_anew_in_a_directory_that_was_removed_and_made_again(tmp_path: Path) -> None:
    directory = tmp_path / "0"
    directory.mkdir()
    log = RotatedFile(str(directory / "stdout.log"), Account().losses, Rotation(4, 2))
    log.write(b"one\n")
    shutil.rmtree(directory)
    directory.mkdir()
    log.write(b"two\n")
    log.finish()
    assert (directory / "stdout.log").read_bytes() == b"two\n"


def test_a_file_that_was_removed_is_begun_anew_and_says_what_went_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "LOOKS_EVERY", 0.0)
    account = Account()
    directory = tmp_path / "logs"
    directory.mkdir()
    path = directory / "stdout.log"

    def open_file(path: str) -> int:
        directory.mkdir(exist_ok=True)
        return open_log(path)

    log = LogFile(str(path), account.losses, open_file=open_file)
    log.write(b"one\n")
    log.write(b"two\n")
    shutil.rmtree(directory)
    log.write(b"three\n")
    log.write(b"four\n")
    log.finish()
    assert path.read_bytes() == b"[rankd: dropped 4 bytes: the file was removed]\nthree\nfour\n"
