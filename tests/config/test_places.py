"""``lines_of`` against ``tomllib``: texts written at random, in every style that TOML has, with their lines noted."""

from __future__ import annotations

import datetime
import json
import re
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config.places import Path, line_of, lines_of

NASTY = st.text(st.sampled_from("ab.1-_ \t\"'\\#=[]{},\nä\u2028😀"), max_size=8)
KEYS = st.text(st.sampled_from("abc1-_"), min_size=1, max_size=3) | NASTY
SCALARS = (
    NASTY
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.datetimes(datetime.datetime(1000, 1, 1)).map(lambda at: at.replace(microsecond=0))  # noqa: DTZ001
    | st.dates(datetime.date(1000, 1, 1))
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda below: st.lists(below, max_size=4) | st.dictionaries(KEYS, below, max_size=4), max_leaves=25
)
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=5)


class Writer:
    """Writes a document in styles that ``choose`` picks, and notes where everything went."""

    def __init__(self, choose: Callable[[int], int]) -> None:
        self.text = ""
        self.lines: dict[Path, int] = {}
        self.choose = choose
        self.inline = False

    def note(self, path: Path, *, again: bool = False) -> None:
        if again or path not in self.lines:
            self.lines[path] = self.text.count("\n") + 1

    def gap(self) -> None:
        """What may stand between statements, and between the elements of an array."""
        self.text += ["", "\n", "  ", '# [x] = "\n', "\t# '''\n\n"][self.choose(5)]

    def key(self, name: str) -> str:
        styles = [json.dumps(name, ensure_ascii=False), '"' + "".join(f"\\U{ord(one):08x}" for one in name) + '"']
        if re.fullmatch("[A-Za-z0-9_-]+", name):
            styles.append(name)
        if "'" not in name and "\n" not in name:
            styles.append(f"'{name}'")
        return styles[self.choose(len(styles))]

    def dotted(self, names: list[str]) -> str:
        return [".", " . ", "\t."][self.choose(3)].join(map(self.key, names))

    def string(self, value: str) -> str:
        quoted = json.dumps(value, ensure_ascii=False)
        raw = value.replace("\\", "\\\\").replace('""', '"\\"')
        styles = [quoted, f'"""\n{raw}"""', f'"""{quoted[1:-1]}\\\n   """']
        if not value.startswith("\n"):
            styles.append(f'"""{raw}"""')
        if "''" not in value:
            styles.append(f"'''\n{value}'''")
        if "'" not in value and "\n" not in value:
            styles.append(f"'{value}'")
        return styles[self.choose(len(styles))]

    def value(self, path: Path, value: Any) -> None:
        match value:
            case str():
                self.text += self.string(value)
            case bool():
                self.text += str(value).lower()
            case datetime.datetime():
                self.text += value.isoformat(sep=" T"[self.choose(2)])
            case datetime.date():
                self.text += value.isoformat()
            case list():
                self.text += "["
                self.gap()
                for number, one in enumerate(value):
                    self.note((*path, number))
                    self.value((*path, number), one)
                    self.gap()
                    self.text += "," if number < len(value) - 1 or self.choose(2) else ""
                    self.gap()
                self.text += "]"
            case dict():
                self.text += "{ "
                for number, (name, one) in enumerate(value.items()):
                    self.text += ", " if number else ""
                    self.pair(path, [name], one)
                self.text += " }"
            case _:
                self.text += repr(value)

    def pair(self, table: Path, names: list[str], value: Any) -> None:
        """``a.b = value``; a table may be spread over several of these instead."""
        if isinstance(value, dict) and value and self.choose(2):
            for number, (name, one) in enumerate(value.items()):
                if number:
                    self.text += ", " if self.inline else "\n"
                self.pair(table, [*names, name], one)
            return
        path = (*table, *names)
        for length in range(len(table) + 1, len(path) + 1):
            self.note(path[:length])
        self.text += self.dotted(names) + [" = ", "=", "\t= "][self.choose(3)]
        was, self.inline = self.inline, True
        self.value(path, value)
        self.inline = was

    def header(self, path: Path, opening: str) -> None:
        self.gap()
        self.text += "" if self.text.endswith("\n") else "\n"
        for length in range(1, len(path)):
            self.note(path[:length])
        self.note(path, again=True)
        names = self.dotted([part for part in path if isinstance(part, str)])
        self.text += opening + names + opening.replace("[", "]") + ["\n", " # ]\n"][self.choose(2)]

    def table(self, path: Path, table: dict[str, Any], opening: str = "") -> None:
        """A table with its header, if it is to have one, in front of the tables below it or behind them."""
        below = {name: one for name, one in table.items() if may_have_headers(one) and self.choose(2)}
        here = {name: one for name, one in table.items() if name not in below}
        late = False
        if opening == "[" and below:
            if not here and self.choose(2):
                opening = ""
            late = bool(self.choose(2))
        if late:
            self.tables_below(path, below)
        if opening:
            self.header(path, opening)
        for name, one in here.items():
            self.gap()
            self.pair(path, [name], one)
            self.text += ["\n", " # = {\n"][self.choose(2)]
        if not late:
            self.tables_below(path, below)

    def tables_below(self, path: Path, below: dict[str, Any]) -> None:
        for name, one in below.items():
            if isinstance(one, dict):
                self.table((*path, name), one, "[")
            else:
                for number, element in enumerate(one):
                    self.table((*path, name, number), element, "[[")


