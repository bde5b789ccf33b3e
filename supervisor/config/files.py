"""The files of a configuration, read with care: the TOML file itself and the environment files it names."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Container
from typing import Any

from supervisor.errors import Mistake

MOST_BYTES = 1 << 20

OURS = "rankd sets this variable for every worker itself (leave it out)"

_PLACE = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)


def read(path: str) -> str:
    """The text of a file. Raises ``ValueError`` with words when it cannot be had or should not be believed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a fifo must not make us wait
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(f"cannot be read: {reason}") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("is not a file")
        if status.st_mode & stat.S_IWOTH and os.geteuid() == 0:
            raise ValueError("is writable by everybody, and what it says would be done as root (chmod o-w)")
        with open(fd, "rb", closefd=False) as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    finally:
        os.close(fd)
    if len(content) > MOST_BYTES:
        raise ValueError(f"is too large (at most {MOST_BYTES} bytes)")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"is not UTF-8: byte 0x{content[error.start]:02x} in line {line}") from None


def parse_toml(file: str, text: str) -> dict[str, Any] | Mistake:
    """The tables of a TOML text, or the first syntax error: the rest cannot be understood behind one."""
    if text.startswith("\ufeff"):
        return Mistake(file, 1, "", "begins with a byte order mark (save it as UTF-8 without one)")
    try:
        return tomllib.loads(text)
    except RecursionError:
        return Mistake(file, 0, "", "is nested too deeply")
    except tomllib.TOMLDecodeError as error:
        match = _PLACE.fullmatch(str(error))
        if match is None:
            return Mistake(file, 0, "", str(error))
        what, line, column = match.groups()
        if line is None:
            line, column = text.count("\n") + 1, len(text) - text.rfind("\n")
        return Mistake(file, int(line), "", f"column {column}: {what[:1].lower()}{what[1:]}")
    except ValueError as error:
        return Mistake(file, 0, "", str(error))  # a number that Python will not convert


def parse_environment(file: str, text: str, ours: Container[str]) -> tuple[dict[str, str], list[Mistake]]:
    """The variables of an environment file, and its bad lines. Those in ``ours`` it may not set.

    A line is ``NAME=VALUE``. Blank lines and those that begin with ``#`` or ``;`` are skipped; one pair of quotes
    around a value is taken off; nothing else is special (what systemd.exec(5) and container tools agree upon).
    Values are never quoted back: they may be secrets.
    """
    env: dict[str, str] = {}
    mistakes = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip()[0] in "#;":
            continue
        name, equals, value = line.partition("=")
        name, value = name.strip(), value.strip()
        if not equals:
            mistakes.append(Mistake(file, number, "", "is not NAME=VALUE"))
        elif not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
            hint = " (leave out export)" if name.startswith("export ") else ""
            mistakes.append(Mistake(file, number, "", f"the name before = is not one of a variable{hint}"))
        elif name in ours:
            mistakes.append(Mistake(file, number, name, OURS))
        elif "\0" in value:
            mistakes.append(Mistake(file, number, name, "has a NUL character"))
        elif value[:1] in ("'", '"') and (len(value) < 2 or value[-1] != value[0]):
            mistakes.append(Mistake(file, number, name, "the quote at its beginning is not closed"))
        else:
            env[name] = value[1:-1] if value[:1] in ("'", '"') else value
    return env, mistakes
