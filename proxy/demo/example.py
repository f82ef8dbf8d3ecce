"""A small value that meets a JSON schema: the arguments of the demo's calls, and its structured answers."""

from collections.abc import Callable
from typing import Any

from proxy.demo.schema import schema_fault

#: bounds on what a schema can ask for: it may refer to itself, or demand a text of any length
_DEPTH = 8
_VALUES = 1000
_LENGTH = 256

Schema = dict[str, Any]


def example(schema: Any, word: str) -> Any:
    """
    Return a minimal value for `schema`: required properties, first choices, `word` for every text.

    `schema` is one in which `schema_fault` finds nothing. Local references are followed. Patterns, formats and `not`
    are not looked at, so a value may miss an unusual schema; beyond the bounds it is null.
    """
    return _Maker(schema, word).value(schema, _DEPTH)


class _Maker:
    """One example in the making: what references refer to, and how many values are left to give."""

    def __init__(self, root: Any, word: str) -> None:
        self._root = root
        self._word = word
        self._left = _VALUES

    def value(self, schema: Any, depth: int) -> Any:
        self._left -= 1
        if not isinstance(schema, dict) or depth == 0:
            return None
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][0]
        inner = self._inner(schema)
        if inner is not None:
            return self.value(inner, depth - 1)
        make = _MAKERS.get(_type(schema))
        return None if make is None else make(self, schema, depth)

    def _inner(self, schema: Schema) -> Any:
        """Return the schema that stands for this one: a reference's target, the first choice but null, joined parts."""
        if "$ref" in schema:
            return self._target(schema["$ref"])
        for keyword in ("anyOf", "oneOf"):
            for choice in schema.get(keyword, ()):
                if choice != {"type": "null"}:
                    return choice
        return _joined(schema) if "allOf" in schema else None

    def _target(self, reference: str) -> Any:
        """Return the schema that a local reference such as `#/$defs/City` points to, or None."""
        target = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            target = target.get(step) if isinstance(target, dict) else None
        return target if schema_fault(target) is None else None

    def text(self, schema: Schema, depth: int) -> str:
        shortest, longest = int(schema.get("minLength", 0)), int(schema.get("maxLength", _LENGTH))
        return self._word.ljust(min(shortest, _LENGTH), "x")[:longest]

    def number(self, schema: Schema, depth: int) -> Any:
        if "minimum" in schema or "exclusiveMinimum" in schema:
            return max(1, schema.get("minimum", 1), schema.get("exclusiveMinimum", 0) + 1)
        return min(1, schema.get("maximum", 1), schema.get("exclusiveMaximum", 2) - 1)

    def boolean(self, schema: Schema, depth: int) -> bool:
        return True

    def array(self, schema: Schema, depth: int) -> list[Any]:
        items = schema.get("items", {})
        first = items[0] if isinstance(items, list) and items else items
        count = min(int(schema.get("minItems", 0)), max(self._left, 0))
        return [self.value(first, depth - 1) for _ in range(count)]

    def object(self, schema: Schema, depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        names = schema.get("required", [])[: max(self._left, 0)]
        return {name: self.value(properties.get(name, {}), depth - 1) for name in names}


_MAKERS: dict[str, Callable[[_Maker, Schema, int], Any]] = {
    "string": _Maker.text,
    "number": _Maker.number,
    "integer": _Maker.number,
    "boolean": _Maker.boolean,
    "array": _Maker.array,
    "object": _Maker.object,
}


def _joined(schema: Schema) -> Schema:
    """Return `schema` with the parts of its allOf laid over one another."""
    joined = {key: value for key, value in schema.items() if key != "allOf"}
    for part in schema["allOf"]:
        if isinstance(part, dict):
            properties = {**joined.get("properties", {}), **part.get("properties", {})}
            required = dict.fromkeys([*joined.get("required", ()), *part.get("required", ())])
            joined = {**joined, **part, "properties": properties, "required": list(required)}
    return joined


def _type(schema: Schema) -> str:
    """Return the first type that is not null; without a type, an object if it speaks of properties, else a text."""
    names = schema.get("type", [])
    names = [names] if isinstance(names, str) else names
    real = [name for name in names if name != "null"]
    if real or names:
        return str((real or names)[0])
    return "object" if "properties" in schema or "required" in schema else "string"