def may_have_headers(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)
    )


def paths(value: Any, path: Path = ()) -> set[Path]:
    """Every place in what ``tomllib`` has read."""
    if not isinstance(value, dict | list):
        return set()
    below = list(value.items() if isinstance(value, dict) else enumerate(value))
    return {(*path, key) for key, _ in below}.union(*(paths(one, (*path, key)) for key, one in below))


@given(DOCUMENTS, st.data())
def test_every_line_of_every_document_is_found(document: dict[str, Any], data: st.DataObject) -> None:
    writer = Writer(lambda ways: data.draw(st.integers(0, ways - 1)))
    writer.table((), document)
    assert tomllib.loads(writer.text) == document, writer.text
    assert lines_of(writer.text) == writer.lines, writer.text
    assert lines_of(writer.text.replace("\n", "\r\n")) == writer.lines, writer.text


PIECES = ["[", "]", "[[", "]]", "{", "}", ",", ".", "=", "\n", " ", "a", "b", '"', "'", '"""', "'''", "\\", "#", "1"]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_whatever_tomllib_accepts_is_found_whole(text: str) -> None:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert set(lines_of(text)) == paths(document)


TEXT = r'''# a comment with [x] and = in it
[groups.trainer]
"work\u0065rs" = 4
'quoted.key' = """
[not.a.table]
\""""""
stop.ladder = [
    { signal = "SIGTERM", wait = "30s" },

    { signal = "SIGKILL", wait = 5 }]
[[many]]
[[many]]
name = "]"
[many.below]
x.y = 1
[daemon]
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("groups",), 2),
        (("groups", "trainer"), 2),
        (("groups", "trainer", "workers"), 3),
        (("groups", "trainer", "quoted.key"), 4),
        (("groups", "trainer", "stop"), 7),
        (("groups", "trainer", "stop", "ladder"), 7),
        (("groups", "trainer", "stop", "ladder", 0), 8),
        (("groups", "trainer", "stop", "ladder", 1, "wait"), 10),
        (("many",), 11),
        (("many", 0), 11),
        (("many", 1), 12),
        (("many", 1, "name"), 13),
        (("many", 1, "below", "x", "y"), 15),
        (("daemon",), 16),
    ],
)
def test_a_key_stands_where_a_person_would_look(path: Path, line: int) -> None:
    assert tomllib.loads(TEXT)["groups"]["trainer"]["quoted.key"] == '[not.a.table]\n"""'
    assert lines_of(TEXT)[path] == line


def test_what_the_text_does_not_name_stands_where_it_is_missing() -> None:
    lines = lines_of(TEXT)
    assert line_of(lines, ("groups", "trainer", "command")) == 2
    assert line_of(lines, ("groups", "trainer", "stop", "ladder", 1, "jitter")) == 10
    assert line_of(lines, ("health", "listen")) == 1


def test_long_texts_are_read_whole() -> None:
    text = "".join(f'[g{number}]\nk = ["""{"x" * 50}""", {{ a = 1 }}]\n' for number in range(10_000))
    assert len(lines_of(text)) == 10_000 * 5
    assert lines_of('k = """' + '"\\"\n' * 100_000 + '"""\nl = 1')["l",] == 100_002
