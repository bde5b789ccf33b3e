"""Error files: the three legal shapes are understood, anything else is a note and never an exception."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.messages import ErrorReport
from supervisor.host import error_file

STAMP = 1795349042


def nested(message: object = "ValueError: no", **info: object) -> dict[str, Any]:
    known = {"py_callstack": "Traceback ...", "timestamp": str(STAMP)} | info
    return {"message": {"message": message, "extraInfo": known}}


def read(path: Path, what: object) -> ErrorReport:
    """What is read of a file with that in it: bytes, text, or a value as JSON."""
    match what:
        case bytes():
            path.write_bytes(what)
        case str():
            path.write_text(what)
        case _:
            path.write_text(json.dumps(what))
    report = error_file.read(str(path))
    assert report is not None
    return report


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "error.json"


@pytest.mark.parametrize(
    ("data", "report"),
    [
        (nested(), ErrorReport("ValueError: no", "Traceback ...", STAMP)),
        ({"message": "it broke", "timestamp": STAMP}, ErrorReport("it broke", timestamp=STAMP)),
        ({"message": "it broke", "timestamp": str(STAMP)}, ErrorReport("it broke", timestamp=STAMP)),
        ({"message": "it broke"}, ErrorReport("it broke")),
        (nested(timestamp=STAMP), ErrorReport("ValueError: no", "Traceback ...", STAMP)),
        (nested(py_callstack=None), ErrorReport("ValueError: no", "", STAMP)),
    ],
)
def test_each_legal_shape_is_understood(path: Path, data: object, report: ErrorReport) -> None:
    assert read(path, data) == report


@pytest.mark.parametrize("there", ["", "missing.json", "missing/error.json"])
def test_where_there_is_nothing_nothing_is_read(tmp_path: Path, there: str) -> None:
    assert error_file.read(str(tmp_path / there) if there else "") is None


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("", "the error file is not used: it is empty"),
        (json.dumps(nested())[:-20], "the error file is not used: it is no JSON: "),
        (b'{"message": "\xff\xfe"}', "the error file is not used: it is not UTF-8"),
        ("[" * 200_000, "the error file is not used: it is nested too deeply"),
        ('{"a":' * 200_000, "the error file is not used: it is nested too deeply"),
        ('{"message": "x", "timestamp": ' + "9" * 5000 + "}", "the error file is not used: it is no JSON: "),
        ("[1, 2]", "the error file is not used: it is no JSON object"),
        ("NaN", "the error file is not used: it is no JSON object"),
        (" " * (error_file.LIMIT + 1), f"the error file is not used: it has more than {error_file.LIMIT} bytes"),
        ("{}", "the error file has no message"),
        ('{"message": 7}', "the error file has no message"),
    ],
)
def test_what_is_no_error_file_is_a_note(path: Path, text: object, note: str) -> None:
    report = read(path, text)
    assert report.note.startswith(note)
    assert report == ErrorReport(note=report.note)


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (nested(message=None), "message"),
        (nested(message=["x"]), "message"),
        (nested(py_callstack=[1]), "py_callstack"),
        (nested(timestamp="soon"), "timestamp"),
        (nested(timestamp=None), "timestamp"),
        (nested(timestamp=True), "timestamp"),
        (nested(timestamp=-1), "timestamp"),
        (nested(timestamp=10**40), "timestamp"),
        (nested(timestamp=float("nan")), "timestamp"),
        (nested(timestamp=float("inf")), "timestamp"),
        ({"message": {"message": "x"}}, "timestamp"),
        ({"message": {"message": "x", "extraInfo": []}}, "timestamp"),
        ({"message": "x", "timestamp": []}, "timestamp"),
    ],
)
def test_what_is_of_the_wrong_type_is_left_out_and_named(path: Path, data: object, wrong: str) -> None:
    report = read(path, data)
    assert wrong in report.note
    assert (report.message != "") is (wrong != "message")


def test_what_is_right_is_kept_beside_what_is_wrong(path: Path) -> None:
    report = read(path, nested(timestamp="soon"))
    assert (report.message, report.traceback, report.timestamp) == ("ValueError: no", "Traceback ...", None)


def test_long_texts_keep_their_beginning_and_their_end(path: Path) -> None:
    text = "begin" + "x" * 500_000 + "end"
    report = read(path, nested(message=text, py_callstack=text))
    for kept, limit in ((report.message, error_file.MESSAGE_LIMIT), (report.traceback, error_file.TRACEBACK_LIMIT)):
        assert kept.startswith("begin")
        assert kept.endswith("end")
        assert "characters cut" in kept
        assert len(kept) < limit + 50


def test_the_largest_file_is_read(path: Path) -> None:
    report = read(path, json.dumps(nested()).ljust(error_file.LIMIT))
    assert report.note == ""


def test_nothing_but_a_regular_file_is_opened_up(tmp_path: Path) -> None:
    """A link would lead us elsewhere, a pipe without a writer would hold us up."""
    good = tmp_path / "good.json"
    good.write_text(json.dumps(nested()))
    (tmp_path / "link").symlink_to(good)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
        for name in ("link", "pipe", "directory", "socket"):
            report = error_file.read(str(tmp_path / name))
            assert report is not None, name
            assert report.note.startswith("the error file "), name
            assert report.message == "", name


def test_a_file_that_may_not_be_read_is_a_note(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    path.write_text("{}")
    monkeypatch.setattr(os, "open", refuse)
    report = error_file.read(str(path))
    assert report == ErrorReport(note="the error file cannot be read: Permission denied")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=3), some, max_size=3),
    max_leaves=8,
)
KEYS = ("message", "extraInfo", "py_callstack", "timestamp")
SHAPED = st.recursive(JSON, lambda some: st.dictionaries(st.sampled_from(KEYS), some, max_size=4), max_leaves=8)


@given(st.binary(max_size=200) | SHAPED)
def test_no_file_whatever_is_in_it_makes_reading_or_handing_on_raise(
    tmp_path_factory: pytest.TempPathFactory, what: object
) -> None:
    folder = tmp_path_factory.mktemp("errors")
    report = read(folder / "error.json", what)
    assert isinstance(report.message, str)
    assert report.timestamp is None or 0 <= report.timestamp < error_file.LATEST
    error_file.hand_on(str(folder / "error.json"), str(folder / "ours.json"), ErrorReport("else", "", 1), 3)
    handed_on = read(folder / "ours.json", (folder / "ours.json").read_bytes())
    assert handed_on.note == "", "a launcher of ours would stumble over it"


# ---- handing on


OTHERWISE = ErrorReport("rank 1 was killed by SIGSEGV after 5.0 s", "last words", STAMP)


def handed_on(tmp_path: Path, what: object, code: int) -> dict[str, Any]:
    if what is not None:
        read(tmp_path / "error.json", what)
    ours = tmp_path / "ours.json"
    ours.write_text("what was there before " * 1000)
    error_file.hand_on(str(tmp_path / "error.json"), str(ours), OTHERWISE, code)
    data: dict[str, Any] = json.loads(ours.read_text())
    return data


def test_the_root_causes_file_is_handed_on_with_its_exit_code(tmp_path: Path) -> None:
    data = nested(more=[1, {"a": None}]) | {"also": 1}
    data["message"]["mine"] = "kept"
    expected = json.loads(json.dumps(data))
    expected["message"]["errorCode"] = 3
    assert handed_on(tmp_path, data, 3) == expected


def test_a_text_is_handed_on_as_it_is(tmp_path: Path) -> None:
    data = {"message": "it broke", "timestamp": STAMP}
    assert handed_on(tmp_path, data, 3) == data


@pytest.mark.parametrize("what", [None, "{", "[1]", nested(timestamp="soon"), {"message": {"message": "x"}}])
def test_without_a_file_that_torch_would_take_what_we_know_is_handed_on(tmp_path: Path, what: object) -> None:
    assert handed_on(tmp_path, what, -11) == {
        "message": {
            "message": "rank 1 was killed by SIGSEGV after 5.0 s",
            "extraInfo": {"py_callstack": "last words", "timestamp": str(STAMP)},
            "errorCode": -11,
        }
    }


def test_a_file_that_cannot_be_written_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        error_file.hand_on("", str(tmp_path / "nowhere" / "error.json"), OTHERWISE, 1)
