"""What a worker's function has returned is read without trust."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.core.messages import Returned
from supervisor.host.return_file import read


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "return.json"


def test_a_value_is_kept_as_json(file: Path) -> None:
    file.write_text('{"value": {"a": [1, "\\u00e4", null]}}')
    assert read(str(file)) == Returned('{"a":[1,"\\u00e4",null]}')


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ('{"note": "too long"}', "too long"),
        ('{"note": 3}', "the file has no value"),
        ("{}", "the file has no value"),
        ("", "the return value is not used: it is empty"),
        ("[1]", "the return value is not used: it is no JSON object"),
        ('{"value": NaN}', "the return value is not used: Out of range float values are not JSON compliant"),
        ('{"value": 1e999}', "the return value is not used: Out of range float values are not JSON compliant"),
        (f'{{"value": "{"x" * 65536}"}}', "the return value has more than 65536 bytes"),
        (f'{{"value": "{"x" * 2**20}"}}', "the return value is not used: it has more than 1048576 bytes"),
        ("[" * 100_000, "the return value is not used: it is nested too deeply"),
    ],
)
def test_what_is_no_value_is_a_note(file: Path, text: str, note: str) -> None:
    file.write_text(text)
    found = read(str(file))
    assert found.text == "null"
    assert found.note.startswith(note)


def test_a_note_is_bounded(file: Path) -> None:
    file.write_text(f'{{"note": "{"x" * 5000}"}}')
    assert len(read(str(file)).note) == 1000


def test_nothing_and_what_is_no_file_are_notes(file: Path) -> None:
    assert read(str(file)).note == "it has not written a return value"
    file.mkdir()
    assert read(str(file)).note == "the return value is not used: it is not a regular file"
    file.rmdir()
    file.symlink_to("/etc/hostname")
    assert read(str(file)).note.startswith("the return value cannot be read: ")
