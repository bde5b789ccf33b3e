"""What is wrong with a key, in words for the person who wrote it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from supervisor.config.places import Path, line_of, lines_of
from supervisor.errors import Mistake
from supervisor.values import choices, is_number, nearest, shown

Keys = Callable[[Path], list[str]]
"""The keys that a table may have, by its path."""


class Mistakes:
    """Mistakes as they are found, each at its path; in the order of the file at the end."""

    def __init__(self, file: str) -> None:
        self.elsewhere: list[Mistake] = []
        self._file = file
        self._found: dict[Path, list[str]] = {}
        self._doubted: set[Path] = set()

    def say(self, path: Path, what: str) -> None:
        said = self._found.setdefault(path, [])
        if what not in said:
            said.append(what)

    def doubt(self, paths: Iterable[Path]) -> None:
        """These keys were misspelled: what the file says of them is not what was meant."""
        self._doubted.update(paths)

    def about(self, *path: str | int) -> bool:
        """Whether something is wrong at or around ``path``, so that what follows from its value is no news."""
        return any(path[:length] in self._found or path[:length] in self._doubted for length in range(1, len(path) + 1))

    def within(self, *path: str | int) -> bool:
        """Whether something is wrong at, around or below ``path``."""
        return self.about(*path) or any(found[: len(path)] == path for found in self._found)

    def in_order(self, text: str) -> list[Mistake]:
        """All of them with their lines in ``text``; those in other files last."""
        lines = lines_of(text) if self._found else {}
        mistakes = [
            Mistake(self._file, line_of(lines, path), dotted(path), what)
            for path, said in self._found.items()
            for what in said
        ]
        return sorted(mistakes, key=lambda mistake: mistake.line) + list(dict.fromkeys(self.elsewhere))


def dotted(path: Path) -> str:
    """A path as TOML writes a key: ``groups.trainer.stop.ladder[0].signal``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = re.fullmatch("[A-Za-z0-9_-]+", part)
            text += ("." if text else "") + (part if bare else shown(part))
    return text


def explain(errors: Sequence[Mapping[str, Any]], keys: Keys) -> tuple[dict[Path, str], set[Path]]:
    """Words for the errors of a pydantic ``ValidationError``, by path; and the keys that were meant by unknown ones.

    A missing key that was only misspelled is left out: the unknown one says what was meant.
    """
    words: dict[Path, str] = {}
    meant: set[Path] = set()
    for error in errors:
        if error["type"] == "extra_forbidden":
            *table, name = path = tuple(error["loc"])
            allowed = keys(tuple(table))
            likely = nearest(str(name), allowed)
            if likely:
                meant.add((*table, likely))
            hint = f"did you mean {shown(likely)}?" if likely else f"allowed: {', '.join(allowed)}"
            words[path] = f"unknown key ({hint})"
    for error in errors:
        path = tuple(error["loc"])
        if error["type"] != "extra_forbidden" and not (error["type"] == "missing" and path in meant):
            words[path] = _words(path, error)
    return words, meant


def _words(path: Path, error: Mapping[str, Any]) -> str:
    value, about = error["input"], error.get("ctx", {})
    match error["type"]:
        case "value_error":
            return str(about["error"])
        case "missing":
            return "is missing"
        case "literal_error":
            allowed = re.findall(r"'([^']*)'", about["expected"])
            return f"{shown(value)} is not a {_kind(path)} {choices(value, allowed)}"
        case "string_type":
            return no_string(path, value)
        case "int_type" | "int_from_float" | "float_type":
            whole = "" if error["type"] == "float_type" else "whole "
            hint = " (remove the quotes)" if isinstance(value, str) and re.fullmatch(r"-?[0-9.]+", value) else ""
            return f"{shown(value)} is not a {whole}number{hint}"
        case "finite_number":
            return f"{shown(value)} is not a number to count with"
        case "bool_type":
            return f"{shown(value)} is neither true nor false{' (remove the quotes)' if isinstance(value, str) else ''}"
        case "greater_than_equal":
            return f"must be at least {about['ge']:g}"
        case "less_than_equal":
            return f"must be at most {about['le']:g}"
        case "too_short" | "string_too_short":
            return "must not be empty"
        case "list_type":
            return f"{shown(value)} is not a list{_as_list(path, value)}"
        case "dict_type" | "model_type":
            return f"{shown(value)} is not a table"
        case _:
            return str(error["msg"])


def _kind(path: Path) -> str:
    """What a word at this place is called."""
    return "condition" if "depends_on" in path[:-1] else str(path[-1])


def no_string(path: Path, value: object) -> str:
    """What to say of a value where a string has to be. Environment values are not repeated: they may be secrets."""
    if "env" in path[:-1]:
        return f'must be a string: quote it ({path[-1]} = "...")'
    if is_number(value) or isinstance(value, bool):
        return f"{shown(value)} is not a string: quote it ({shown(shown(value))})"
    return f"{shown(value)} is not a string"


def _as_list(path: Path, value: object) -> str:
    """How the one value would be written as a list; no shell will split a command."""
    if not isinstance(value, str | int | float):
        return ""
    words = value.split() if isinstance(value, str) and path[-1] == "command" else [value]
    return f" (write [{', '.join(map(shown, words))}])"
