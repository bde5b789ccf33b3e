"""``record``: an exception that ends the worker is in its error file when it has ended."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # typing's own would cost the import of typing, the largest part of this module's time
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"


def record(fn: Callable[P, R]) -> Callable[P, R | None]:
    """Decorate a worker's main function: what it raises is written to ``$TORCHELASTIC_ERROR_FILE``, and raised on.

    The same contract as torch.distributed.elastic.multiprocessing.errors.record, without torch: only an ``Exception``
    is written; ``SystemExit(0)`` becomes a return of None; any other ``SystemExit`` and a ``KeyboardInterrupt`` pass
    without a file. A crash in native code leaves its tracebacks on stderr (faulthandler). Without the variable it
    calls ``fn`` and does no more. That the file cannot be written is said on stderr and hides nothing.
    """

    def recorded(*args: P.args, **kwargs: P.kwargs) -> R | None:
        if os.environ.get(ERROR_FILE):
            _trace_crashes()
        try:
            return fn(*args, **kwargs)
        except SystemExit as end:
            if end.code == 0:
                return None
            raise
        except Exception as error:
            _write(error)
            raise

    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        if hasattr(fn, name):
            setattr(recorded, name, getattr(fn, name))
    recorded.__wrapped__ = fn  # type: ignore[attr-defined]  # as functools.wraps does, which costs its import
    return recorded


def _trace_crashes() -> None:
    import faulthandler  # noqa: PLC0415 - only for those who are supervised

    if not faulthandler.is_enabled():
        try:
            faulthandler.enable(all_threads=True)
        except (RuntimeError, ValueError, OSError, AttributeError) as why:  # a stderr that is no file
            _warn(f"no tracebacks of crashes: {why}")


def _write(error: Exception) -> None:
    path = os.environ.get(ERROR_FILE)  # read only now, as torch does: the program may have set it
    if not path:
        return
    import json  # noqa: PLC0415 - all that only a failure needs
    import time  # noqa: PLC0415
    import traceback  # noqa: PLC0415

    from supervisor.worker.error_file import contents, write  # noqa: PLC0415

    try:
        # Both may run code of the program's: its __str__, its __getattr__.
        message = f"{type(error).__name__}: {error}"
        callstack = "".join(traceback.format_exception(error))
        write(path, json.dumps(contents(message, callstack, int(time.time()))))
    except Exception as why:  # noqa: BLE001 - whatever it is, the error itself is what has to be seen
        _warn(f"cannot write the error file '{path}': {why!r}")


def _warn(words: str) -> None:
    import sys  # noqa: PLC0415

    if sys.stderr is not None:
        sys.stderr.write(f"supervisor.worker: {words}\n")
