"""
Anthropic's Messages API: POST /v1/messages, and POST /v1/messages/count_tokens.

Claude Code and agents on Anthropic's SDKs speak it. What is translated, and what is lost: messages_request.py,
messages_answer.py, messages_stream.py.
"""

from typing import Final

import msgspec

from proxy.errors import ProxyError, UpstreamProtocolError
from proxy.fronts.messages_answer import whole_message
from proxy.fronts.messages_errors import error_object
from proxy.fronts.messages_request import ChatRequest, chat_request
from proxy.fronts.messages_stream import MessageStream
from proxy.wire.chat import encode

MESSAGES_PATH: Final = "/v1/messages"
COUNT_PATH: Final = "/v1/messages/count_tokens"
#: Where Anthropic's clients ask, which have places of their own for a key and for a request's id.
MESSAGES_PATHS: Final = frozenset({MESSAGES_PATH, COUNT_PATH})


class MessagesFront:
    """One request to /v1/messages; see `Front`. `request_id` is what its errors name."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._asked = ChatRequest(b"", "", (), ())
        self._stream: MessageStream | None = None

    @property
    def rules(self) -> tuple[str, ...]:
        """See `Front`."""
        return self._asked.rules

    @property
    def wants_stop_reason(self) -> bool:
        """Whether vLLM's own key that says which sequence ended the answer is to be kept."""
        return bool(self._asked.stop)

    def request(self, body: bytes, *, strict: bool) -> bytes:
        """See `Front`."""
        self._asked = chat_request(body, strict=strict)
        return self._asked.body

    def whole(self, body: bytes) -> bytes:
        """See `Front`."""
        return whole_message(body, self._asked.model, self._asked.stop)

    def piece(self, data: bytes) -> bytes:
        """See `Front`."""
        if self._stream is None:
            self._stream = MessageStream(self._asked.model, self._asked.stop, self._request_id)
        return self._stream.receive(data)

    def error_body(self, error: ProxyError) -> bytes:
        """See `Front`."""
        return error_object(error, self._request_id)


class _Count(msgspec.Struct):
    count: int


class CountFront(MessagesFront):
    """One request to /v1/messages/count_tokens: what is whole here is an answer of vLLM's /tokenize."""

    def request(self, body: bytes, *, strict: bool) -> bytes:
        """See `Front`."""
        self._asked = chat_request(body, strict=strict, counts=True)
        return self._asked.body

    def whole(self, body: bytes) -> bytes:
        """See `Front`."""
        try:
            count = msgspec.json.decode(body, type=_Count).count
        except (msgspec.DecodeError, RecursionError):
            message = "The model server's count of tokens cannot be read."
            raise UpstreamProtocolError(message, code="malformed_upstream_answer") from None
        return encode({"input_tokens": count})
