"""
An answer of the Responses API, made of what a chat says: whole, or as events while it comes.

    WAITING --chunk--> OPEN --finish reason--> FINISHED --[DONE]--> OVER      completed or incomplete
       |                 |                        |
       +-----------------+---------error----------+--------------> OVER      failed

Whole and streamed answers go the same way, so that they say the same; a whole one has its events thrown away.
"""

import re
import time
from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Final

from proxy.errors import UpstreamProtocolError
from proxy.fronts.numbers import counter
from proxy.fronts.responses_asked import Called, Json, Said
from proxy.fronts.responses_items import (
    OUTPUT_TEXT,
    REASONING_TEXT,
    REFUSAL,
    SUMMARY_TEXT,
    CustomItem,
    FunctionItem,
    Item,
    PartKind,
    ShellItem,
    TextItem,
)
from proxy.wire.chat import encode
from proxy.wire.completion import Call, Message
from proxy.wire.ids import nine_char_digest

#: Arbitrary, as for a whole answer of a model server: the end of a stream repeats all of it, so that it is kept.
LONGEST_ANSWER: Final = 64 * 1024 * 1024
#: What a piece of text takes in memory besides its characters, about.
_OVERHEAD: Final = 64

#: What an answer that was cut was cut by; any other is completed.
_CUT_BY: Final[Mapping[str, str]] = MappingProxyType(
    {"length": "max_output_tokens", "content_filter": "content_filter"}
)

#: The codes that clients know in an answer that failed; the others are `server_error`.
#: Sources: openai-python 3.54.0, types/responses/response_error.py; Codex CLI, codex-api/src/sse/responses.rs.
_ERROR_CODES: Final = frozenset(
    {"server_error", "rate_limit_exceeded", "invalid_prompt", "context_length_exceeded", "insufficient_quota"}
)

_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class State(IntEnum):
    """See the module."""

    WAITING = 0
    OPEN = 1
    FINISHED = 2
    OVER = 3


