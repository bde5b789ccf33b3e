"""Functions that workers of the tests run; importable, as a function that is pickled has to be."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn


def rank() -> int:
    return int(os.environ["RANK"])


def give(*args: object) -> tuple[object, ...]:
    return (rank(), *args)


def size(data: bytes) -> bytes:
    assert sys.stdin.read() == ""
    return data[::-1]


def fail(words: str, which: int) -> None:
    """One rank fails, the others wait to be stopped."""
    if rank() == which:
        raise ValueError(words)
    wait()


def crash(which: int) -> None:
    if rank() == which:
        os.kill(os.getpid(), signal.SIGSEGV)
    wait()


def leave(code: int) -> None:
    os._exit(code)


def give_a_lambda() -> object:
    return lambda: None


class Untouchable:
    """Can be pickled, but not unpickled again."""

    def __reduce__(self) -> tuple[object, tuple[int, ...]]:
        return int, (1, 2, 3, 4)


def give_untouchable() -> Untouchable:
    return Untouchable()


def second_time(folder: str) -> str:
    """Fails until it has been restarted."""
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        sys.exit(3)
    Path(folder, f"up{rank()}").touch()
    while len(list(Path(folder).glob("up*"))) < int(os.environ["WORLD_SIZE"]) + 1:
        time.sleep(0.01)
    return os.environ["TORCHELASTIC_RESTART_COUNT"]


def wait() -> NoReturn:
    while True:
        signal.pause()


def say_and_wait(folder: str) -> NoReturn:
    """Says that it is there, and later that it was told to leave."""

    def told(number: int, frame: object) -> NoReturn:
        Path(folder, f"told{rank()}").touch()
        sys.exit(0)

    signal.signal(signal.SIGTERM, told)
    Path(folder, f"up{rank()}").write_text(str(os.getpid()))
    wait()


def ignore_and_wait(folder: str) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(folder, f"up{rank()}").write_text(str(os.getpid()))
    wait()


def leave_a_daemon(folder: str) -> int:
    """Ends, and leaves behind what is in no session of ours and has no parent."""
    script = f"setsid sh -c 'echo $$ > {folder}/pid; exec sleep 100' &"
    done = subprocess.run(["sh", "-c", script], start_new_session=True, check=True)
    while not (Path(folder, "pid").exists() and Path(folder, "pid").read_text()):
        time.sleep(0.01)
    return done.returncode


def talk() -> None:
    sys.stdout.write(f"out {rank()}\n")
    sys.stderr.write(f"err {rank()}\n")


def fail_by_half() -> None:
    """Every other rank fails whenever it is started; the others return."""
    if rank() % 2:
        raise ValueError(f"rank {rank()}")


def leave_in_order(code: int) -> None:
    sys.exit(code)


def say_in_three_ways() -> None:
    """By Python, by C, and by a child."""
    print("of Python", flush=True)
    libc = ctypes.CDLL(None)
    libc.puts(b"of C")
    libc.fflush(None)
    subprocess.run(["sh", "-c", "echo of a child; echo error of a child >&2"], check=True)


def count_to(number: int) -> None:
    for line in range(number):
        print("line", line)
