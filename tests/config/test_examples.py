"""What is in config/: every file loads, and rankd.toml shows every key with its default."""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from supervisor.config import load, schema, tables

CONFIG = Path(__file__).resolve().parents[2] / "config"
TEXT = (CONFIG / "rankd.toml").read_text()
EXAMPLE = re.compile(r"^# (?=[a-z_]+ = )", re.MULTILINE)
"""In front of a key that is commented out, because its default is found out at start."""


@pytest.mark.parametrize("file", sorted(CONFIG.glob("*.toml")), ids=lambda file: file.name)
def test_every_file_in_config_loads(file: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(CONFIG, tmp_path / "config") / file.name
    copied.chmod(0o644)  # the checkout's own mode is the reader's business
    assert load(str(copied), os.environ).groups


def test_serving_toml_gives_each_worker_the_port_that_haproxy_is_told() -> None:
    text = (CONFIG / "serving.toml").read_text()
    plan = load(str(CONFIG / "serving.toml"), os.environ)
    web = plan.groups["web"]
    ours = [f"127.0.0.1:{web.first_port + local_rank}" for local_rank in range(web.workers)]
    assert re.findall(r"#       server \w+ (\S+)", text) == ours
    host, port = re.findall(r"check addr (\S+) port (\d+)", text)[0]
    assert plan.listen == (f"{host}:{port}",)


EXAMPLES = {"groups": "trainer", "hooks": "page"}
"""Tables whose keys are names that people give, and the name that they have in rankd.toml."""


def keys(table: Any, definitions: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Every key of a table of the schema by its dotted name, with what the schema says of it."""
    found: dict[str, Any] = {}
    for name, about in table.get("properties", {}).items():
        found[f"{path}{name}"] = about
        if "$ref" in about:
            about.setdefault("description", definitions[about["$ref"].rpartition("/")[2]]["description"])
        below = about.get("additionalProperties", {}) if name in EXAMPLES else about
        if "$ref" in below:
            of = definitions[below["$ref"].rpartition("/")[2]]
            found |= keys(of, definitions, f"{path}{name}." + (f"{EXAMPLES[name]}." if name in EXAMPLES else ""))
    return found


SCHEMA = schema()
KEYS = keys(SCHEMA, SCHEMA["$defs"])


def value_at(document: dict[str, Any], key: str) -> Any:
    node: Any = document
    for part in key.split("."):
        node = node[part]
    return node


def test_the_schema_is_known_well_enough_for_the_tests_below() -> None:
    assert len(KEYS) == 153
    assert {"daemon.drain_delay", "groups.trainer.restart.backoff.jitter", "groups.trainer.logs.tee"} <= KEYS.keys()


@pytest.mark.parametrize("key", KEYS)
def test_every_key_has_a_description(key: str) -> None:
    about = KEYS[key]
    assert about["description"].endswith(".")
    assert about.get("default", ...) is not None


@pytest.mark.parametrize("definition", [SCHEMA, *SCHEMA["$defs"].values()], ids=lambda one: one["title"])
def test_no_table_allows_unknown_keys(definition: dict[str, Any]) -> None:
    assert definition["additionalProperties"] is False
    assert definition["description"]


@pytest.mark.parametrize("key", KEYS)
def test_rankd_toml_shows_every_key_with_its_default(key: str) -> None:
    shown = tomllib.loads(TEXT)
    if key in (*EXAMPLES, "groups.trainer.command", "hooks.page.command"):  # there is no default that would do
        assert value_at(shown, key)
    elif "default" in KEYS[key]:
        default = KEYS[key]["default"]
        found = value_at(shown, key)
        if default == {} and found:  # a table, whose keys have a turn of their own
            assert "$ref" in KEYS[key]
        else:
            assert found == default
    else:
        with pytest.raises(KeyError):
            value_at(shown, key)
        assert value_at(tomllib.loads(EXAMPLE.sub("", TEXT)), key) != ""


def test_the_examples_in_rankd_toml_are_right() -> None:
    file = tables.File.model_validate(tomllib.loads(EXAMPLE.sub("", TEXT)))
    assert file.groups["trainer"].umask == 0o022


def test_rankd_toml_names_nothing_that_does_not_exist() -> None:
    def below(table: dict[str, Any], path: str = "") -> set[str]:
        return {path + name for name in table}.union(
            *(below(one, f"{path}{name}.") for name, one in table.items() if isinstance(one, dict))
        )

    assert below(tomllib.loads(EXAMPLE.sub("", TEXT))) == KEYS.keys() | {"groups.trainer", "hooks.page"}
