"""
A tool definition on the wire.

What decodes as `CanonicalTool` is what every Mistral server accepts, so no tool rule has anything to do
on it and its bytes go on as they came. The type is the whole check: it runs in msgspec's decoder.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

#: Names of JSON Schema's types (draft 7, section 6.1.1).
SCHEMA_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")

_TypeName = Literal["array", "boolean", "integer", "null", "number", "object", "string"]
_Never = Literal["\0"]  # no JSON value that a client sends is this: the key must be absent


class _Schema(msgspec.Struct):
    """A schema without what draft 7 refuses. Keys that are not listed are not looked at."""

    type: _TypeName | list[_TypeName] | UnsetType = UNSET
    required: list[str] | UnsetType = UNSET
    exclusive_minimum: int | float | UnsetType = msgspec.field(name="exclusiveMinimum", default=UNSET)
    exclusive_maximum: int | float | UnsetType = msgspec.field(name="exclusiveMaximum", default=UNSET)
    nullable: _Never | UnsetType = UNSET
    dialect: _Never | UnsetType = msgspec.field(name="$schema", default=UNSET)
    identity: _Never | UnsetType = msgspec.field(name="$id", default=UNSET)
    properties: "dict[str, _Schema | bool] | UnsetType" = UNSET
    pattern_properties: "dict[str, _Schema | bool] | UnsetType" = msgspec.field(name="patternProperties", default=UNSET)
    additional_properties: "_Schema | bool | UnsetType" = msgspec.field(name="additionalProperties", default=UNSET)
    items: "_Schema | bool | list[_Schema | bool] | UnsetType" = UNSET
    any_of: "list[_Schema | bool] | UnsetType" = msgspec.field(name="anyOf", default=UNSET)
    all_of: "list[_Schema | bool] | UnsetType" = msgspec.field(name="allOf", default=UNSET)
    one_of: "list[_Schema | bool] | UnsetType" = msgspec.field(name="oneOf", default=UNSET)
    negated: "_Schema | bool | UnsetType" = msgspec.field(name="not", default=UNSET)
    defs: "dict[str, _Schema | bool] | UnsetType" = msgspec.field(name="$defs", default=UNSET)
    definitions: "dict[str, _Schema | bool] | UnsetType" = UNSET


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
_any_decoder = msgspec.json.Decoder()


def canonical_name(raw: Raw) -> str | None:
    """Return the tool's name when no rule would change the definition, else None."""
    try:
        return _decoder.decode(raw).function.name
    except (msgspec.DecodeError, RecursionError):
        return None


def decode_tool(raw: Raw) -> Any:
    """Return the definition as plain values."""
    return _any_decoder.decode(raw)
