"""The daemon on a terminal: workers' lines in colour, one line of progress below them, and a clean prompt after it."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.configs import SLEEP, group, ladder, python, table
from tests.end_to_end.rankd import PATIENCE, ROOT
from tests.screen import Screen, resize, terminal

pytestmark = pytest.mark.end_to_end

COLUMNS = 100
WORDS = (
    "import os, sys, time\n"
    "rank = os.environ['RANK']\n"
    "for number in range(200):\n"
    "    sys.stdout.write(f'line {number}'); time.sleep(0.0005)\n"
    "    sys.stdout.write(f' of rank {rank}\\n')\n"
)
TALK = python(WORDS)
PREFIXED = {"prefix": "[${rank}] "}


@contextmanager
def leave(tmp_path: Path, workers: int) -> Iterator[tuple[list[str], Callable[[], int]]]:
    """The argv of workers who talk and then wait for leave to go, and what gives it to so many."""
    path = tmp_path / "leave"
    os.mkfifo(path)
    fifo = os.open(path, os.O_RDWR)
    try:
        yield (
            python(f"{WORDS}os.read(os.open(sys.argv[1], os.O_RDONLY), 1)", str(path)),
            lambda: os.write(fifo, b"." * workers),
        )
    finally:
        os.close(fifo)


class Sitting:
    """Somebody sits at a terminal and has started rankd there."""

    def __init__(self, ours: int, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.screen = Screen(COLUMNS)
        self.ours = ours
        self.bottoms: list[str] = []
        """What the bottom row was, whenever it changed."""

    def look_until(self, condition: Callable[[], object]) -> None:
        """Look at the screen until it is so, or nobody writes to it any more."""
        give_up_at = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < give_up_at, self.screen.rows
            if select.select([self.ours], [], [], 0.05)[0]:
                self.screen.feed(os.read(self.ours, 1 << 16))
                if self.screen.bottom not in self.bottoms[-1:]:
                    self.bottoms.append(self.screen.bottom)

    def look_to_the_end(self) -> int:
        """Everything that is written until it has ended; returns its exit code."""
        self.look_until(lambda: self.process.poll() is not None)
        while select.select([self.ours], [], [], 0)[0]:
            self.screen.feed(os.read(self.ours, 1 << 16))
        return self.process.wait()


@contextmanager
def sit(
    directory: Path,
    config: str,
    *,
    through: Sequence[str] = ("setsid", "--ctty", "--wait"),
    env: Mapping[str, str] | None = None,
) -> Iterator[Sitting]:
    """``rankd run``, with that configuration, at a terminal that is the controlling one of what is started there."""
    (directory / "run").mkdir(mode=0o700)
    path = directory / "rankd.toml"
    path.write_text(config + "\n" + table("health", listen=["127.0.0.1:0"]))
    places = {"STATE_DIRECTORY": str(directory / "state"), "RUNTIME_DIRECTORY": str(directory / "run")}
    with seated(directory, "run", path, through=through, env=places | dict(env or {})) as sitting:
        yield sitting


@contextmanager
def seated(
    directory: Path,
    *words: object,
    through: Sequence[str] = ("setsid", "--ctty", "--wait"),
    env: Mapping[str, str] | None = None,
    stdout: Path | None = None,
) -> Iterator[Sitting]:
    """The same for ``rankd WORDS...``, whose stdout may be a file."""
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm",
    }
    with terminal(COLUMNS) as (ours, theirs), open(stdout or os.devnull, "wb") as file:
        process = subprocess.Popen(
            [*through, sys.executable, "-m", "supervisor", *map(str, words)],
            cwd=directory,
            env=environment | dict(env or {}),
            stdin=theirs,
            stdout=file if stdout else theirs,
            stderr=theirs,
        )
        sitting = Sitting(ours, process)
        try:
            yield sitting
        finally:
            if process.poll() is None:
                os.write(ours, b"\x03")  # Ctrl-C
                sitting.look_to_the_end()
            print("\n".join(sitting.screen.rows))  # shown if the test has failed


def test_lines_are_whole_and_in_order_above_a_line_of_progress_that_is_gone_at_the_end(tmp_path: Path) -> None:
    def ready() -> bool:
        return any(
            bottom.startswith("talk running 4/4 ready, attempt 0, 3 restarts left, up ") for bottom in seen.bottoms
        )

    with leave(tmp_path, 4) as (talk, go), sit(tmp_path, group("talk", talk, workers=4, logs=PREFIXED)) as seen:
        seen.look_until(ready)
        go()
        assert seen.look_to_the_end() == 0
    text = "\n".join(seen.screen.lines)
    for rank in range(4):
        said = re.findall(rf"^\[{rank}\] (.*)$", text, re.MULTILINE)
        assert said == [f"line {number} of rank {rank}" for number in range(200)]
    assert "stopped with exit code 0" in seen.screen.lines[-1]
    assert seen.screen.bottom == ""
    assert not any("4/4 ready, attempt" in line for line in seen.screen.lines), "the line of progress never stays"


def test_prefixes_are_coloured_by_rank(tmp_path: Path) -> None:
    with sit(tmp_path, group("talk", ["echo", "hello"], workers=3, logs={"prefix": "[${rank}] "})) as seen:
        assert seen.look_to_the_end() == 0
    painted = re.findall(rb"(\x1b\[\d+m)\[(\d)\] \x1b\[0mhello\r\n", seen.screen.raw)
    assert sorted(rank for _, rank in painted) == [b"0", b"1", b"2"]
    assert len({colour for colour, _ in painted}) == 3


def test_no_color_leaves_the_line_and_takes_the_colours(tmp_path: Path) -> None:
    with (
        leave(tmp_path, 2) as (talk, go),
        sit(tmp_path, group("talk", talk, workers=2), env={"NO_COLOR": "1"}) as seen,
    ):
        seen.look_until(lambda: any(bottom.startswith("talk running 2/2 ready") for bottom in seen.bottoms))
        go()
        assert seen.look_to_the_end() == 0
    assert set(re.findall(rb"\x1b\[([0-9;]*)m", seen.screen.raw)) == {b"0"}


def test_a_pause_between_attempts_says_why_and_how_long_it_lasts(tmp_path: Path) -> None:
    restart = {"max_restarts": 1, "backoff": {"initial": "60s", "jitter": 0.0}}
    with sit(tmp_path, group("talk", python("raise SystemExit(3)"), restart=restart)) as seen:
        seen.look_until(lambda: len(set(re.findall("starts attempt 1 in ([0-9]+) s", " ".join(seen.bottoms)))) > 1)
    paused = "talk backing off, starts attempt 1 in [0-9]+ s, 0 restarts left: rank 0 exited with code 3"
    assert any(re.match(paused, bottom) for bottom in seen.bottoms)
    assert seen.screen.bottom == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_stop_leaves_a_clean_row_for_the_prompt(tmp_path: Path, number: signal.Signals) -> None:
    with sit(tmp_path, group("sleep", SLEEP, workers=2, stop=ladder("1s")), through=()) as seen:
        seen.look_until(lambda: "sleep running 2/2 ready" in seen.screen.bottom)
        seen.process.send_signal(number)
        assert seen.look_to_the_end() == 0
    assert "stopped with exit code 0" in seen.screen.lines[-1]
    assert seen.screen.bottom == ""


def test_the_line_follows_the_width_of_the_terminal(tmp_path: Path) -> None:
    with sit(tmp_path, group("sleep", SLEEP, workers=2, stop=ladder("1s"))) as seen:
        seen.look_until(lambda: "sleep running 2/2 ready, attempt" in seen.screen.bottom)
        resize(seen.ours, 30)
        seen.look_until(lambda: seen.screen.bottom == "sleep running 2/2 ready, at…")


def test_where_workers_write_to_the_terminal_by_themselves_there_is_no_line(tmp_path: Path) -> None:
    logs = {"redirects": "0", "tee": "1"}  # stderr is the terminal itself
    with sit(tmp_path, group("talk", TALK, workers=2, logs=logs)) as seen:
        assert seen.look_to_the_end() == 0
    assert b"\x1b[K" not in seen.screen.raw
    assert sum("of rank" in line for line in seen.screen.lines) == 400


def test_a_dumb_terminal_has_no_line(tmp_path: Path) -> None:
    with sit(tmp_path, group("talk", TALK), env={"TERM": "dumb"}) as seen:
        assert seen.look_to_the_end() == 0
    assert b"\x1b[K" not in seen.screen.raw


def test_a_job_in_the_background_draws_nothing_where_the_shell_has_its_prompt(tmp_path: Path) -> None:
    in_the_background = ("setsid", "--ctty", "--wait", "sh", "-c", 'set -m; "$@" & wait', "sh")
    with sit(tmp_path, group("talk", TALK, workers=2), through=in_the_background) as seen:
        assert seen.look_to_the_end() == 0
    assert b"\x1b[K" not in seen.screen.raw
    assert sum("of rank" in line for line in seen.screen.lines) == 400


def test_a_bug_of_ours_leaves_its_words_whole_and_a_clean_row(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "from supervisor import runtime\n"
        "def fail(self):\n"
        "    raise ZeroDivisionError('a bug for a test')\n"
        "runtime.Runtime._notice = fail\n"
    )
    paths = {"PYTHONPATH": f"{broken}:{ROOT}"}
    with sit(tmp_path, group("sleep", SLEEP, workers=2), env=paths) as seen:
        assert seen.look_to_the_end() == 70
    assert "rankd: a bug in rankd itself; every worker was killed:" in seen.screen.lines
    assert "ZeroDivisionError: a bug for a test" in seen.screen.lines
    assert "stopped with exit code 70" in seen.screen.lines[-1]
    assert seen.screen.bottom == ""


def launch(directory: Path, job: Path) -> tuple[object, ...]:
    """The words of a launch of two who talk, both with a prefix."""
    job.write_text(WORDS + "os.read(os.open(sys.argv[1], os.O_RDONLY), 1)")
    return ("launch", "--nproc-per-node=2", f"--log-dir={directory / 'logs'}", "--tee=3", job, directory / "leave")


@pytest.mark.parametrize("stdout", [None, "out"])
def test_a_launch_shows_its_progress_on_the_terminal_that_is_its_stderr(tmp_path: Path, stdout: str | None) -> None:
    """With its stdout in a file the workers' lines go there, and only the progress is seen."""
    file = tmp_path / stdout if stdout else None
    with (
        leave(tmp_path, 2) as (_, go),
        seated(tmp_path, *launch(tmp_path, tmp_path / "talk.py"), env={"OMP_NUM_THREADS": "1"}, stdout=file) as seen,
    ):
        seen.look_until(lambda: any(bottom.startswith("default running 2/2 ready") for bottom in seen.bottoms))
        go()
        assert seen.look_to_the_end() == 0
    assert seen.screen.bottom == ""
    if file:
        text = file.read_text()
        assert "line" not in "".join(seen.screen.lines)
    else:
        text = "\n".join(seen.screen.lines)
        assert len(set(re.findall(rb"(\x1b\[\d+m)\[default\d\]:\x1b\[0m", seen.screen.raw))) == 2, "a colour each"
    for rank in range(2):
        said = re.findall(rf"^\[default{rank}\]:(.*)$", text, re.MULTILINE)
        assert said == [f"line {number} of rank {rank}" for number in range(200)]
