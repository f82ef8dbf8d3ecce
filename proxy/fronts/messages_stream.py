"""
A chat's event stream becomes the events of a message.

    chunk ----------> message_start, once
    reasoning ------> content_block_start  thinking_delta…    signature_delta  content_block_stop
    content --------> content_block_start  text_delta…                         content_block_stop
    tool_calls[n] --> content_block_start  input_json_delta…                   content_block_stop
    [DONE] ---------> message_delta (stop_reason, usage)  message_stop
    error ----------> error, and nothing after it: no stop_reason, no message_stop

    BEFORE --chunk--> OPEN --[DONE] after a finish reason--> OVER
       +----------------+----error, or what is no chunk----> OVER

Blocks never overlap. A chat's calls may: what is said to a later block is held until the earlier one is whole.
"""

from collections import deque
from collections.abc import Collection
from typing import Any, Final

import msgspec

from proxy.errors import UpstreamProtocolError
from proxy.fronts.messages_answer import (
    SIGNATURE,
    arguments_of,
    ending,
    envelope,
    text_in,
    thought_in,
    tool_use,
    usage_of,
)
from proxy.fronts.messages_errors import error_event
from proxy.wire.chat import encode, is_json_object
from proxy.wire.completion import Call, Message
from proxy.wire.sse import DONE, EventFramer, parse_event

#: As long as an answer that was asked for whole may be (edge/whole.py): it is played as events. Held text too.
_LONGEST: Final = 64 * 1024 * 1024


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: Message | None = None
    finish_reason: str | None = None
    stop_reason: Any = None


class _Chunk(msgspec.Struct, gc=False):
    id: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: dict[str, Any] | None = None
    error: Any = None


_decoder: Final = msgspec.json.Decoder(_Chunk)


class _Block:
    """One content block: what it is and what was said to it. `call` is its number among the calls, None for texts."""

    __slots__ = ("call", "head", "held", "key", "kind", "said")

    def __init__(self, kind: str, key: str, call: int | None, head: dict[str, Any]) -> None:
        self.kind = kind
        self.key = key
        self.call = call
        self.head = head
        #: what waits for the blocks before it
        self.held: list[str] = []
        #: a call's arguments
        self.said: list[str] = []

    @property
    def may_end(self) -> bool:
        """Whether no more can come for it once another block has begun."""
        if self.call is None:
            return True
        if not self.said or not self.said[-1].rstrip().endswith("}"):  # else each piece would cost all before it
            return False
        return is_json_object("".join(self.said))


