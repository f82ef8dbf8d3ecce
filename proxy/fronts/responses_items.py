"""
The items of an answer of the Responses API, each as it grows, and the events that tell of it.

    output_item.added -> content_part.added -> output_text.delta ... -> output_text.done -> content_part.done -+
                      -> function_call_arguments.delta ... -> function_call_arguments.done --------------------+
                                                                                   output_item.done <----------+

An item is `add`ed once, grows, and is `close`d once, or it is left open where the answer failed.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from proxy.fronts.responses_asked import Called, Json
from proxy.wire.chat import decode, encode

#: Sends an event of this type, with these members.
Emit = Callable[[str, Json], None]


class PartKind(NamedTuple):
    """A kind of text: its part, the key of the part's text, the list that the part stands in, and its events."""

    type: str
    key: str
    holder: str
    counter: str
    part: str
    text: str


OUTPUT_TEXT: Final = PartKind(
    "output_text", "text", "content", "content_index", "response.content_part", "response.output_text"
)
REFUSAL: Final = PartKind("refusal", "refusal", "content", "content_index", "response.content_part", "response.refusal")
REASONING_TEXT: Final = PartKind(
    "reasoning_text", "text", "content", "content_index", "response.content_part", "response.reasoning_text"
)
SUMMARY_TEXT: Final = PartKind(
    "summary_text", "text", "summary", "summary_index",
    "response.reasoning_summary_part", "response.reasoning_summary_text",
)  # fmt: skip


class Item:
    """One item. `index` is its place in the output."""

    def __init__(self, emit: Emit, item_id: str, index: int) -> None:
        self._emit = emit
        self.id = item_id
        self.index = index
        self.status = "in_progress"

    @property
    def value(self) -> Json:
        """The item as it is now."""
        raise NotImplementedError

    @property
    def is_open(self) -> bool:
        """Whether it may still grow."""
        return self.status == "in_progress"

    def add(self) -> None:
        """Tell that it is there."""
        self._emit("response.output_item.added", {"output_index": self.index, "item": self.value})

    def close(self, status: str) -> None:
        """It is whole, or cut."""
        self._end()
        self.status = status
        self._emit("response.output_item.done", {"output_index": self.index, "item": self.value})

    def _end(self) -> None:
        """Tell that what it is made of is whole."""

    def _event(self, kind: str, more: Json) -> None:
        self._emit(kind, {"item_id": self.id, "output_index": self.index, **more})


class _Part:
    """One part of a text item."""

    def __init__(self, kind: PartKind) -> None:
        self.kind = kind
        self.texts: list[str] = []
        self.logprobs: list[Any] = []

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def value(self) -> Json:
        value: Json = {"type": self.kind.type, self.kind.key: self.text}
        if self.kind is OUTPUT_TEXT:
            value |= {"annotations": [], "logprobs": self.logprobs}
        return value


class TextItem(Item):
    """A message or thoughts: parts of text, one after the other."""

    def __init__(self, emit: Emit, item_id: str, index: int, base: Json) -> None:
        super().__init__(emit, item_id, index)
        self._base = base
        self._parts: list[_Part] = []

    @property
    def is_thought(self) -> bool:
        """Whether it is what the model thought, and not what it said."""
        return bool(self._base["type"] == "reasoning")

    @property
    def value(self) -> Json:
        """See `Item`."""
        lists: dict[str, list[Json]] = {}
        for part in self._parts:
            lists.setdefault(part.kind.holder, []).append(part.value)
        return {"id": self.id, "status": self.status, **self._base, **lists}

    def grow(self, kind: PartKind, text: str, logprobs: list[Any]) -> None:
        """Add text to the last part, or begin one of another kind."""
        if not self._parts or self._parts[-1].kind is not kind:
            self._end()
            self._parts.append(_Part(kind))
            self._tell(kind.part + ".added", {"part": self._parts[-1].value})
        part = self._parts[-1]
        part.texts.append(text)
        part.logprobs += logprobs
        if text:
            self._tell(kind.text + ".delta", {"delta": text, **self._logprobs(kind, logprobs)})

    def note(self, logprobs: list[Any]) -> None:
        """Add what came without the text that it is about: a whole answer that is played has it at its end."""
        if self._parts and self._parts[-1].kind is OUTPUT_TEXT:
            self._parts[-1].logprobs += logprobs

    def _end(self) -> None:
        if self._parts:
            part = self._parts[-1]
            kind = part.kind
            self._tell(kind.text + ".done", {kind.key: part.text, **self._logprobs(kind, part.logprobs)})
            self._tell(kind.part + ".done", {"part": part.value})

    @staticmethod
    def _logprobs(kind: PartKind, logprobs: list[Any]) -> Json:
        return {"logprobs": logprobs} if kind is OUTPUT_TEXT else {}

    def _tell(self, event: str, more: Json) -> None:
        self._event(event, {self._parts[-1].kind.counter: len(self._parts) - 1, **more})


