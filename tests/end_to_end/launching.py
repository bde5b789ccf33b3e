"""``rankd launch`` as a process: one that ends by itself, or one that is waited upon and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.end_to_end.rankd import NOT_FOR_TESTS, PATIENCE, ROOT

COMMAND = (sys.executable, "-m", "supervisor", "launch")
OTHERS = ("PET_", "TORCHELASTIC_", "TORCH_", "OMP_", "LOGLEVEL", "PYTHON_EXEC", "CUDA_")
"""How the variables begin that a test sets for itself."""

Done = subprocess.CompletedProcess[str]


def environment(directory: Path, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """This one without what torchrun would heed, with temporary files in ``directory`` and with ``env``."""
    kept = {
        name: value for name, value in os.environ.items() if name not in NOT_FOR_TESTS and not name.startswith(OTHERS)
    }
    temporary = directory / "tmp"
    temporary.mkdir(exist_ok=True)
    return kept | {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"} | dict(env or {})


def launch(
    directory: Path, *words: object, env: Mapping[str, str] | None = None, command: tuple[str, ...] = COMMAND,
    timeout: float = PATIENCE, stdin: str = "",
) -> Done:  # fmt: skip
    """What has become of ``rankd launch WORDS...``, started in ``directory``."""
    return subprocess.run(
        [*command, *map(str, words)], cwd=directory, env=environment(directory, env), input=stdin,
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


@contextmanager
def launched(
    directory: Path, *words: object, env: Mapping[str, str] | None = None, command: tuple[str, ...] = COMMAND
) -> Iterator[subprocess.Popen[str]]:
    """The same while it runs; it is ended with the block if it still does."""
    with subprocess.Popen(
        [*command, *map(str, words)], cwd=directory, env=environment(directory, env), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise


def tree(directory: Path) -> list[str]:
    """Every file and directory in there, relative, sorted."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))
