"""README.md beside this file names tests: each of them exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TESTS = HERE.parents[1]
NAMED = sorted(set(re.findall(r"`([a-z_/]+\.py)(?:::(test_\w+))?`", (HERE / "README.md").read_text())))


def test_the_page_names_tests() -> None:
    assert len([name for _, name in NAMED if name]) > 90


@pytest.mark.parametrize(("file", "name"), [named for named in NAMED if "/" in named[0]])
def test_what_is_named_exists(file: str, name: str) -> None:
    tree = ast.parse((TESTS / file).read_text())
    functions = {one.name for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert not name or name in functions
