"""Signals become callbacks in the event loop: none is lost, and none finds us unprepared.

Not ``loop.add_signal_handler``: that carries the numbers of signals through a socket that holds 278 of them. With a
thousand workers dying in one turn of the loop, a SIGTERM behind their SIGCHLDs is dropped (cpython issues 74224 and
79930). Here the interpreter's own flag, one a signal, is the message, and the wake-up pipe is only a doorbell: a full
one rings as well.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType


def hold(numbers: Iterable[int]) -> None:
    """Exactly these signals wait, from now until ``signal_door`` opens; for the first lines of a daemon.

    A stop request that comes while the daemon is being put together is then answered, not died of. Children started
    before the door opens would inherit the mask and not hear SIGTERM: start none. An ignored SIGCHLD, inherited from
    whoever started us, would have the kernel reap our children before we do, so it is put right here.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, numbers)
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@contextmanager
def signal_door(callbacks: Mapping[int, Callable[[], None]]) -> Iterator[None]:
    """Within, each of these signals runs its callback in the running loop, and no signal is blocked.

    A signal that comes again before it is answered is one signal, as in signal(7); one that was held comes at once. On
    the way out what has come is answered, and handlers and mask are what they were: what was held is held again.

    One door at a time, and no ``loop.add_signal_handler`` beside it: there is one wake-up descriptor a process. Raises
    ``RuntimeError`` where it is taken, and outside the main thread, where Python delivers no signals; ``OSError`` or
    ``ValueError`` for a number that cannot be caught. Nothing stays installed then.

    Children: a caught signal is at its default after exec(2), an ignored one stays ignored (``nohup``), and the mask
    is inherited, empty while the door is open. The SIGPIPE and SIGXFSZ that Python ignores are restored by
    ``subprocess.Popen(restore_signals=True)``, and must be named to ``os.posix_spawn(setsigdef=)``.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("signals are delivered to the main thread: open the signal door there")
    loop = asyncio.get_running_loop()
    came: dict[int, FrameType | None] = {}

    def answer() -> None:
        for number in tuple(came):
            del came[number]
            callbacks[number]()

    def opened() -> None:
        os.read(bell, 1 << 16)
        answer()  # what has rung is in ``came`` by now: the interpreter runs handlers before it enters a function

    bell, rope = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
    try:
        _take_wakeup(rope)
        loop.add_reader(bell, opened)
        for number in callbacks:
            # A function in C, so that a rain of signals cannot interrupt handlers with handlers until the stack is full
            before[number] = signal.signal(number, came.__setitem__)
            signal.siginterrupt(number, False)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, previous in before.items():
            # None: installed by C code before Python's time, and out of reach for us
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
        if loop.remove_reader(bell):
            signal.set_wakeup_fd(-1)
        os.close(bell)
        os.close(rope)
        answer()


def _take_wakeup(rope: int) -> None:
    other = signal.set_wakeup_fd(rope, warn_on_full_buffer=False)
    if other != -1:
        signal.set_wakeup_fd(other, warn_on_full_buffer=False)
        raise RuntimeError("somebody listens for signals already: one signal door at a time")
