"""A hook's command: real processes, in time and not."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import anyio
import pytest

from supervisor import clock
from supervisor.host.hook import run_command

ENV = {"PATH": os.environ["PATH"], "RANKD_EVENT": "group.failed"}


async def run(*argv: str, record: bytes = b"{}", within: float = 20.0) -> str:
    pids: list[int] = []
    return await run_command(argv, record, ENV, within, pids.append)


async def test_a_command_has_the_record_on_stdin_and_what_it_is_about_in_its_environment(tmp_path: Path) -> None:
    told = tmp_path / "told"
    record = b'{"event":"group.failed"}' * 5000
    assert await run("sh", "-c", f'cat > {told}; echo "$RANKD_EVENT" >> {told}', record=record) == ""
    assert told.read_bytes() == record + b"group.failed\n"


async def test_what_it_says_goes_nowhere_and_blocks_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    assert await run("sh", "-c", "head -c 200000 /dev/zero; head -c 200000 /dev/zero >&2") == ""
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("sh", "-c", "exit 3"), "exited with code 3"),
        (("sh", "-c", "kill -9 $$"), "was killed by signal 9"),
        (("/no/such/command",), "'/no/such/command' cannot be run: No such file or directory"),
    ],
)
async def test_what_goes_wrong_is_said(argv: tuple[str, ...], words: str) -> None:
    assert await run(*argv) == words


async def test_one_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        words = await run("sh", "-c", f"trap '' TERM; exec 3> {pipe}; sleep 1000 & sleep 1000", within=0.5)
        assert words == "took longer than 0.5 s and was killed"
        async with asyncio.timeout(10):
            while True:  # the end of the pipe is there once nobody has it open for writing
                try:
                    assert os.read(reader, 1) == b""
                    break
                except BlockingIOError:
                    await asyncio.sleep(0.01)
    finally:
        os.close(reader)


async def test_what_it_leaves_in_the_background_ends_with_it() -> None:
    began_at = clock.now()
    assert await run("sh", "-c", "sleep 1000 & exit 0") == ""
    assert clock.now() - began_at < 15


async def test_who_is_cancelled_leaves_no_process() -> None:
    """Which the fixture for every test looks for."""
    with anyio.move_on_after(0.2) as scope:
        await run(sys.executable, "-c", "import time; time.sleep(1000)")
    assert scope.cancelled_caught