class FunctionItem(Item):
    """A call of a function, its arguments in pieces."""

    def __init__(self, emit: Emit, item_id: str, index: int, call_id: str, called: Called) -> None:
        super().__init__(emit, item_id, index)
        self._base: Json = {"id": item_id, "type": "function_call", "call_id": call_id, "name": called.name}
        if called.namespace is not None:
            self._base["namespace"] = called.namespace
        self._pieces: list[str] = []

    @property
    def arguments(self) -> str:
        """What has come of them."""
        return "".join(self._pieces)

    @property
    def value(self) -> Json:
        """See `Item`."""
        return {**self._base, "arguments": self.arguments, "status": self.status}

    def grow(self, piece: str) -> None:
        """Add a piece of the arguments."""
        if piece:
            self._pieces.append(piece)
            self._event("response.function_call_arguments.delta", {"delta": piece})

    def is_whole(self) -> bool:
        """Whether the arguments are a whole JSON value."""
        try:
            decode(self.arguments)
        except (msgspec.DecodeError, RecursionError):
            return False
        return True

    def _end(self) -> None:
        done = {"name": self._base["name"], "arguments": self.arguments}
        self._event("response.function_call_arguments.done", done)


class CustomItem(Item):
    """A call of a custom tool. Its input comes whole."""

    def __init__(self, emit: Emit, item_id: str, index: int, call_id: str, called: Called) -> None:
        super().__init__(emit, item_id, index)
        self._base: Json = {"id": item_id, "type": "custom_tool_call", "call_id": call_id, "name": called.name}
        if called.namespace is not None:
            self._base["namespace"] = called.namespace
        self._input = ""

    @property
    def value(self) -> Json:
        """See `Item`."""
        return {**self._base, "input": self._input, "status": self.status}

    def grow(self, text: str) -> None:
        """Add the input."""
        self._input += text
        self._event("response.custom_tool_call_input.delta", {"delta": text})

    def _end(self) -> None:
        self._event("response.custom_tool_call_input.done", {"input": self._input})


class ShellItem(FunctionItem):
    """
    A call of `local_shell`: it is told of when its arguments are whole, for its action has no pieces.

    Arguments that are no action stay a call of a function: the client then tells the model that there is none.
    """

    def add(self) -> None:
        """See `Item`: not yet."""

    def grow(self, piece: str) -> None:
        """See `FunctionItem`: not yet."""
        self._pieces.append(piece)

    def close(self, status: str) -> None:
        """See `Item`."""
        action = _action_of(self.arguments)
        if action is None:
            pieces, self._pieces = self._pieces, []
            super().add()
            super().grow("".join(pieces))
            super().close(status)
            return
        self._base = {"id": self.id, "type": "local_shell_call", "call_id": self._base["call_id"], "action": action}
        super().add()
        self.status = status
        self._emit("response.output_item.done", {"output_index": self.index, "item": self.value})

    @property
    def value(self) -> Json:
        """See `Item`."""
        return {**self._base, "status": self.status} if "action" in self._base else super().value


class _Action(msgspec.Struct, omit_defaults=True):
    command: list[str]
    env: dict[str, str] = msgspec.field(default_factory=dict)
    working_directory: str | None = None
    timeout_ms: int | None = None
    user: str | None = None


def _action_of(arguments: str) -> Json | None:
    try:
        action = msgspec.json.decode(arguments, type=_Action)
    except (msgspec.DecodeError, RecursionError):
        return None
    return {"type": "exec", "env": {}, **decode(encode(action))}
