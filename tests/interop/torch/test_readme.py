"""README.md beside this file names tests that there are, and has no row without one or a reason."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PAGE = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
TESTS = Path(__file__).parents[2]

NAMED = set(re.findall("`([^`]*?)::([^`]*)`", PAGE))
"""Of each test its file below ``tests`` and its name."""

A_TEST = r"`[\w/]+\.py::test_\w+`"
REASONS = ("not applicable: ", "not yet: ")


def functions_of(file: Path) -> set[str]:
    if not file.is_file():
        return set()
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return {one.name for one in nodes if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}


def rows() -> list[str]:
    """Those of all tables, without the heads and what is below them."""
    lines = PAGE.splitlines()
    rules = {number for number, line in enumerate(lines) if line.startswith("|--")}
    return [line for number, line in enumerate(lines) if line.startswith("|") and not {number, number + 1} & rules]


def test_every_test_that_the_page_names_exists() -> None:
    assert len(NAMED) > 150, "the page is not read any more"
    there = {path: functions_of(TESTS / path) for path, _ in NAMED}
    missing = {f"{path}::{name}" for path, name in NAMED if name not in there[path] or not name.startswith("test_")}
    assert missing == set()


def test_every_row_names_a_test_or_says_why_there_is_none() -> None:
    here = [row.removesuffix(" |").rpartition(" | ")[2] for row in rows()]
    assert len(here) > 150, "the page is not read any more"
    assert [text for text in here if not re.search(A_TEST, text) and not text.startswith(REASONS)] == []
