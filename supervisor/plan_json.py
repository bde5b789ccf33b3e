"""A plan as JSON and back, exactly: ``plan_from_json(plan_to_json(plan)) == plan``.

It follows the fields and annotations of the dataclasses in ``plan``, so that a new key needs nothing here. Sets are
written sorted; the keys of mappings become text, as JSON wants them.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from supervisor.plan import DaemonPlan


def plan_to_json(plan: DaemonPlan) -> dict[str, Any]:
    """What ``json.dumps`` takes."""
    written: dict[str, Any] = _write(plan)
    return written


def plan_from_json(written: Mapping[str, Any]) -> DaemonPlan:
    """The plan again. Raises ``ValueError`` when ``written`` is not one: a key missing or unknown, a type wrong."""
    plan: DaemonPlan = _read(DaemonPlan, written, "plan")
    return plan


def _write(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _write(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _write(one) for key, one in value.items()}
    if isinstance(value, frozenset):
        return sorted(map(_write, value))
    if isinstance(value, tuple):
        return [_write(one) for one in value]
    return value


@cache
def _types(of: type) -> dict[str, Any]:
    return get_type_hints(of)


def _read(kind: Any, value: Any, place: str) -> Any:
    """``value`` as a ``kind``, an annotation of ``plan``; ``place`` is for the error."""
    if is_dataclass(kind):
        assert isinstance(kind, type)
        found = _typed(value, dict, place)
        if found.keys() != _types(kind).keys():
            raise ValueError(f"{place}: {sorted(found.keys() ^ _types(kind).keys())} missing or unknown")
        return kind(**{name: _read(one, found[name], f"{place}.{name}") for name, one in _types(kind).items()})
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{place}: {value!r} is none of {arguments}")
        return value
    if origin is types.UnionType:  # only X | None is of use in a plan
        return None if value is None else _read(next(one for one in arguments if one is not type(None)), value, place)
    if origin is tuple or origin is frozenset:
        return origin(_read(arguments[0], one, place) for one in _typed(value, list, place))
    if origin is Mapping:
        of_key, of_value = arguments
        return {
            _key(of_key, key, place): _read(of_value, one, f"{place}.{key}")
            for key, one in _typed(value, dict, place).items()
        }
    return _typed(value, kind, place)


def _key(kind: type, text: str, place: str) -> Any:
    if kind is int and not text.isdecimal():
        raise ValueError(f"{place}: {text!r} is not a number")
    return kind(text)


def _typed(value: Any, kind: type, place: str) -> Any:
    if type(value) is int and kind is float:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{place}: {value!r} is not of type {kind.__name__}")
    return value
