"""TOML -> validated tables -> plan. The only importer of pydantic; nobody below sees it.

The daemon does not import this package: it asks a child process for its plan (``supervisor.config_reader``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from supervisor.config import files, tables
from supervisor.config.assemble import assemble
from supervisor.config.mistakes import Mistakes, explain
from supervisor.config.places import Path
from supervisor.errors import ConfigError, Mistake
from supervisor.plan import DaemonPlan

__all__ = ["load", "schema"]


def load(
    path: str, environ: Mapping[str, str], node_id: str = "", run_id: str = "", workers: Mapping[str, int] | None = None
) -> DaemonPlan:
    """The plan that the file at ``path`` describes, for a daemon with this environment.

    Relative ``cwd``, ``env_files``, ``state_dir`` and ``runtime_dir`` are below the file's folder. Nothing is made or
    changed. ``node_id`` and ``run_id`` are those of a daemon that runs already: what a file means that names none.
    ``workers``: how many some of its groups are to have, whatever it says. Raises ``ConfigError`` with every mistake
    there is.
    """
    try:
        text = files.read(path)
    except ValueError as error:
        raise ConfigError([Mistake(path, 0, "", str(error))]) from None
    raw = files.parse_toml(path, text)
    if isinstance(raw, Mistake):
        raise ConfigError([raw])
    mistakes = Mistakes(path)
    if raw.get("groups", {}) == {}:
        mistakes.say(("groups",), "there is no group (begin one with [groups.NAME] and its command)")
    for name, number in (workers or {}).items():
        if isinstance(group := raw.get("groups", {}).get(name), dict):
            group["workers"] = number
    file = _validate(raw, mistakes)
    plan = assemble(file, os.path.dirname(os.path.abspath(path)), environ, mistakes)
    plan = replace(
        plan,
        node_id=file.daemon.node_id or node_id or plan.node_id,
        run_id=file.daemon.run_id or run_id or plan.run_id,
    )
    found = mistakes.in_order(text)
    if found:
        raise ConfigError(found)
    return plan


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a configuration file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **tables.File.model_json_schema(schema_generator=_Schema),
        "title": "rankd",
    }


class _Schema(GenerateJsonSchema):
    """TOML has no null: a default that is found out at run time is none here."""

    def field_title_should_be_set(self, _schema: Any) -> bool:
        return False  # "Drain Delay" beside drain_delay says nothing

    def nullable_schema(self, schema: Any) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: Any) -> JsonSchemaValue:
        if schema.get("default", ...) is None:
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)


def _validate(raw: dict[str, Any], mistakes: Mistakes) -> tables.File:
    """The tables without what is wrong in them, so that what is left can be checked as well.

    ``raw`` is changed. A wrong key is taken out, so each round has fewer: outside of lists every key has a default.
    """
    told: set[Path] = set()
    while True:
        try:
            return tables.File.model_validate(raw)
        except ValidationError as invalid:
            errors = invalid.errors(include_url=False)
        words, meant = explain(errors, _keys)
        assert not told & words.keys(), "what is taken out must not be missed"
        told |= words.keys()
        mistakes.doubt(meant)
        for path, what in words.items():
            mistakes.say(path, what)
        for error in errors:
            _mend(raw, error["loc"])


def _mend(raw: dict[str, Any], path: Path) -> None:
    """Take out the innermost key around ``path`` that is not in a list."""
    table: Any = raw
    depth = 0
    while depth < len(path) - 1 and isinstance(table.get(path[depth]), dict):
        table = table[path[depth]]
        depth += 1
    table.pop(path[depth], None)


def _keys(table: Path) -> list[str]:
    """The keys that the table at this path may have."""
    model: Any = tables.File
    for part in table:
        if isinstance(model, type) and issubclass(model, BaseModel):
            model = model.model_fields[str(part)].annotation
        else:
            model = model.__args__[-1]  # dict[str, Table] or list[Table]
    return [field.alias or name for name, field in model.model_fields.items()]
