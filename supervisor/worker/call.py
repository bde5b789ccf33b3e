"""One function as a worker, in an interpreter of its own: ``python call.py PACKAGE.MODULE:CALLABLE JSON``.

The JSON is an object with ``args`` and ``kwargs``. What the function returns goes as JSON to ``$RANKD_RETURN_FILE``;
what it raises goes to the error file, and is the end of the worker. ``python call.py -`` is for the library: see
``supervisor.worker.called``; ``python call.py --run-path SCRIPT [ARG...]`` is ``runpy.run_path`` as such a function.
"""

from __future__ import annotations

import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

RETURN_FILE = "RANKD_RETURN_FILE"
LIMIT = 1 << 16
"""Bytes of JSON that a return value may have."""


def main(target: str, arguments: str) -> None:
    """Call the function; raises what it raises. It sees an argv without arguments of ours."""
    from supervisor.worker import record  # noqa: PLC0415 - found only once sys.path has been mended

    call = json.loads(arguments)
    _say(record(_call)(target, call["args"], call["kwargs"]))


def run_path(script: str, *arguments: str) -> None:
    """Run the script as ``__main__``, with its arguments; raises what it raises."""
    import runpy  # noqa: PLC0415 - only for scripts

    from supervisor.worker import record  # noqa: PLC0415 - as above

    sys.argv[:] = [script, *arguments]
    record(runpy.run_path)(script, run_name="__main__")


def find(target: str) -> Any:
    """The object that ``package.module:name`` means; the name may have dots. Raises what the import raises."""
    module, _, name = target.partition(":")
    found = __import__(module, fromlist=["*"])
    for part in name.split("."):
        found = getattr(found, part)
    return found


def mend_path() -> None:
    """``sys.path`` as with ``python -m``: what is in the working directory, not beside this file; and rankd, last.

    rankd's own package is imported before: something else of that name may come first then.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    root = os.path.dirname(os.path.dirname(here))
    beside = sys.path[:1] == [here]  # not so with PYTHONSAFEPATH
    sys.path[:beside] = [root]
    __import__("supervisor.worker")
    sys.path[:1] = [os.getcwd()] if beside else []
    sys.path.append(root)


def _call(target: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    function = find(target)
    sys.argv[:] = [getattr(sys.modules[target.partition(":")[0]], "__file__", None) or sys.argv[0]]
    return function(*args, **kwargs)


def _say(value: Any) -> None:
    """A value that cannot be kept is no failure: what the job was for may be in files that it wrote."""
    path = os.environ.get(RETURN_FILE)
    if not path:
        return
    from supervisor.worker.error_file import write  # noqa: PLC0415

    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as why:
        text, note = "", f"the return value is no JSON: {why}"
    else:
        note = f"the return value has {len(text)} bytes as JSON; at most {LIMIT} are kept" if len(text) > LIMIT else ""
    try:
        write(path, json.dumps({"note": note[:1000]}) if note else f'{{"value": {text}}}')
    except OSError as why:
        note = f"the return value cannot be written to '{path}': {why.strerror}"
    if note and sys.stderr is not None:
        sys.stderr.write(f"supervisor.worker: {note}\n")


if __name__ == "__main__":
    mend_path()
    if sys.argv[1:] == ["-"]:
        from supervisor.worker import called

        called.main()
    elif sys.argv[1] == "--run-path":
        run_path(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
