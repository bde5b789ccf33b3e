"""Functions and what they return, pickled, between the library's caller and its own workers: through two pipes each,
which only these two have. Nothing of it is ever in a file or a socket.

``supervisor.worker.called`` is the other end. A call is a line of JSON (``returns``: the worker's descriptor for its
return value; ``length``; ``path``, ``argv`` and ``main``: what spawned processes of multiprocessing get, too) and the
pickle of function and arguments. What comes back is a length and a pickle.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from supervisor.agent.spec import LOCAL_RANK, WorkerSpec
from supervisor.host.output import Attached, Output
from supervisor.plan import WorkerPlan
from supervisor.worker import call
from supervisor.worker.called import LENGTH, LIMIT

_CHUNK = 1 << 20


def argv_of(spec: WorkerSpec, local_rank: int) -> tuple[str, ...]:
    """What that worker runs; a function comes through its stdin."""
    if isinstance(spec.entrypoint, str):
        return (spec.entrypoint, *map(str, spec.args_of(local_rank)))
    return (sys.executable, "-u", os.path.abspath(call.__file__), "-")


def pickled(spec: WorkerSpec) -> list[bytes]:
    """The call of each local rank; none for a program. Raises what pickling raises."""
    if isinstance(spec.entrypoint, str):
        return []
    if isinstance(spec.args, Mapping) or any(isinstance(one, str) and LOCAL_RANK in one for one in spec.args):
        return [_dumps((spec.entrypoint, spec.args_of(rank))) for rank in range(spec.local_world_size)]
    return [_dumps((spec.entrypoint, tuple(spec.args)))] * spec.local_world_size


def _dumps(value: object) -> bytes:
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


class Calls:
    """Where the output of workers goes that are functions; their calls come from here, and their values to here."""

    def __init__(self, output: Output, calls: list[bytes]) -> None:
        self._output = output
        self._calls = calls
        self._given: dict[int, Called] = {}

    def attach(self, plan: WorkerPlan) -> Called:
        """As ``Output.attach``, with a call as stdin. Raises ``OSError`` or ``NotStarted``."""
        attached = self._output.attach(plan)
        try:
            called = self._given[plan.local_rank] = Called(attached, self._calls[plan.local_rank])
        except BaseException:
            attached.abort()
            raise
        return called

    def values(self) -> dict[int, Any]:
        """What the last worker of each local rank has returned. Raises ``RuntimeError`` if it cannot be unpickled."""
        values = {}
        for rank, called in sorted(self._given.items()):
            data = called.returned()
            if data is None:
                continue
            try:
                values[rank] = pickle.loads(data)  # noqa: S301 - our own worker's, through a pipe that nobody else has
            except Exception as error:
                raise RuntimeError(f"what local rank {rank} has returned cannot be unpickled") from error
        return values


class Called:
    """What one worker is started with (see ``host.process.Attached``), and what it gives back."""

    def __init__(self, attached: Attached, data: bytes) -> None:
        """Raises ``OSError`` and leaves nothing open then."""
        self.stdout, self.stderr = attached.stdout, attached.stderr
        self._attached = attached
        self._loop = asyncio.get_running_loop()
        self._returned = bytearray()
        self.stdin, self._to = os.pipe2(os.O_CLOEXEC)
        try:
            self._from, self._its = os.pipe2(os.O_CLOEXEC)
        except OSError:
            os.close(self.stdin)
            os.close(self._to)
            raise
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)
        # It is inherited under its own number, until the worker has it: nothing else of ours is started before.
        os.set_inheritable(self._its, True)
        head = {"returns": self._its, "length": len(data), **_as_spawned(data)}
        self._rest = [memoryview(json.dumps(head).encode() + b"\n"), memoryview(data)]

    def started(self, pid: int) -> None:
        """The worker has its ends: what is for it is on its way."""
        self._attached.started(pid)
        self._close_its()
        self._loop.add_writer(self._to, self._write)
        self._loop.add_reader(self._from, self._read)

    def abort(self) -> None:
        self._attached.abort()
        self._close_its()
        self._close_ours()

    def drain(self) -> None:
        self._attached.drain()
        while self._from >= 0 and self._read():
            pass

    def stderr_tail(self) -> str:
        return self._attached.stderr_tail()

    def close(self) -> None:
        self._attached.close()
        self._close_its()
        self._close_ours()

    def returned(self) -> bytes | None:
        """The pickle that came back; None unless it came whole."""
        length = int.from_bytes(self._returned[:LENGTH], "little")
        data = bytes(self._returned[LENGTH:])
        return data if len(self._returned) >= LENGTH and len(data) == length else None

    def _write(self) -> None:
        try:
            while self._rest:
                sent = os.write(self._to, self._rest[0][:_CHUNK])
                self._rest[0] = self._rest[0][sent:]
                if not self._rest[0]:
                    self._rest.pop(0)
        except BlockingIOError:
            return
        except BrokenPipeError:  # it has ended, and its end says more
            self._rest.clear()
        self._close_to()

    def _read(self) -> bool:
        """Take what is there; whether there may be more."""
        with suppress(BlockingIOError):
            more = os.read(self._from, _CHUNK)
            self._returned += more
            if more and len(self._returned) <= LIMIT + LENGTH:
                return True
            self._close_from()
        return False

    def _close_its(self) -> None:
        if self._its >= 0:
            os.close(self.stdin)
            os.close(self._its)
            self._its = -1

    def _close_ours(self) -> None:
        self._close_to()
        self._close_from()

    def _close_to(self) -> None:
        if self._to >= 0:
            self._loop.remove_writer(self._to)
            os.close(self._to)
            self._to = -1
            self._rest.clear()

    def _close_from(self) -> None:
        if self._from >= 0:
            self._loop.remove_reader(self._from)
            os.close(self._from)
            self._from = -1


def _as_spawned(data: bytes) -> dict[str, Any]:
    """What a fresh interpreter needs to understand ``data``. The caller's script is run again only for what it defines
    itself (multiprocessing.spawn, ``prepare``)."""
    main: dict[str, str] = {}
    if b"__main__" in data:
        module = sys.modules["__main__"]
        spec, path = getattr(module, "__spec__", None), getattr(module, "__file__", None)
        if spec is not None:
            main = {"init_main_from_name": spec.name}
        elif path is not None:
            main = {"init_main_from_path": os.path.abspath(path)}
    return {"path": [entry or os.getcwd() for entry in sys.path], "argv": sys.argv, "main": main}
