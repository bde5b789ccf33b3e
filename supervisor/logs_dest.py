"""Where somebody else's class has workers' output go (torch.distributed.elastic.multiprocessing.api, ``LogsSpecs``).

Its ``reify`` is asked once for each attempt, and gives a ``LogsDest``; neither torch nor its types are needed for that.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, Protocol

from supervisor.plan import Places

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"


class Unusable(Exception):
    """What a class has answered cannot be gone by."""


class Reifies(Protocol):
    """What is asked of such a class."""

    def reify(self, envs: dict[int, dict[str, str]]) -> Any:
        """A ``LogsDest`` for workers with these variables, by local rank. The variables may be changed."""


def places_by(specs: Reifies, envs: Mapping[int, Mapping[str, str]]) -> dict[int, Places]:
    """Where the output of each local rank goes: into files that are empty now, and error files that are not there.

    Raises what ``reify`` raises, and ``Unusable``.
    """
    told = {rank: dict(env) for rank, env in envs.items()}
    dest = specs.reify(told)
    places = {rank: _places(dest, rank, env, told[rank]) for rank, env in envs.items()}
    _begin_anew(places.values())
    return places


def _begin_anew(places: Collection[Places]) -> None:
    """As torch does, for a class may name the files of an earlier attempt; and its errors are not those of this one."""
    files = {path for one in places for path in (one.stdout, one.stderr)} - {"", os.devnull}
    try:
        for path in sorted(files):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640))
        for error_file in {one.error_file for one in places} - {"", os.devnull}:
            with suppress(FileNotFoundError):
                if error_file is not None:
                    os.unlink(error_file)
    except OSError as error:
        raise Unusable(f"'{error.filename}': {error.strerror}") from error


def _places(dest: Any, rank: int, before: Mapping[str, str], after: Mapping[str, str]) -> Places:
    stdout, stderr = _of(dest, "stdouts", rank), _of(dest, "stderrs", rank)
    tee = 0
    for bit, name, path in ((1, "tee_stdouts", stdout), (2, "tee_stderrs", stderr)):
        shown = _of(dest, name, rank)
        if shown in ("", os.devnull):
            continue
        if shown != path:
            raise Unusable(f"{name}[{rank}] is '{shown}', and the worker writes to '{path}'")
        tee |= bit
    error_file = after.get(ERROR_FILE)
    if error_file is None:
        error_file = _of(dest, "error_files", rank) or None
    return Places(
        stdout,
        stderr,
        tee,
        _absolute(error_file) if error_file else error_file,
        _absolute(getattr(dest, "filtered_stdout", "")),
        _absolute(getattr(dest, "filtered_stderr", "")),
        {str(name): str(value) for name, value in after.items() if name != ERROR_FILE and before.get(name) != value},
    )


def _of(dest: Any, name: str, rank: int) -> str:
    """Of a mapping by local rank; "" where it has nothing."""
    paths = getattr(dest, name, {})
    if not isinstance(paths, Mapping):
        raise Unusable(f"{name} is {type(paths).__name__}, not a mapping by local rank")
    return _absolute(paths.get(rank))


def _absolute(path: Any) -> str:
    """The daemon may be in another directory."""
    text = "" if path is None else os.fsdecode(path)
    return os.path.abspath(text) if text else ""
