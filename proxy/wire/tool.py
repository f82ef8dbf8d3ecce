"""
A tool definition on the wire.

What decodes as `CanonicalTool` is what every Mistral server accepts, so no tool rule has anything to do
on it and its bytes go on as they came. The type is the whole check: it runs in msgspec's decoder.
"""

from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType, field

#: Names of JSON Schema's types (draft 7, section 6.1.1).
SCHEMA_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")

_TypeName = Literal["array", "boolean", "integer", "null", "number", "object", "string"]
_Never = Literal["\0"]  # no JSON value that a client sends is this: the key must be absent
_Number = int | float
_Count = Annotated[int, Meta(ge=0)]


class _Schema(msgspec.Struct, gc=False):
    """
    A schema without what draft 7's own schema refuses. Keys that are not listed are not looked at.

    `pattern` and `patternProperties` are for `schema.draft7` to look at: a type cannot tell whether a
    regular expression is one of Python's.
    """

    type: _TypeName | Annotated[list[_TypeName], Meta(min_length=1)] | UnsetType = UNSET
    title: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    format: str | UnsetType = UNSET
    enum: list[Any] | UnsetType = UNSET
    examples: list[Any] | UnsetType = UNSET
    required: list[str] | UnsetType = UNSET
    minimum: _Number | UnsetType = UNSET
    maximum: _Number | UnsetType = UNSET
    exclusive_minimum: _Number | UnsetType = field(name="exclusiveMinimum", default=UNSET)
    exclusive_maximum: _Number | UnsetType = field(name="exclusiveMaximum", default=UNSET)
    multiple_of: Annotated[float, Meta(gt=0)] | UnsetType = field(name="multipleOf", default=UNSET)
    min_length: _Count | UnsetType = field(name="minLength", default=UNSET)
    max_length: _Count | UnsetType = field(name="maxLength", default=UNSET)
    min_items: _Count | UnsetType = field(name="minItems", default=UNSET)
    max_items: _Count | UnsetType = field(name="maxItems", default=UNSET)
    min_properties: _Count | UnsetType = field(name="minProperties", default=UNSET)
    max_properties: _Count | UnsetType = field(name="maxProperties", default=UNSET)
    unique_items: bool | UnsetType = field(name="uniqueItems", default=UNSET)
    read_only: bool | UnsetType = field(name="readOnly", default=UNSET)
    comment: str | UnsetType = field(name="$comment", default=UNSET)
    reference: str | UnsetType = field(name="$ref", default=UNSET)
    media_type: str | UnsetType = field(name="contentMediaType", default=UNSET)
    encoding: str | UnsetType = field(name="contentEncoding", default=UNSET)

    nullable: _Never | UnsetType = UNSET
    dialect: _Never | UnsetType = field(name="$schema", default=UNSET)
    identity: _Never | UnsetType = field(name="$id", default=UNSET)
    pattern: _Never | UnsetType = UNSET
    pattern_properties: _Never | UnsetType = field(name="patternProperties", default=UNSET)
    dependencies: _Never | UnsetType = UNSET

    properties: "dict[str, _Schema | bool] | UnsetType" = UNSET
    defs: "dict[str, _Schema | bool] | UnsetType" = field(name="$defs", default=UNSET)
    definitions: "dict[str, _Schema | bool] | UnsetType" = UNSET
    items: "_Schema | bool | Annotated[list[_Schema | bool], Meta(min_length=1)] | UnsetType" = UNSET
    any_of: "Annotated[list[_Schema | bool], Meta(min_length=1)] | UnsetType" = field(name="anyOf", default=UNSET)
    all_of: "Annotated[list[_Schema | bool], Meta(min_length=1)] | UnsetType" = field(name="allOf", default=UNSET)
    one_of: "Annotated[list[_Schema | bool], Meta(min_length=1)] | UnsetType" = field(name="oneOf", default=UNSET)
    additional_properties: "_Schema | bool | UnsetType" = field(name="additionalProperties", default=UNSET)
    additional_items: "_Schema | bool | UnsetType" = field(name="additionalItems", default=UNSET)
    property_names: "_Schema | bool | UnsetType" = field(name="propertyNames", default=UNSET)
    contains: "_Schema | bool | UnsetType" = UNSET
    negated: "_Schema | bool | UnsetType" = field(name="not", default=UNSET)
    condition: "_Schema | bool | UnsetType" = field(name="if", default=UNSET)
    consequence: "_Schema | bool | UnsetType" = field(name="then", default=UNSET)
    alternative: "_Schema | bool | UnsetType" = field(name="else", default=UNSET)

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: a name twice in `required` or in `type`. msgspec makes its own error of it.
        """
        if isinstance(self.required, list) and len(set(self.required)) != len(self.required):
            raise ValueError("a name twice")
        if isinstance(self.type, list) and len(set(self.type)) != len(self.type):
            raise ValueError("a name twice")


class CanonicalFunction(msgspec.Struct, forbid_unknown_fields=True):
    """Name, description and parameters, and nothing else (`strict` is a choice of the profile)."""

    name: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{1,64}\Z")]
    parameters: _Schema
    description: str | UnsetType = UNSET


class CanonicalTool(msgspec.Struct, forbid_unknown_fields=True):
    """A function tool that needs no rule."""

    type: Literal["function"]
    function: CanonicalFunction


_decoder = msgspec.json.Decoder(CanonicalTool)


def is_canonical_schema(value: dict[str, Any]) -> bool:
    """Tell whether no rule would change this schema."""
    try:
        msgspec.convert(value, _Schema)
    except (msgspec.ValidationError, RecursionError):
        return False
    return True


def canonical_name(raw: Raw) -> str | None:
    """Return the tool's name when no rule would change the definition, else None."""
    definition = bytes(raw)
    return _remembered_name(definition) if len(definition) <= _REMEMBERED_BYTES else _checked_name(definition)


def _checked_name(definition: bytes) -> str | None:
    try:
        return _decoder.decode(definition).function.name
    except (msgspec.DecodeError, RecursionError):
        return None


# Agents send the same definitions with every turn. For the 25 of the 63 KB body the check costs 110 µs and the look-up
# 10 (2026-11-23). A memo of a pure function, at most 2 MiB: no answer depends on what it holds.
_REMEMBERED_BYTES = 8192
_remembered_name = lru_cache(maxsize=256)(_checked_name)
