"""
The content blocks of a message become what a chat message is made of.

    text, image, search_result --> parts             thinking --> reasoning
    tool_use -------------------> tool calls         tool_result --> messages of their own, before the rest
    document -------------------> its text, or a line that says what was left out, as of every other kind
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from proxy.fronts.messages_wire import Block, Source, decode_content, decode_source, refused
from proxy.fronts.rewrites import Rewrites

Part = dict[str, Any]

#: A result that holds a search's results or a document is two deep.
_DEEPEST: Final = 2

#: Between texts that become one: what mistral-common puts there itself.
BETWEEN: Final = "\n\n"


class Said:
    """What the blocks of a message of that role say, or those inside a block, in the words of chat completions."""

    __slots__ = ("_depth", "_role", "calls", "parts", "results", "rewrites", "thoughts")

    def __init__(self, rewrites: Rewrites, role: str = "", depth: int = 0) -> None:
        self._role = role
        self._depth = depth
        self.parts: list[Part] = []
        self.calls: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []
        self.thoughts: list[str] = []
        self.rewrites = rewrites

    def hear(self, blocks: list[Block], path: str) -> "Said":
        """
        Take the blocks that stand at `path`.

        Raises:
            InvalidRequest: one cannot be read, or is of another role, or a rule would change it in strict mode.
        """
        for i, block in enumerate(blocks):
            home = _HOMES.get(block.type, self._role)
            if home != self._role:
                raise refused(f"{path}[{i}]", f"`{block.type}` blocks can only be in `{home}` messages")
            READERS.get(block.type, unreadable_block_to_line)(self, block, f"{path}[{i}]")
        return self

    def hear_inside(self, content: Raw | UnsetType, path: str) -> "Said":
        """
        Return what stands inside a block, at `path`.

        Raises:
            InvalidRequest: as `hear`; it is too deep.
        """
        if self._depth == _DEEPEST:  # each level is read once more
            raise refused(path, "blocks are nested too deeply")
        return Said(self.rewrites, depth=self._depth + 1).hear(decode_content(content, path), path)

    def add_text(self, text: str | None) -> None:
        """Add a text; an empty one says nothing."""
        if text:
            self.parts.append({"type": "text", "text": text})

    @property
    def content(self) -> str | list[Part]:
        """The parts as a message's content: one string if all are text."""
        if all(part["type"] == "text" for part in self.parts):
            return BETWEEN.join(part["text"] for part in self.parts)
        return self.parts


Reader = Callable[[Said, Block, str], None]


def _hear_text(said: Said, block: Block, path: str) -> None:
    said.add_text(block.text)


def _hear_image(said: Said, block: Block, path: str) -> None:
    source = decode_source(block.source, f"{path}.source")
    url = source.url or (f"data:{source.media_type};base64,{source.data}" if source.data else None)
    if url is None:  # a file of Anthropic's store
        unreadable_block_to_line(said, block, path)
    else:
        said.parts.append({"type": "image_url", "image_url": {"url": url}})


def _hear_search_result(said: Said, block: Block, path: str) -> None:
    source = "" if block.source is UNSET else _string(block.source, f"{path}.source")
    found = said.hear_inside(block.content, f"{path}.content")
    said.add_text("\n".join(filter(None, (block.title, source))))
    said.parts += found.parts


def _hear_thinking(said: Said, block: Block, path: str) -> None:
    if block.thinking:
        said.thoughts.append(block.thinking)


def _hear_tool_use(said: Said, block: Block, path: str) -> None:
    # The object's own text: numbers and the order of keys stay as the client wrote them.
    arguments = "{}" if block.input is UNSET else bytes(block.input).decode()
    function = {"name": block.name or "", "arguments": arguments}
    said.calls.append({"id": block.id or "", "type": "function", "function": function})


def _hear_tool_result(said: Said, block: Block, path: str) -> None:
    if block.tool_use_id is None:
        raise refused(path, "tool_use_id: Field required")
    result = said.hear_inside(block.content, f"{path}.content")
    if block.is_error:
        _mark_error(result)
    said.results.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": result.content})


def _mark_error(result: Said) -> None:
    """Say in the text that a call failed: a chat's tool message has no other place for it."""
    first = next((part for part in result.parts if part["type"] == "text"), None)
    if first is None:
        result.parts.insert(0, {"type": "text", "text": "Error"})
    elif not first["text"].startswith("Error"):
        first["text"] = f"Error: {first['text']}"


def _hear_document(said: Said, block: Block, path: str) -> None:
    source = decode_source(block.source, f"{path}.source")
    if source.type not in ("text", "content"):
        document_to_line(said, block, path, source)
        return
    said.add_text("\n".join(filter(None, (block.title, block.context))))
    said.add_text(source.data)
    said.parts += said.hear_inside(source.content, f"{path}.source.content").parts


# --- rules: what is lost


def document_to_line(said: Said, block: Block, path: str, source: Source) -> None:
    """A document that is no text (a PDF, a file's id, a URL) is a line that names it: chat completions take none."""
    said.rewrites.ran(document_to_line, path)
    about = ": ".join(filter(None, (block.title, source.media_type or source.type)))
    said.add_text(f"[document left out: {about}]")
    said.add_text(block.context)


def redacted_thinking_dropped(said: Said, block: Block, path: str) -> None:
    """`redacted_thinking` is left out: nobody but Anthropic can read it."""
    said.rewrites.ran(redacted_thinking_dropped, path)


def unreadable_block_to_line(said: Said, block: Block, path: str) -> None:
    """A block of another kind (a server tool's call or result, a file) is a line that names it."""
    said.rewrites.ran(unreadable_block_to_line, path)
    about = block.tool_name or block.name or block.title
    said.add_text(f"[{block.type} left out{f': {about}' if about else ''}]")


#: What hears a block of a kind.
READERS: Final[Mapping[str, Reader]] = MappingProxyType(
    {
        "text": _hear_text,
        "image": _hear_image,
        "document": _hear_document,
        "search_result": _hear_search_result,
        "thinking": _hear_thinking,
        "redacted_thinking": redacted_thinking_dropped,
        "tool_use": _hear_tool_use,
        "tool_result": _hear_tool_result,
    }
)


#: Blocks that only one role has.
_HOMES: Final = MappingProxyType(
    {
        "tool_use": "assistant",
        "thinking": "assistant",
        "redacted_thinking": "assistant",
        "tool_result": "user",
    }
)


def _string(raw: Raw, path: str) -> str:
    try:
        return msgspec.json.decode(raw, type=str)
    except msgspec.DecodeError:
        raise refused(path, "Input should be a valid string") from None
