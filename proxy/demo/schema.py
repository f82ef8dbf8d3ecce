"""A tool's parameters against JSON Schema Draft 7, as far as clients get it wrong (the texts are jsonschema's)."""

import re
from collections.abc import Callable, Iterator
from typing import Any

_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return _is_number(value) and value == value // 1


def _is_regex(value: Any) -> bool:
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


#: what a keyword's value must be: the words of the text, the test, and the keywords
_VALUES: tuple[tuple[str, Callable[[Any], bool], tuple[str, ...]], ...] = (
    (
        "'string'",
        lambda v: isinstance(v, str),
        ("$id", "$schema", "$ref", "$comment", "title", "description", "format"),
    ),
    ("'string'", lambda v: isinstance(v, str), ("pattern", "contentMediaType", "contentEncoding")),
    ("'number'", _is_number, ("multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum")),
    ("'integer'", _is_integer, ("maxLength", "minLength", "maxItems", "minItems", "maxProperties", "minProperties")),
    ("'boolean'", lambda v: isinstance(v, bool), ("readOnly", "uniqueItems")),
    ("'array'", lambda v: isinstance(v, list), ("enum", "examples", "required", "allOf", "anyOf", "oneOf")),
    ("'object'", lambda v: isinstance(v, dict), ("properties", "patternProperties", "definitions", "dependencies")),
)
_EXPECTED = {keyword: (words, test) for words, test, keywords in _VALUES for keyword in keywords}

_SCHEMA_KEYWORDS = ("additionalItems", "additionalProperties", "contains", "propertyNames", "if", "then", "else", "not")
_SCHEMA_LISTS = ("allOf", "anyOf", "oneOf")
_SCHEMA_MAPS = ("properties", "patternProperties", "definitions")


def schema_fault(schema: Any) -> str | None:
    """Return jsonschema's text about the first fault in `schema`, or None; `$defs` is not Draft 7 and not looked at."""
    waiting = [schema]
    while waiting:
        current = waiting.pop()
        if isinstance(current, bool):
            continue
        if not isinstance(current, dict):
            return f"{current!r} is not of type 'object', 'boolean'"
        for keyword, value in current.items():
            fault = _value_fault(keyword, value)
            if fault is not None:
                return fault
        waiting += _inner_schemas(current)
    return None


def _value_fault(keyword: str, value: Any) -> str | None:
    """Return what is wrong with one keyword's value, or None."""
    if keyword == "type" and not _is_type(value):
        return f"{value!r} is not valid under any of the given schemas"
    words, test = _EXPECTED.get(keyword, ("", None))
    if test is not None and not test(value):
        return f"{value!r} is not of type {words}"
    if words == "'integer'" and value < 0:
        return f"{value!r} is less than the minimum of 0"
    if keyword in _SCHEMA_LISTS and not value:
        return "[] should be non-empty"
    if keyword == "pattern" and not _is_regex(value):
        return f"{value!r} is not a 'regex'"
    return _required_fault(value) if keyword == "required" else None


def _is_type(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    known = bool(names) and all(isinstance(name, str) and name in _TYPES for name in names)
    return known and len(set(names)) == len(names)


def _required_fault(names: list[Any]) -> str | None:
    for name in names:
        if not isinstance(name, str):
            return f"{name!r} is not of type 'string'"
    return f"{names!r} has non-unique elements" if len(set(names)) < len(names) else None


def _inner_schemas(schema: dict[str, Any]) -> Iterator[Any]:
    """Yield the schemas inside one whose own keywords are in order."""
    for keyword in _SCHEMA_KEYWORDS:
        if keyword in schema:
            yield schema[keyword]
    for keyword in _SCHEMA_LISTS:
        yield from schema.get(keyword, ())
    for keyword in _SCHEMA_MAPS:
        yield from schema.get(keyword, {}).values()
    items = schema.get("items", True)
    yield from items if isinstance(items, list) else [items]
