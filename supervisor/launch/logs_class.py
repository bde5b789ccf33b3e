"""``--logs-specs``: a class of the entry-point group ``torchrun.logs_specs`` says at each attempt where output goes."""

from __future__ import annotations

import errno
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from supervisor.launch.refused import WrongUsage
from supervisor.plan import Places

MADE_WITHIN = 120.0
"""Seconds: it may import torch, from a file server."""

ANSWERS_WITHIN = 60.0

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# As in ``config_reader``: nobody's json.py comes first.
_PROGRAM = (
    "import sys; root, *arguments = sys.argv[1:]; sys.path.append(root); "
    "from supervisor.launch.logs_child import main; sys.exit(main(*arguments))"
)


class LogsClass:
    """An instance of the class, in a process of its own (``logs_child``). As a context manager it closes itself."""

    def __init__(self, name: str, log_dir: str | None, redirects: str, tee: str, local_ranks: Collection[int]) -> None:
        """Made with what torchrun makes it with (torch.distributed.run). Raises ``WrongUsage``."""
        self._name = name
        ranks = json.dumps(sorted(local_ranks) if local_ranks else None)
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, _ROOT, name, log_dir or "", redirects, tee, ranks],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for the workers
            )
        except OSError as error:
            raise WrongUsage(f"--logs-specs {name}: no process for it can be started: {error.strerror}") from error
        try:
            self._answer(b"", MADE_WITHIN)
        except OSError as error:
            self.close()
            raise WrongUsage(f"--logs-specs {name}: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._child.pid

    def places(self, envs: Mapping[int, Mapping[str, str]]) -> dict[int, Places]:
        """Where the output of each worker goes, by the variables that they will see, by local rank.

        Waits for the answer. Raises ``OSError`` with the reason when there is none.
        """
        try:
            found = self._answer(json.dumps(envs).encode() + b"\n", ANSWERS_WITHIN)["places"]
        except OSError as error:
            raise OSError(error.errno, f"--logs-specs {self._name}: {error.strerror}") from error
        return {int(rank): Places(*fields) for rank, fields in found.items()}

    def close(self) -> None:
        """The process is gone afterwards. May be called again."""
        self._child.kill()
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout):
            assert stream is not None
            with suppress(OSError):
                stream.close()

    def _answer(self, question: bytes, within: float) -> dict[str, Any]:
        """Raises ``OSError``; who has not answered in time never will."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        to, of = self._child.stdin.fileno(), self._child.stdout.fileno()
        os.set_blocking(to, False)
        until, heard = time.monotonic() + within, b""
        while not heard.endswith(b"\n"):
            left = max(0.0, until - time.monotonic())
            readable, writable, _ = select.select([of], [to] if question else [], [], left)
            if readable:
                block = os.read(of, 1 << 16)
                if not block:
                    raise OSError(errno.EPIPE, f"its process has ended with {self._ended()}")
                heard += block
            elif writable:
                question = question[os.write(to, question) :]
            else:
                self._child.kill()
                raise OSError(errno.ETIMEDOUT, f"no answer within {within:g} s")
        answer: dict[str, Any] = json.loads(heard)
        if "wrong" in answer:
            raise OSError(errno.EINVAL, answer["wrong"])
        return answer

    def _ended(self) -> str:
        code = self._child.wait()
        return f"exit code {code}" if code >= 0 else f"signal {-code}"
