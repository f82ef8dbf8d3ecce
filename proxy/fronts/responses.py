"""
POST /v1/responses: OpenAI's Responses API, answered by way of a chat.

    responses_asked     the request, taken apart
    responses_rules     what a chat cannot say
    responses_chat      the request in a chat's words
    responses_answer    the answer, its items (responses_items) and events

Nothing is kept: what an answer needs of its request is in the object of that request.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from proxy.errors import InvalidRequest, ProxyError, UpstreamProtocolError
from proxy.fronts.responses_answer import LONGEST_ANSWER, Answer, State
from proxy.fronts.responses_asked import Said, read_request
from proxy.fronts.responses_chat import ChatRequest
from proxy.fronts.responses_rules import RESPONSES_RULES
from proxy.fronts.rewrites import Rewrites
from proxy.wire.chat import encode
from proxy.wire.completion import Chunk, Message, decode_chunk
from proxy.wire.sse import DONE, EventFramer


class Responses:
    """See `Front`."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self.rules: tuple[str, ...] = ()
        self._said: Said | None = None
        self._places: Mapping[str, list[str]] = {}
        self._framer = EventFramer(LONGEST_ANSWER)
        self._answer: Answer | None = None

    def request(self, body: bytes, *, strict: bool) -> bytes:
        """See `Front`."""
        asked = read_request(body)
        rewrites = Rewrites(strict=strict)
        for rule in RESPONSES_RULES:
            rewrites.ran(rule, rule(asked))
        self.rules = rewrites.names
        chat = ChatRequest(asked)
        self._said, self._places = asked.said(), chat.places
        try:
            return chat.body()
        except RecursionError:  # what is just flat enough to be read is a little deeper in a chat
            raise InvalidRequest("The body is nested too deeply.", param="$") from None

    def whole(self, body: bytes) -> bytes:
        """See `Front`."""
        answer, completion = self._new_answer(is_streamed=False), _completion(body)
        choice = completion.choices[0] if completion.choices else None
        if choice is None:
            raise UpstreamProtocolError("The model server sent an answer without a choice.")
        answer.begin(completion.id, completion.created, completion.model)
        answer.say(choice.message, _logprobs(choice.logprobs))
        answer.usage = completion.usage
        answer.finish(choice.finish_reason or "stop")
        return encode(answer.end())

    def piece(self, data: bytes) -> bytes:
        """See `Front`."""
        if self._answer is None:
            self._answer = self._new_answer(is_streamed=True)
        answer = self._answer
        if answer.is_over:
            return b""
        comments = []
        self._framer.receive_data(data)
        try:
            while not answer.is_over and (event := self._framer.next_event()) is not None:
                if event.payload is None:
                    comments.append(answer.events() + event.comment)
                else:
                    self._take(answer, event.payload)
        except UpstreamProtocolError as error:
            answer.fail({"code": error.code, "message": error.message, "type": error.kind, "param": None})
        return b"".join(comments) + answer.events()

    def error_body(self, error: ProxyError) -> bytes:
        """See `Front`: OpenAI's shape, as for a chat, with the path in the client's own body."""
        return encode(
            {
                "error": {
                    "message": error.message,
                    "type": error.kind,
                    "param": client_param(error.param, self._places),
                    "code": error.code,
                }
            }
        )

    def _take(self, answer: Answer, payload: bytes) -> None:
        """
        Take an event of a chat's stream.

        Raises:
            UpstreamProtocolError: it is none, or the answer is too long.
        """
        if payload == DONE:
            if answer.state is not State.FINISHED:
                raise UpstreamProtocolError("The model server ended its answer without a finish reason.")
            answer.end()
            return
        chunk = decode_chunk(payload)
        if chunk.error is not None or chunk.choices is None:
            error = _error_of(chunk)
            param = error.get("param")
            answer.fail({**error, "param": client_param(param if isinstance(param, str) else None, self._places)})
            return
        if answer.state is State.WAITING:
            answer.begin(chunk.id, chunk.created, chunk.model)
        if chunk.usage is not None:
            answer.usage = chunk.usage
        for choice in chunk.choices:
            if choice.index == 0 and answer.state is State.OPEN:
                answer.say(choice.delta, _logprobs(choice.logprobs))
                if choice.finish_reason is not None:
                    answer.finish(choice.finish_reason)

    def _new_answer(self, *, is_streamed: bool) -> Answer:
        assert self._said is not None
        return Answer(self._said, self._request_id, is_streamed=is_streamed)


# --- what a chat answers


class _Choice(msgspec.Struct):
    message: Message = msgspec.field(default_factory=Message)
    logprobs: Any = None
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    id: str | None = None
    created: int | float | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: dict[str, Any] | None = None


_completion_decoder: Final = msgspec.json.Decoder(_Completion)


def _completion(body: bytes) -> _Completion:
    try:
        return _completion_decoder.decode(body)
    except (msgspec.DecodeError, RecursionError):
        raise UpstreamProtocolError(
            "The model server sent an answer that is no chat completion.", code="malformed_upstream_answer"
        ) from None


def _error_of(chunk: Chunk) -> dict[str, Any]:
    if isinstance(chunk.error, dict):
        return chunk.error
    return {"code": "server_error", "message": "The model server sent an event that is no part of an answer."}


def _logprobs(logprobs: Any) -> list[Any]:
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    return content if isinstance(content, list) else []


# --- errors

#: Members of a chat, and what a client of this API calls them.
_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "messages": "input",
        "max_tokens": "max_output_tokens",
        "response_format": "text.format",
        "reasoning_effort": "reasoning.effort",
        "tool_choice.function": "tool_choice",
    }
)
_PLACE: Final = re.compile(r"(messages|tools)\[(\d+)\](?:\.function)?(.*)", re.DOTALL)
_INSIDE: Final = re.compile(r"\.content(\[\d+\])?")


def client_param(param: str | None, places: Mapping[str, list[str]]) -> str | None:
    """Return the path of an error in a chat as a path in the client's body, as exactly as it can be said."""
    if param is None or not places:
        return param
    if match := _PLACE.match(param):
        holder, number, rest = match.groups()
        if int(number) >= len(places[holder]):
            return _NAMES.get(holder, holder)
        place = places[holder][int(number)]
        if holder == "tools":
            return place + rest
        inside = _INSIDE.match(rest)
        return place + inside.group() if inside and place.startswith("input[") else place
    name = next((name for name in _NAMES if param == name or param.startswith((f"{name}.", f"{name}["))), None)
    return param if name is None else _NAMES[name] + param[len(name) :]