class Answer:
    """One answer. Call `begin` before anything is said; `events()` is what the client gets now."""

    def __init__(self, asked: Said, request_id: str, *, is_streamed: bool) -> None:
        """`request_id` names an answer that the model server has not named."""
        self._request_id = request_id
        self.state = State.WAITING
        self._is_streamed = is_streamed
        self._events: list[bytes] = []
        self._sequence = 0
        self._names = asked.names
        self._thought = SUMMARY_TEXT if asked.wants_summary else REASONING_TEXT
        self._echo = asked.echo
        self._head: Json = {}
        self._stem = ""
        self._items: list[Item] = []
        self._calls: dict[int, FunctionItem] = {}
        self._length = 0
        self.usage: Json | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.state is State.OVER

    def events(self) -> bytes:
        """Return the events since the last time."""
        events = b"".join(self._events)
        self._events.clear()
        return events

    def begin(self, answer_id: str | None, created: float | None, model: str | None) -> None:
        """The answer is there; the id of a chat gives its own id and those of its items."""
        answer_id = answer_id or self._request_id
        stem = answer_id.removeprefix("chatcmpl-")
        self._stem = stem if _PLAIN_ID.fullmatch(stem) else nine_char_digest(answer_id)
        self._head = {
            "id": f"resp_{self._stem}",
            "object": "response",
            "created_at": int(created or time.time()),
            "model": model or "",
            "background": False,
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
            **self._echo,
        }
        self.state = State.OPEN
        for kind in ("response.created", "response.in_progress"):
            self._emit(kind, {"response": self._response("in_progress")})

    def say(self, said: Message, logprobs: list[Any]) -> None:
        """
        Take a message, or what a chunk adds to it.

        Raises:
            UpstreamProtocolError: with it the answer takes more than `LONGEST_ANSWER` bytes, or it is for a call that
                was whole.
        """
        if thought := said.reasoning or said.reasoning_content:
            self._write(self._thought, thought, [])
        text = said.content if isinstance(said.content, str) else _text_of(said.content)
        if text:
            self._write(OUTPUT_TEXT, text, logprobs)
        elif logprobs and self._items and isinstance(last := self._items[-1], TextItem):
            last.note(logprobs)
        if isinstance(said.refusal, str) and said.refusal:
            self._write(REFUSAL, said.refusal, [])
        for position, call in enumerate(said.tool_calls or ()):
            self._call(call, position)

    def finish(self, reason: str) -> None:
        """Nothing more will be said: all items are whole, but in an answer that was cut the last and half calls."""
        if not any(item for item in self._items if not _is_thought(item)):
            self._text_item(OUTPUT_TEXT).grow(OUTPUT_TEXT, "", [])
        cut_by = _CUT_BY.get(reason)
        last = self._items[-1]
        for item in self._items:
            if item.is_open:
                is_cut = cut_by and (item is last or (isinstance(item, FunctionItem) and not item.is_whole()))
                item.close("incomplete" if is_cut else "completed")
        self._head["incomplete_details"] = None if cut_by is None else {"reason": cut_by}
        self.state = State.FINISHED

    def end(self) -> Json:
        """Tell that the answer is over, and return it."""
        self.state = State.OVER
        status = "completed" if self._head["incomplete_details"] is None else "incomplete"
        response = self._response(status)
        self._emit(f"response.{status}", {"response": response})
        return response

    def fail(self, error: Json) -> None:
        """Tell that the answer has failed; what came of it stays as it is."""
        if self.state is State.WAITING:
            self.begin(None, None, None)
        self.state = State.OVER
        code = error.get("code")
        self._head["error"] = {
            "code": code if isinstance(code, str) and code in _ERROR_CODES else "server_error",
            "message": str(error.get("message")),
            "type": error.get("type"),
            "param": error.get("param"),
        }
        for item in self._items:
            if item.is_open:
                item.status = "incomplete"
        self._emit("response.failed", {"response": self._response("failed")})

    # --- items

    def _write(self, kind: PartKind, text: str, logprobs: list[Any]) -> None:
        self._count(text)
        self._text_item(kind).grow(kind, text, logprobs)

    def _count(self, text: str) -> None:
        self._length += len(text) + _OVERHEAD
        if self._length > LONGEST_ANSWER:
            raise UpstreamProtocolError(f"The model server sent an answer of more than {LONGEST_ANSWER} bytes.")

    def _text_item(self, kind: PartKind) -> TextItem:
        """Return the item that such a text belongs to: the last one if it is open and of that kind."""
        is_thought = kind is self._thought
        last = self._items[-1] if self._items else None
        if isinstance(last, TextItem) and last.is_open and _is_thought(last) is is_thought:
            return last
        self._close_before_another()
        base = _thoughts_base(kind) if is_thought else {"type": "message", "role": "assistant", "content": []}
        item = TextItem(self._emit, self._id("rs" if is_thought else "msg"), len(self._items), base)
        self._added(item)
        return item

    def _call(self, call: Call, position: int) -> None:
        index = position if call.index is None else call.index
        if call.custom is not None:
            self._custom_call(call)
            return
        function = call.function
        item = self._calls.get(index)
        if item is None:
            self._close_before_another()
            name = (function.name if function else None) or ""
            called = self._names.get(name, Called("function_call", name))
            kind = ShellItem if called.kind == "local_shell_call" else FunctionItem
            item = kind(self._emit, self._id("fc"), len(self._items), str(call.id or self._id("call")), called)
            self._calls[index] = item
            self._added(item)
        arguments = function.arguments if function else None
        piece = arguments if isinstance(arguments, str) else "" if arguments is None else encode(arguments).decode()
        if item.is_open:
            self._count(piece)
            item.grow(piece)
        elif piece.strip():
            raise UpstreamProtocolError("The model server went on with a call that was whole.")

    def _custom_call(self, call: Call) -> None:
        self._close_before_another()
        custom = call.custom or {}
        name, given = str(custom.get("name") or ""), str(custom.get("input") or "")
        called = self._names.get(name, Called("custom_tool_call", name))
        item = CustomItem(self._emit, self._id("ctc"), len(self._items), str(call.id or self._id("call")), called)
        self._added(item)
        self._count(given)
        item.grow(given)
        item.close("completed")

    def _added(self, item: Item) -> None:
        self._items.append(item)
        item.add()

    def _close_before_another(self) -> None:
        """
        Close the last item, if it is whole, when another begins.

        Fragments of several calls may alternate: a call that is not whole then stays open until all is said.
        """
        last = self._items[-1] if self._items else None
        if last is not None and last.is_open and (not isinstance(last, FunctionItem) or last.is_whole()):
            last.close("completed")

    # --- events

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self._stem}_{len(self._items)}"

    def _response(self, status: str) -> Json:
        return {
            "error": None,
            "incomplete_details": None,
            **self._head,
            "status": status,
            "output": [item.value for item in self._items],
            "usage": _usage(self.usage) if self.is_over else None,
        }

    def _emit(self, kind: str, members: Json) -> None:
        if self._is_streamed:
            event = encode({"type": kind, "sequence_number": self._sequence, **members})
            self._events.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), event))
            self._sequence += 1


def _thoughts_base(kind: PartKind) -> Json:
    return {"type": "reasoning", "summary": [], **({"content": []} if kind is REASONING_TEXT else {})}


def _is_thought(item: Item) -> bool:
    return isinstance(item, TextItem) and item.is_thought


def _text_of(content: Any) -> str:
    """Return the text of a list of parts, which comes from a server that nobody has translated."""
    parts = content if isinstance(content, list) else []
    return "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def _usage(usage: Json | None) -> Json | None:
    if usage is None:
        return None
    taken, given = _number(usage, "prompt_tokens"), _number(usage, "completion_tokens")
    return {
        "input_tokens": taken,
        "input_tokens_details": {
            "cached_tokens": _number(usage.get("prompt_tokens_details"), "cached_tokens"),
            "cache_write_tokens": 0,
        },
        "output_tokens": given,
        "output_tokens_details": {
            "reasoning_tokens": _number(usage.get("completion_tokens_details"), "reasoning_tokens")
        },
        "total_tokens": taken + given,
    }


def _number(counters: Any, name: str) -> int:
    return counter(counters.get(name)) if isinstance(counters, dict) else 0
