"""A JSON schema as draft 7 has it: mistral-common checks every tool's parameters against that draft's own schema."""

import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from proxy.wire.tool import SCHEMA_TYPES, is_canonical_schema

#: Where a schema holds other schemas: by name, in a list, or one.
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependencies")
_LISTS = ("anyOf", "allOf", "oneOf")
_ONES = (
    *("items", "additionalProperties", "additionalItems", "propertyNames", "contains"),
    *("not", "if", "then", "else"),
)


def draft7(schema: dict[str, Any]) -> dict[str, Any]:
    """
    Return `schema` as draft 7 accepts it; equal to the input where nothing had to change.

    Left out: `$schema`, `$id`, type names that are none, `nullable` (a union with null instead), a boolean
    `required` (the name goes to the parent's list), draft 4's boolean exclusive bounds, and any keyword
    with a value that draft 7 does not allow: null, or a regular expression that is not Python's.
    """
    # Most clients write $schema at the top and nothing else that is in the way.
    rest = {key: value for key, value in schema.items() if key not in ("$schema", "$id")}
    return rest if is_canonical_schema(rest) else _cleaned(schema)


def _cleaned(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_cleaned(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: _member(key, value) for key, value in schema.items() if key not in ("$schema", "$id")}
    _numeric_bounds(out)
    _known_types(out)
    _required_list(out, schema)
    return {key: value for key, value in out.items() if key not in _ALLOWED or _ALLOWED[key](value)}


def _member(key: str, value: Any) -> Any:
    if key in _MAPS and isinstance(value, dict):
        return {name: _cleaned(inner) for name, inner in value.items() if _may_be_member(key, name, inner)}
    if key in _LISTS and isinstance(value, list):
        return [_cleaned(item) for item in value if _is_schema(item)]
    if key in _ONES:
        return _cleaned([item for item in value if _is_schema(item)] if isinstance(value, list) else value)
    return value


def _may_be_member(key: str, name: str, value: Any) -> bool:
    if key == "dependencies" and _is_names(value):
        return True
    return _is_schema(value) and (key != "patternProperties" or _is_pattern(name))


def _numeric_bounds(schema: dict[str, Any]) -> None:
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        flag = schema.get(exclusive)
        if isinstance(flag, bool):
            del schema[exclusive]
            if flag and _is_number(schema.get(bound)):
                schema[exclusive] = schema.pop(bound)


def _known_types(schema: dict[str, Any]) -> None:
    kind = schema.get("type")
    if "type" in schema:
        names = kind if isinstance(kind, list) else [kind]
        known = list(dict.fromkeys(name for name in names if name in SCHEMA_TYPES))
        if known != names or not known:
            del schema["type"]
            if known:
                schema["type"] = known if len(known) > 1 else known[0]
    if schema.pop("nullable", None) is True and "type" in schema:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        schema["type"] = names if "null" in names else [*names, "null"]


def _required_list(schema: dict[str, Any], source: dict[str, Any]) -> None:
    given, properties = schema.get("required"), source.get("properties")
    names = [name for name in given if isinstance(name, str)] if isinstance(given, list) else []
    if isinstance(properties, dict):
        names += [n for n, inner in properties.items() if isinstance(inner, dict) and inner.get("required") is True]
    required = list(dict.fromkeys(names))
    if required or isinstance(given, list):
        schema["required"] = required


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and int(value) == value


def _is_names(value: Any) -> bool:
    return _is_list(value) and all(map(_is_text, value)) and len(set(value)) == len(value)


def _is_map(value: Any) -> bool:
    return isinstance(value, dict)


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict | bool)


def _is_schema_list(value: Any) -> bool:
    return bool(value) and _is_list(value)


def _is_items(value: Any) -> bool:
    return _is_schema(value) or _is_schema_list(value)


def _is_pattern(value: Any) -> bool:
    """Whether it compiles in Python, which is how mistral-common checks it: JavaScript's `\\p{L}` does not."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of what other versions of Python read differently
            re.compile(value)
    except (re.error, OverflowError, RecursionError, TypeError):
        return False
    return True


#: What each keyword's value may be. Keywords that draft 7 does not know may be anything.
#: Source: the draft's own schema, https://json-schema.org/draft-07/schema.
_ALLOWED: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("title", "description", "format", "$comment", "$ref"), _is_text),
    **dict.fromkeys(("contentMediaType", "contentEncoding"), _is_text),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _is_number),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _is_count),
    **dict.fromkeys(("uniqueItems", "readOnly"), _is_flag),
    **dict.fromkeys(("enum", "examples"), _is_list),
    **dict.fromkeys(("properties", "patternProperties", "definitions", "dependencies"), _is_map),
    **dict.fromkeys(("anyOf", "allOf", "oneOf"), _is_schema_list),
    **dict.fromkeys(("additionalProperties", "additionalItems", "propertyNames", "contains"), _is_schema),
    **dict.fromkeys(("not", "if", "then", "else"), _is_schema),
    "items": _is_items,
    "required": _is_names,
    "multipleOf": _is_positive,
    "pattern": _is_pattern,
}
