"""Log files as ``rankd logs`` reads them: the last lines, what grows, what is rotated meanwhile."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from supervisor.control import files
from supervisor.control.files import BLOCK, Followed, Unreadable, reading, seek_last


@pytest.mark.parametrize(
    ("text", "last", "found"),
    [
        (b"a\nb\nc\n", 2, [b"b", b"c"]),
        (b"a\nb\nc", 2, [b"b", b"c"]),
        (b"a\n", 5, [b"a"]),
        (b"", 5, []),
        (b"a\n", 0, []),
        (b"a\n\n\n", 2, [b"", b""]),
        (b"x" * BLOCK + b"\n" + b"y" * 2 * BLOCK + b"\nz\n", 2, [b"y" * 2 * BLOCK, b"z"]),
    ],
)
def test_the_last_lines_are_found_however_long(tmp_path: Path, text: bytes, last: int, found: list[bytes]) -> None:
    (tmp_path / "log").write_bytes(text)
    with closing(Followed(str(tmp_path / "log"), last)) as log:
        assert log.lines(over=True) == found


def test_a_line_is_shown_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntw")
    with closing(Followed(str(path), None)) as log, path.open("ab", buffering=0) as writer:
        assert log.lines() == [b"one"]
        writer.write(b"o\nthree")
        assert log.lines() == [b"two"]
        assert log.lines(over=True) == [b"three"]


def test_nothing_is_lost_when_the_file_is_put_aside_for_another_or_emptied(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\n")
    with closing(Followed(str(path), None)) as log:
        assert log.lines() == [b"one"]
        with path.open("ab") as writer:
            writer.write(b"two\n")
        path.rename(tmp_path / "log.1")
        path.write_bytes(b"three\n")
        assert log.lines() == [b"two", b"three"]
        path.write_bytes(b"4\n")
        assert log.lines() == [b"4"]


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Unreadable, match="not a regular file"):
        reading(str(tmp_path / "pipe"))
    with pytest.raises(Unreadable) as missing:
        reading(str(tmp_path / "none"))
    assert missing.value.is_missing


@pytest.mark.parametrize("lines", range(7))
@pytest.mark.parametrize(
    "text", [b"", b"a", b"a\n", b"a\nb", b"a\n\nb\n", b"p1\rp2\rp3\nlast\n", b"\n\n\n", b"abcd\nefgh\nijkl\n"]
)
@pytest.mark.parametrize("block", [1, 3, 1 << 16])
def test_the_last_lines_are_those_that_end_in_a_newline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes, lines: int, block: int
) -> None:
    monkeypatch.setattr(files, "BLOCK", block)
    path = tmp_path / "log"
    path.write_bytes(text)
    with reading(str(path)) as file:
        seek_last(file, lines)
        whole = text.split(b"\n")
        kept = [line + b"\n" for line in whole[:-1]] + [whole[-1]] * bool(whole[-1])
        assert file.read() == (b"".join(kept[-lines:]) if lines else b"")


def test_a_line_that_never_ends_is_shown_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LONGEST", 4)
    path = tmp_path / "log"
    path.write_bytes(b"ab\ncdefgh")
    followed = Followed(str(path), None)
    assert followed.lines() == [b"ab", b"cdefgh"]
    followed.close()