class MessageStream:
    """One streamed answer: `receive()` pieces of a chat's event stream. What comes after its end is not looked at."""

    def __init__(self, model: str, stop: Collection[str], request_id: str) -> None:
        self._model = model
        self._stop = stop
        self._request_id = request_id
        self._framer = EventFramer(_LONGEST)
        self._has_begun = False
        self._is_over = False
        self._out: list[bytes] = []
        #: the block that is open, and those that wait for it
        self._blocks: deque[_Block] = deque()
        self._ended: set[int] = set()
        self._index = 0
        self._held_size = 0
        self._finish: str | None = None
        self._stopped_by: Any = None
        self._usage: dict[str, Any] | None = None

    def receive(self, piece: bytes) -> bytes:
        """Return the events for a piece, b"" if there are none."""
        try:
            self._framer.receive_data(piece)
            while (raw := self._framer.next_raw()) is not None:
                if not self._is_over:
                    self._take(raw)
        except UpstreamProtocolError as exc:
            self._fail({"message": exc.message, "code": exc.code})
        out, self._out = b"".join(self._out), []
        return out

    def _take(self, raw: bytes) -> None:
        event = parse_event(raw)
        if event.payload is None:
            self._out.append(event.comment)
        elif event.payload == DONE:
            self._end()
        else:
            self._take_chunk(event.payload)

    def _take_chunk(self, payload: bytes) -> None:
        try:
            chunk = _decoder.decode(payload)
        except (msgspec.DecodeError, RecursionError):
            raise UpstreamProtocolError("The model server sent an event that cannot be read.") from None
        if chunk.error is not None:
            self._fail(chunk.error if isinstance(chunk.error, dict) else {"message": chunk.error})
            return
        if not self._has_begun:
            self._begin(chunk)
        if chunk.usage is not None:
            self._usage = chunk.usage
        for choice in chunk.choices or ():
            if choice.index == 0:
                self._take_choice(choice)

    def _take_choice(self, choice: _Choice) -> None:
        if choice.delta is not None:
            if thought := thought_in(choice.delta):
                self._say("thinking", "thinking", thought)
            if text := text_in(choice.delta):
                self._say("text", "text", text)
            for call in choice.delta.tool_calls or ():
                self._say_call(call)
        if choice.finish_reason is not None:
            self._finish = choice.finish_reason
        if choice.stop_reason is not None:  # an event that is split has it in its first part
            self._stopped_by = choice.stop_reason

    # --- blocks

    def _say(self, kind: str, key: str, text: str) -> None:
        last = self._blocks[-1] if self._blocks else None
        if last is None or last.kind != kind:
            head = {"type": kind, key: ""} | ({"signature": ""} if kind == "thinking" else {})
            last = _Block(kind, key, None, head)
            self._append(last)
        self._add(last, text)

    def _say_call(self, call: Call) -> None:
        number = call.index or 0
        text = arguments_of(call)
        block = next((block for block in self._blocks if block.call == number), None)
        if block is None:
            if number in self._ended:
                if text.strip():
                    raise UpstreamProtocolError("The model server went on with a call that was whole.")
                return
            block = _Block("tool_use", "partial_json", number, tool_use(call, {}))
            self._append(block)
        if text:
            block.said.append(text)
            self._add(block, text)
            if len(self._blocks) > 1:
                self._advance()

    def _append(self, block: _Block) -> None:
        self._blocks.append(block)
        if len(self._blocks) == 1:
            self._open(block)
        else:
            self._advance()

    def _add(self, block: _Block, text: str) -> None:
        if block is self._blocks[0]:
            self._out.append(self._delta(block, text))
            return
        self._held_size += len(text)
        if self._held_size > _LONGEST:
            raise UpstreamProtocolError("The model server sent calls that overlap.")
        block.held.append(text)

    def _advance(self) -> None:
        """End the open block if it may, and open the next one."""
        while len(self._blocks) > 1 and self._blocks[0].may_end:
            self._close()
            self._open(self._blocks[0])

    def _open(self, block: _Block) -> None:
        start = {"type": "content_block_start", "index": self._index, "content_block": block.head}
        self._out.append(_event(b"content_block_start", start))
        if block.held:
            self._out.append(self._delta(block, "".join(block.held)))

    def _close(self) -> None:
        block = self._blocks.popleft()
        if block.call is not None:
            self._ended.add(block.call)
        if block.kind == "thinking":
            delta = {"type": "signature_delta", "signature": SIGNATURE}
            self._out.append(
                _event(b"content_block_delta", {"type": "content_block_delta", "index": self._index, "delta": delta})
            )
        self._out.append(_event(b"content_block_stop", {"type": "content_block_stop", "index": self._index}))
        self._index += 1

    def _delta(self, block: _Block, text: str) -> bytes:
        return _DELTA % (self._index, _DELTA_TYPES[block.kind], block.key.encode(), encode(text))

    # --- the message

    def _begin(self, chunk: _Chunk) -> None:
        self._has_begun = True
        message = envelope(chunk.id, chunk.model or self._model)
        self._out.append(_event(b"message_start", {"type": "message_start", "message": message}))

    def _end(self) -> None:
        if self._finish is None:
            raise UpstreamProtocolError("The model server ended its answer without a reason.")
        while self._blocks:
            self._close()
            if self._blocks:
                self._open(self._blocks[0])
        delta = ending(self._finish, self._stopped_by, self._stop)
        body = {"type": "message_delta", "delta": delta, "usage": usage_of(self._usage)}
        self._out += [_event(b"message_delta", body), _event(b"message_stop", {"type": "message_stop"})]
        self._is_over = True

    def _fail(self, error: dict[str, Any]) -> None:
        self._is_over = True
        self._blocks.clear()
        self._out.append(error_event(error, self._request_id))


_DELTA: Final = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":%b}}\n\n'
)
_DELTA_TYPES: Final = {"thinking": b"thinking_delta", "text": b"text_delta", "tool_use": b"input_json_delta"}


def _event(name: bytes, body: dict[str, Any]) -> bytes:
    return b"event: " + name + b"\ndata: " + encode(body) + b"\n\n"
