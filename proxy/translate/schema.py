"""A JSON schema as draft 7 has it: mistral-common checks every tool's parameters against that draft."""

from typing import Any

from proxy.wire.tool import SCHEMA_TYPES

#: Where a schema holds other schemas: by name, in a list, or one.
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("anyOf", "allOf", "oneOf", "prefixItems")
_ONES = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")


def draft7(schema: Any) -> Any:
    """
    Return `schema` as draft 7 accepts it; equal to the input where nothing had to change.

    Left out: `$schema`, `$id`, type names that are none, `nullable` (a union with null instead), a boolean
    `required` (the name goes to the parent's list) and draft 4's boolean exclusive bounds.
    """
    if isinstance(schema, list):
        return [draft7(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: _member(key, value) for key, value in schema.items() if key not in ("$schema", "$id")}
    _numeric_bounds(out)
    _known_types(out)
    _required_list(out, schema)
    return out


def _member(key: str, value: Any) -> Any:
    if key in _MAPS and isinstance(value, dict):
        return {name: draft7(inner) for name, inner in value.items()}
    if key in _LISTS or key in _ONES:
        return draft7(value)
    return value


def _numeric_bounds(schema: dict[str, Any]) -> None:
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        flag = schema.get(exclusive)
        if isinstance(flag, bool):
            del schema[exclusive]
            if flag and isinstance(schema.get(bound), int | float):
                schema[exclusive] = schema.pop(bound)


def _known_types(schema: dict[str, Any]) -> None:
    kind = schema.get("type")
    if "type" in schema:
        names = kind if isinstance(kind, list) else [kind]
        known = [name for name in names if name in SCHEMA_TYPES]
        if known != names:
            del schema["type"]
            if known:
                schema["type"] = known if len(known) > 1 else known[0]
    if schema.pop("nullable", None) is True and "type" in schema:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        schema["type"] = names if "null" in names else [*names, "null"]


def _required_list(schema: dict[str, Any], source: dict[str, Any]) -> None:
    if "required" in schema and not isinstance(schema["required"], list):
        del schema["required"]
    elif "required" in schema and not all(isinstance(name, str) for name in schema["required"]):
        schema["required"] = [name for name in schema["required"] if isinstance(name, str)]
    properties = source.get("properties")
    if not isinstance(properties, dict):
        return
    flagged = [name for name, inner in properties.items() if isinstance(inner, dict) and inner.get("required") is True]
    missing = [name for name in flagged if name not in schema.get("required", [])]
    if missing:
        schema["required"] = [*schema.get("required", []), *missing]
