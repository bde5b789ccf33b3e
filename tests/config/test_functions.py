"""A group may name a function instead of a command: what is accepted, what it becomes, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from supervisor.config import load
from supervisor.errors import ConfigError
from supervisor.plan import GroupPlan
from supervisor.worker import call

ENVIRON = {"HOME": "/root", "STATE_DIRECTORY": "/state", "RUNTIME_DIRECTORY": "/run/x"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rankd.toml"


def group(file: Path, text: str) -> GroupPlan:
    file.write_text(f"[groups.g]\n{text}\n")
    file.chmod(0o644)
    return load(str(file), ENVIRON).groups["g"]


def told(file: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        group(file, text)
    return [f"{one.line}: {one.key}: {one.what}" for one in refused.value.mistakes]


def test_a_function_becomes_a_command_that_returns(file: Path) -> None:
    found = group(
        file, 'function = "train.loop:Trainer.run"\nargs = [1, "$${RANK} ${RANK}", [0.5]]\nkwargs.lr = {a = true}'
    )
    python, unbuffered, script, target, arguments = found.command
    assert (python, unbuffered, script, target) == (sys.executable, "-u", call.__file__, "train.loop:Trainer.run")
    assert json.loads(arguments) == {"args": [1, "$${RANK} ${RANK}", [0.5]], "kwargs": {"lr": {"a": True}}}
    assert "$" not in arguments
    assert found.returns


def test_a_command_returns_nothing(file: Path) -> None:
    assert not group(file, 'command = ["true"]').returns


def test_the_python_may_be_another_one(file: Path) -> None:
    assert group(file, 'function = "a:b"\nenv.PYTHON_EXEC = "/opt/bin/python"').command[0] == "/opt/bin/python"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('command = ["x"]\nfunction = "a:b"',
         ["3: groups.g.function: a group runs either a function or a command (remove one of the two)"]),
        ('function = "train"',
         ['2: groups.g.function: "train" does not name a function (write "package.module:callable")']),
        ('function = "a/b.py:main"',
         ['2: groups.g.function: "a/b.py:main" does not name a function (write "package.module:callable")']),
        ("function = 3", ['2: groups.g.function: 3 is not a string: quote it ("3")']),
        ('functoin = "a:b"', ['2: groups.g.functoin: unknown key (did you mean "function"?)']),
        ('command = ["x"]\nkwargs = {a = 1}', ["3: groups.g.kwargs: is for a function, and this group has none"]),
        ('command = ["x"]\nargs = ["a",\n5]', ['4: groups.g.args[1]: 5 is not a string: quote it ("5")']),
        ('command = ["x"]\nargs = ["\\u0000"]', ["3: groups.g.args[0]: has a NUL character"]),
        ('function = "a:b"\nargs = [[nan]]',
         ["3: groups.g.args[0][0]: nan cannot be handed on as JSON (write it as a string)"]),
        ('function = "a:b"\nkwargs.since = 2026-01-01',
         ["3: groups.g.kwargs.since: 2026-01-01 is a date or time: write it as a string"]),
        (f'function = "a:b"\nargs = ["{"x" * 100_000}"]',
         ["3: groups.g.args: args and kwargs have 100028 bytes as JSON (allowed: 100000; use a file)"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_function_is_said_in_its_line(file: Path, text: str, words: list[str]) -> None:
    assert told(file, text) == words
