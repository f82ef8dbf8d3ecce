"""
A request of Anthropic's Messages API on the wire, as far as it is read.

What a client may send: Anthropic's API reference, POST /v1/messages; anthropic 2.14.0, types/message_create_params.py;
what Claude Code 2.1.197 does send. Fields that nothing here reads are not looked at.
"""

import re
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from proxy.errors import InvalidRequest
from proxy.fronts.numbers import LARGEST

T = TypeVar("T")

_Limit: Final = msgspec.Meta(ge=1, le=LARGEST)


class Block(msgspec.Struct, gc=False):
    """A piece of a message: any of Anthropic's content blocks. What its `type` has no use for is None."""

    type: str
    text: str | None = None
    thinking: str | None = None
    # tool_use
    id: str | None = None
    name: str | None = None
    input: Raw | UnsetType = UNSET
    # tool_result; search_result has a list too, others have what is not read
    tool_use_id: str | None = None
    content: Raw | UnsetType = UNSET
    is_error: bool | None = None
    # image and document have an object, search_result has a string
    source: Raw | UnsetType = UNSET
    title: str | None = None
    context: str | None = None
    tool_name: str | None = None


class Source(msgspec.Struct, gc=False):
    """What an image or a document is made of."""

    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    content: Raw | UnsetType = UNSET


class Turn(msgspec.Struct, gc=False):
    """One message. Claude Code from 2.1.154 on also sends `system` (vllm#44000)."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(msgspec.Struct, gc=False):
    """A tool's definition; one with a `type` other than `custom` is Anthropic's own, and may have no schema."""

    name: str | None = None
    type: str | None = None
    description: str | None = None
    input_schema: Raw | UnsetType = UNSET
    strict: bool | None = None
    input_examples: Raw | UnsetType = UNSET


class ToolChoice(msgspec.Struct, gc=False):
    """Which tools the model may or must call."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct, gc=False):
    """Whether the model is to think first, and how many tokens at most."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Raw | UnsetType = UNSET


class Format(msgspec.Struct, gc=False):
    """What the answer's text must be."""

    type: Literal["json_schema"]
    schema: Raw


class OutputConfig(msgspec.Struct, gc=False):
    """How much effort the answer is worth, and what its text must be."""

    effort: str | None = None
    format: Format | None = None


class Metadata(msgspec.Struct, gc=False):
    """Who the client's user is, in the client's words. Claude Code puts its session's id in it."""

    user_id: str | None = None


class Request(msgspec.Struct, gc=False):
    """
    The body of a request. `max_tokens` is demanded later: counting tokens goes without. What is Raw is not judged here.
    """

    messages: list[Turn]
    model: str | None = None
    max_tokens: Annotated[int, _Limit] | Annotated[float, _Limit] | None = None
    system: str | list[Block] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    stream: bool | None = None
    temperature: Raw | UnsetType = UNSET
    top_p: Raw | UnsetType = UNSET
    top_k: Raw | UnsetType = UNSET
    stop_sequences: list[str] | None = None
    metadata: Metadata | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: Format | None = None
    cache_control: Any = None


#: The members that are read. `cache_control` only says what to keep ready, which vLLM does unasked.
MEMBERS: Final = frozenset(Request.__struct_fields__)

_request_decoder: Final = msgspec.json.Decoder(Request)
_content_decoder: Final = msgspec.json.Decoder(str | list[Block] | None)
_source_decoder: Final = msgspec.json.Decoder(Source)

# msgspec says where: "Expected `str`, got `int` - at `$.messages[3].role`"
_PLACE: Final = re.compile(r"(.*) - at `\$(.*)`", re.DOTALL)


def decode_request(body: bytes) -> Request:
    """
    Return the body of a request, which is a JSON object.

    Raises:
        InvalidRequest: a member that is read has another type, or is not there.
    """
    return _decoded(_request_decoder, body, "")


def decode_content(raw: Raw | UnsetType, path: str) -> list[Block]:
    """
    Return what a block at `path` holds: a string is one text block, null and nothing are none.

    Raises:
        InvalidRequest: it is neither a string nor a list of blocks.
    """
    content = None if raw is UNSET else _decoded(_content_decoder, raw, path)
    return blocks_of(content or [])


def decode_source(raw: Raw | UnsetType, path: str) -> Source:
    """
    Return the source of an image or a document at `path`.

    Raises:
        InvalidRequest: there is none.
    """
    if raw is UNSET:
        raise refused(path, "Field required")
    return _decoded(_source_decoder, raw, path)


def blocks_of(content: str | list[Block]) -> list[Block]:
    """Return content as blocks."""
    return content if isinstance(content, list) else [Block("text", content)]


def refused(path: str, problem: str) -> InvalidRequest:
    """Return the error of what stands at `path`; its text says so as Anthropic's do: `messages.3.role: …`."""
    dotted = re.sub(r"\[(\d+)\]", r".\1", path)
    return InvalidRequest(f"{dotted}: {problem}" if path else problem, param=path or "$")


def _decoded(decoder: msgspec.json.Decoder[T], text: bytes | Raw, path: str) -> T:
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as exc:
        found = _PLACE.fullmatch(str(exc))
        problem, place = found.groups() if found else (str(exc), "")
        raise refused((path + place).removeprefix("."), _in_words(problem)) from None
    except msgspec.DecodeError as exc:
        raise refused(path, f"The JSON cannot be read: {exc}") from None


def _in_words(problem: str) -> str:
    """Return a problem in words that Anthropic's clients know, without the value that an unknown word has."""
    if problem.startswith("Invalid enum value"):
        return "unknown value"
    missing = re.fullmatch(r"Object missing required field `(\w+)`", problem)
    return f"{missing[1]}: Field required" if missing else problem
