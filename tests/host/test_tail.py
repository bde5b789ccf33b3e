"""The end of a log file: few lines, few bytes, valid text, and nobody else's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.host.tail import TAIL_BYTES, TAIL_LINES, Begun, LastBlocks, last_lines


def written(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


@pytest.fixture
def begun(tmp_path: Path) -> Begun:
    path = tmp_path / "stderr.log"
    written(path, b"an earlier one's\n")
    with path.open("ab") as file:
        return Begun.of(str(path), file.fileno())


def test_the_end_begins_where_this_attempt_began(begun: Begun) -> None:
    assert begun.end() == b""
    written(Path(begun.path), b"mine\n")
    assert begun.end() == b"mine\n"


def test_of_much_only_the_last_whole_lines_are_read(begun: Begun) -> None:
    written(Path(begun.path), b"".join(b"%d\n" % n for n in range(100_000)))
    end = begun.end()
    assert TAIL_BYTES - 8 < len(end) <= TAIL_BYTES
    assert last_lines(end) == "\n".join(map(str, range(100_000 - TAIL_LINES, 100_000)))
    first = int(end[: end.index(b"\n")])
    assert end == b"".join(b"%d\n" % n for n in range(first, 100_000))


def test_of_one_endless_line_the_last_bytes_are_read(begun: Begun) -> None:
    written(Path(begun.path), b"x" * (3 * TAIL_BYTES) + b"\n")
    assert begun.end() == b"x" * (TAIL_BYTES - 1) + b"\n"


def test_another_file_in_its_place_is_not_read(begun: Begun, tmp_path: Path) -> None:
    """The directory may be the worker's own: a link there must not put somebody's secrets into a record."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * 17 + b"a password\n")
    os.rename(begun.path, tmp_path / "aside")
    os.link(secret, begun.path)
    assert begun.end() == b""
    os.unlink(begun.path)
    os.symlink(secret, begun.path)
    with pytest.raises(OSError, match=r"stderr\.log"):
        begun.end()


def test_bytes_that_are_no_text_are_replaced_and_a_progress_bar_shows_its_last_state() -> None:
    assert last_lines(b"\xff\xfe\n 1%\r 2%\r 3%\ndone\r\n") == "��\n 3%\ndone"
    assert last_lines(b"") == ""
    assert last_lines(b"no newline") == "no newline"


@pytest.mark.parametrize("size", [1, 7, 1000, TAIL_BYTES - 1, TAIL_BYTES + 1, 1 << 16])
def test_of_a_stream_without_a_file_the_last_lines_are_the_same_however_it_was_cut(size: int) -> None:
    text = b"".join(b"%d\n" % n for n in range(20_000))
    last = LastBlocks()
    for at in range(0, len(text), size):
        last.write(text[at : at + size])
    last.finish()
    said = last_lines(last.end()).split("\n")
    assert said == list(map(str, range(20_000 - len(said), 20_000)))
    assert len(said) == TAIL_LINES or size == 1
    assert len(last.end()) <= TAIL_BYTES + size


def test_a_short_stream_without_a_file_is_kept_whole() -> None:
    last = LastBlocks()
    last.write(b"begun, ")
    last.write(b"and no more")
    assert last.end() == b"begun, and no more"
