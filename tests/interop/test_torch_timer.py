"""torch's own FileTimerClient writes to our pipe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.core.timers import TimerRequest, Timers
from supervisor.host.timer_pipe import TimerPipe
from tests.interop.needed import needs_torch

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.timeout(300), needs_torch]

CLIENT = """
import sys, torch.distributed.elastic.timer as timer
timer.configure(timer.FileTimerClient(sys.argv[1]))
with timer.expires(after=600, scope="named"), timer.expires(after=60):
    with timer.expires(after=30):
        pass
    sys.stdout.write("inner over\\n")
    sys.stdout.flush()
    sys.stdin.readline()
"""


def test_torchs_own_client_sets_and_releases_and_its_nested_timers_are_told_apart(tmp_path: Path) -> None:
    came: list[TimerRequest] = []
    pipe = TimerPipe(str(tmp_path / "timers"), came.extend)
    timers = Timers()
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, pipe.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "inner over\n"
        pipe.drain()
        for request in came:
            timers.take(request, 0.0)
        assert len(timers) == 2  # with torch's own server the end of the inner timer has disarmed the outer one
        client.communicate("\n")
    came.clear()
    pipe.drain()
    for request in came:
        timers.take(request, 0.0)
    assert (len(timers), {request.pid for request in came}) == (0, {client.pid})
    assert pipe.lines.refused == 0
    pipe.close()


TEN_CLIENTS = """
import os, sys, torch.distributed.elastic.timer as timer
children = []
for _ in range(10):
    child = os.fork()
    if not child:
        timer.configure(timer.FileTimerClient(sys.argv[1]))
        for number in range(10):
            with timer.expires(after=60, scope=str(number)):
                pass
        os._exit(0)
    children.append(child)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def test_of_ten_clients_that_speak_at_once_no_word_is_lost(tmp_path: Path) -> None:
    came: list[TimerRequest] = []
    pipe = TimerPipe(str(tmp_path / "timers"), came.extend)
    subprocess.run([sys.executable, "-c", TEN_CLIENTS, pipe.path], timeout=120, check=True)
    pipe.drain()
    pipe.close()
    assert (len(came), len({request.pid for request in came}), pipe.lines.refused) == (200, 10, 0)
    timers = Timers()
    for request in came:
        timers.take(request, 0.0)
    assert len(timers) == 0, "each was released"


RAISES = """
import sys, torch.distributed.elastic.timer as timer
timer.configure(timer.FileTimerClient(sys.argv[1]))
try:
    with timer.expires(after=60, scope="step"):
        raise KeyError("lost")
except KeyError:
    sys.exit(7)
"""


def test_an_exception_passes_through_torchs_timer_and_releases_it(tmp_path: Path) -> None:
    came: list[TimerRequest] = []
    pipe = TimerPipe(str(tmp_path / "timers"), came.extend)
    assert subprocess.run([sys.executable, "-c", RAISES, pipe.path], timeout=120, check=False).returncode == 7
    pipe.drain()
    pipe.close()
    assert [(request.scope, request.at is None) for request in came] == [("step", False), ("step", True)]
