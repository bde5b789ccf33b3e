"""The configuration is read by a child process, so that the daemon never carries pydantic (10 MiB and 100 ms).

Start it first, do something else meanwhile, then ask for the result.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import IO, Self

from supervisor.errors import ConfigError, Mistake, SupervisorBug
from supervisor.plan import DaemonPlan
from supervisor.plan_json import plan_from_json

PATIENCE = 60.0
"""Seconds until a child that says nothing is given up: name services and network file systems can hang."""

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Not ``-m``, which would put the working directory before everything else on sys.path: there may be anybody's json.py.
_PROGRAM = (
    "import sys; root, *arguments = sys.argv[1:]; sys.path.append(root); "
    "from supervisor.config.__main__ import main; sys.exit(main(*arguments))"
)


class Reading:
    """A configuration that is being read. ``result`` or ``close`` ends it; as a context manager it closes itself."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def result(self, timeout: float = PATIENCE) -> DaemonPlan:
        """Wait for the plan, once, at most ``timeout`` seconds.

        Raises ``ConfigError`` with every mistake, and ``SupervisorBug`` with what the child had to say when it
        answers with neither.
        """
        try:
            out, err = self._child.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise SupervisorBug(f"reading the configuration has taken longer than {timeout:g} s") from None
        finally:
            self.close()
        return self.plan_in(out, err)

    @property
    def streams(self) -> tuple[IO[bytes], IO[bytes]]:
        """Its stdout and stderr, for whoever reads both to their ends meanwhile and gives them to ``plan_in``."""
        assert self._child.stdout is not None
        assert self._child.stderr is not None
        return self._child.stdout, self._child.stderr

    def plan_in(self, out: bytes, err: bytes) -> DaemonPlan:
        """The plan in what the child has said. Raises as ``result`` does."""
        try:
            answer = json.loads(out)
            if "mistakes" in answer:
                raise ConfigError([Mistake(*mistake) for mistake in answer["mistakes"]])
            return plan_from_json(answer["plan"])
        except (ValueError, TypeError, KeyError) as error:
            raise SupervisorBug(
                f"the process that reads the configuration ended with {self._child.poll()} "
                f"and no plan ({error}): {err.decode(errors='replace').strip()}"
            ) from None

    def close(self) -> None:
        """Whatever it is doing, the child is gone afterwards. May be called again."""
        self._child.kill()
        self._child.wait()
        for stream in (self._child.stdout, self._child.stderr):
            if stream is not None:
                stream.close()

    def let_go(self) -> None:
        """As ``close``, of a child that may hang in the kernel: only the next ``subprocess`` waits for it."""
        self._child.kill()
        for stream in self.streams:
            stream.close()


def read_apart(path: str, node_id: str = "", run_id: str = "", workers: Mapping[str, int] | None = None) -> Reading:
    """Begin to read the file at ``path`` with this process's environment and working directory.

    ``node_id``, ``run_id``: what a file means that names none. ``workers``: how many some of its groups are to have,
    whatever it says. Raises ``OSError``.
    """
    return Reading(
        subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, _ROOT, path, node_id, run_id, json.dumps(workers or {})],
            # Nobody's pydantic plugin is wanted, and looking for some would read every distribution's metadata.
            env=os.environ | {"PYDANTIC_DISABLE_PLUGINS": "__all__"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    )
