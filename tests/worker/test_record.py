"""``record`` writes torch's error file for an exception, and is not noticed otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from supervisor.worker import record

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    return path


@record
def divide(one: int, other: int = 1) -> float:
    """The quotient."""
    return one / other


@record
def leave(code: object) -> None:
    raise SystemExit(code)


def python(script: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=45, check=False
    )


def test_what_it_decorates_works_as_before(file: Path) -> None:
    assert divide(3, other=2) == 1.5
    assert (divide.__name__, divide.__doc__, divide.__wrapped__(4)) == ("divide", "The quotient.", 4)  # type: ignore[attr-defined]
    assert not file.exists()


def test_an_exception_is_in_the_file_in_torchs_shape_and_goes_on(file: Path) -> None:
    began_at = int(time.time())
    with pytest.raises(ZeroDivisionError):
        divide(1, 0)
    data = json.loads(file.read_text())
    assert list(data) == ["message"]
    assert list(data["message"]) == ["message", "extraInfo"]
    assert data["message"]["message"] == "ZeroDivisionError: division by zero"
    info = data["message"]["extraInfo"]
    assert list(info) == ["py_callstack", "timestamp"]
    assert info["py_callstack"].startswith("Traceback (most recent call last):\n")
    assert info["py_callstack"].endswith("ZeroDivisionError: division by zero\n")
    assert isinstance(info["timestamp"], str)
    assert began_at <= int(info["timestamp"]) <= time.time()


def test_it_replaces_what_was_there(file: Path) -> None:
    file.write_text("x" * 100_000)
    with pytest.raises(ZeroDivisionError):
        divide(1, 0)
    assert json.loads(file.read_text())


def test_an_exit_with_0_is_a_return(file: Path) -> None:
    leave(0)
    assert not file.exists()


@pytest.mark.parametrize("code", [1, 3, "words", None])
def test_any_other_exit_passes_without_a_file(code: object, file: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        leave(code)
    assert caught.value.code == code
    assert not file.exists()


def test_an_interrupt_passes_without_a_file(file: Path) -> None:
    @record
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not file.exists()


@pytest.mark.parametrize("value", [None, ""])
def test_nobody_who_asks_gets_no_file(value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    if value is not None:
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", value)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError):
        divide(1, 0)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_does_not_hide_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "nowhere" / "error.json"))
    with pytest.raises(ZeroDivisionError):
        divide(1, 0)
    assert "cannot write the error file" in capsys.readouterr().err


def test_an_exception_that_cannot_say_what_it_is_goes_on_all_the_same(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    @record
    def fails() -> None:
        raise MuteError

    with pytest.raises(MuteError):
        fails()
    assert "no words" in capsys.readouterr().err


def test_a_crash_of_native_code_leaves_its_traceback_on_stderr(tmp_path: Path) -> None:
    script = """
from supervisor.worker import record
import os, signal
@record
def crashing():
    os.kill(os.getpid(), signal.SIGSEGV)
crashing()
"""
    crashed = python(script, TORCHELASTIC_ERROR_FILE=str(tmp_path / "error.json"))
    assert crashed.returncode == -11
    assert "in crashing" in crashed.stderr
    assert "in crashing" not in python(script, TORCHELASTIC_ERROR_FILE="").stderr, "nobody asked for it"


def test_it_works_where_there_is_no_stderr(tmp_path: Path) -> None:
    file = tmp_path / "error.json"
    script = """
import sys
sys.stderr = None
from supervisor.worker import record
@record
def main():
    raise ValueError("no")
main()
"""
    assert python(script, TORCHELASTIC_ERROR_FILE=str(file)).returncode == 1
    assert json.loads(file.read_text())["message"]["message"] == "ValueError: no"


def test_importing_it_imports_nothing_else_and_takes_no_time() -> None:
    """The least of five: a busy machine makes a start longer, never shorter."""
    script = """
import sys, time
before = set(sys.modules)
began_at = time.perf_counter()
import supervisor.worker
took_for = time.perf_counter() - began_at
print(took_for, *sorted(set(sys.modules) - before))
"""
    runs = [python(script).stdout.split() for _ in range(5)]
    assert runs[0][1:] == ["__future__", "supervisor", "supervisor.worker", "supervisor.worker.recording"]
    assert min(float(took_for) for took_for, *_ in runs) < 0.03


def test_only_the_standard_library_is_needed_even_to_write() -> None:
    script = """
import sys
sys.path[:] = [one for one in sys.path if "site-packages" not in one]
before = set(sys.modules)
from supervisor.worker import record
@record
def main():
    raise ValueError("no")
try:
    main()
except ValueError:
    pass
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new - sys.stdlib_module_names - {"supervisor"}))
"""
    assert python(script, TORCHELASTIC_ERROR_FILE="/dev/null").stdout.strip() == "[]"
