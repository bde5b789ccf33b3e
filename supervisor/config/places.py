"""Where each key of a TOML text stands: ``tomllib`` gives values, this gives their lines.

The scanner reads the grammar of toml.io, but trusts that ``tomllib`` has accepted the text before: it skips values
rather than understands them, and refuses nothing.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

Path = tuple[str | int, ...]
"""Keys from the top, as in ``tomllib``'s result; a number is an element of an array."""

# Alternatives never overlap, so nothing is tried twice. (Possessive quantifiers would say so, but match wrongly in
# early releases of Python 3.11.)
_GAP = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_BLANK = re.compile(r"[ \t]*")
_STRING = re.compile(
    r'''"""(?:[^"\\]+|\\.|"{1,2}(?!"))*"{3,5}'''
    r"""|'''(?:[^']+|'{1,2}(?!'))*'{3,5}"""
    r'''|"(?:[^"\\]+|\\.)*"'''
    r"""|'[^']*'""",
    re.DOTALL,
)
_BARE_KEY = re.compile(r"""[^\s.=\]"'#]+""")
_SCALAR = re.compile(r"[^,\]}\n#]+")


def lines_of(text: str) -> dict[Path, int]:
    """The line (from 1) of every table, key and array element of a text that ``tomllib.loads`` accepts.

    A table stands where its header is, else where it is first named; an element of an array where it begins.
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


def line_of(lines: dict[Path, int], path: Path) -> int:
    """The line of ``path``, or of the nearest thing around it that the text names; 1 when nothing does."""
    for length in range(len(path), 0, -1):
        if (line := lines.get(path[:length])) is not None:
            return line
    return 1


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self._newlines = [match.start() for match in re.finditer("\n", text)]
        self._lengths: dict[Path, int] = {}  # of arrays of tables, so far

    def document(self) -> None:
        table: Path = ()
        self._skip(_GAP)
        while self.at < len(self.text):
            if self.text.startswith("[[", self.at):
                table = self._array_header()
            elif self.text[self.at] == "[":
                table = self._table_header()
            else:
                self._pair(table)
            self._skip(_GAP)

    def _table_header(self) -> Path:
        line = self._line()
        self.at += 1
        parts = self._key()
        self.at += 1
        table = self._inside((), parts, line)
        self.lines[table] = line  # even where a header below it came first
        return table

    def _array_header(self) -> Path:
        line = self._line()
        self.at += 2
        *above, last = self._key()
        self.at += 2
        array = (*self._inside((), above, line), last)
        number = self._lengths.get(array, 0)
        self._lengths[array] = number + 1
        self.lines.setdefault(array, line)
        self.lines[*array, number] = line
        return (*array, number)

    def _inside(self, table: Path, parts: list[str], line: int) -> Path:
        """The path of ``parts`` below ``table``, in the last element of every array of tables on the way."""
        for part in parts:
            table = (*table, part)
            self.lines.setdefault(table, line)
            if table in self._lengths:
                table = (*table, self._lengths[table] - 1)
        return table

    def _pair(self, table: Path) -> None:
        line = self._line()
        path = self._inside(table, self._key(), line)
        self.at += 1  # =
        self._skip(_BLANK)
        self._value(path)

    def _key(self) -> list[str]:
        """The parts of a dotted key; stops at what ends it."""
        parts = []
        while True:
            self._skip(_BLANK)
            if self.text[self.at] in "\"'":
                parts.append(tomllib.loads("key=" + self._take(_STRING))["key"])
            else:
                parts.append(self._take(_BARE_KEY))
            self._skip(_BLANK)
            if self.text[self.at] != ".":
                return parts
            self.at += 1

    def _value(self, path: Path) -> None:
        opening = self.text[self.at]
        if opening in "\"'":
            self._take(_STRING)
            return
        if opening not in "[{":
            self._take(_SCALAR)
            return
        closing = "]" if opening == "[" else "}"
        number = 0
        self.at += 1
        self._skip(_GAP)
        while self.text[self.at] != closing:
            if opening == "[":
                self.lines[*path, number] = self._line()
                self._value((*path, number))
                number += 1
            else:
                self._pair(path)
            self._skip(_GAP)
            if self.text[self.at] == ",":
                self.at += 1
                self._skip(_GAP)
        self.at += 1

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.at)
        assert match is not None, "these patterns match nothing, too"
        self.at = match.end()

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise ValueError(f"not TOML at character {self.at}")
        self.at = match.end()
        return match.group()

    def _line(self) -> int:
        return bisect_right(self._newlines, self.at) + 1
