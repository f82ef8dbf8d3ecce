"""Answers of a model server, written down in few words, and what a client makes of the translated ones."""

import json
from typing import Any, NamedTuple

from proxy.translate.answer_replay import played
from proxy.translate.completion import translate_completion
from proxy.translate.expectation import Expectation
from proxy.translate.options import Options
from proxy.translate.stream import StreamTranslator

TOOLS = {"get_weather": "get_weather", "get_time": "get_time"}
HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "devstral"}
DONE = b"data: [DONE]\n\n"
PASSTHROUGH = {
    "recover_tool_calls": "off",
    "extract_think": False,
    "reasoning_field": "untouched",
    "reasoning_fallback": False,
    "strip_vendor_fields": False,
}


def expect(options: dict[str, Any] | None = None, **facts: Any) -> Expectation:
    """A request that offers two tools and asks for usage, unless `facts` say otherwise."""
    given = {"model": "devstral", "stream": True, "usage_wanted": True, "tool_names": TOOLS, **facts}
    return Expectation(options=Options(**(options or {})), **given)


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def chunk(delta: dict[str, Any], finish: str | None = None, index: int = 0, **more: Any) -> bytes:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    return event({**HEAD, "choices": [choice], **more})


ROLE = chunk({"role": "assistant", "content": ""})


def usage(spent: int) -> bytes:
    return event(
        {**HEAD, "choices": [], "usage": {"prompt_tokens": 1, "total_tokens": 1 + spent, "completion_tokens": spent}}
    )


def call(index: int | None = None, name: str | None = None, arguments: Any = None, id: Any = None) -> dict[str, Any]:
    """A tool call, or a fragment of one; what is None is absent."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    fields = {"index": index, "id": id, "type": "function" if name is not None else None, "function": function}
    return {key: value for key, value in fields.items() if value is not None}


def calls(*given: dict[str, Any]) -> dict[str, Any]:
    return {"tool_calls": list(given)}


def whole(message: dict[str, Any], finish: str = "stop", **more: Any) -> bytes:
    """A whole answer of one choice."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return json.dumps({**HEAD, "object": "chat.completion", "choices": [choice], **more}).encode()


def completion_as_stream(body: bytes, expectation: Expectation) -> bytes:
    """What a client that streams gets when the upstream was asked for the whole answer `body`."""
    return played(translate_completion(body, expectation), expectation)


class Played(NamedTuple):
    """What came out of one stream."""

    out: bytes
    translator: StreamTranslator

    @property
    def chunks(self) -> list[dict[str, Any]]:
        """Every event but comments and `[DONE]`, decoded."""
        lines = (block.removeprefix(b"data: ") for block in self.out.split(b"\n\n") if block.startswith(b"data: "))
        return [json.loads(line) for line in lines if line != b"[DONE]"]

    @property
    def deltas(self) -> list[dict[str, Any]]:
        """What each chunk says, without those that only give the role or the finish reason."""
        choices = [choice for chunk in self.chunks for choice in chunk.get("choices", ())]
        return [choice["delta"] for choice in choices if choice["delta"] and "role" not in choice["delta"]]

    @property
    def error(self) -> dict[str, Any]:
        assert self.out.endswith(DONE)
        return self.chunks[-1]["error"]

    @property
    def rules(self) -> tuple[str, ...]:
        return self.translator.rules_applied


def play(*events: bytes, expectation: Expectation | None = None, piece: int = 0) -> Played:
    """Translate a stream of `events`, cut every `piece` bytes, to its end."""
    translator = StreamTranslator(expectation or expect())
    data = b"".join(events)
    cuts = [data[at : at + piece] for at in range(0, len(data), piece)] if piece else [data]
    out = b"".join([translator.receive(cut) for cut in cuts])
    return Played(out + translator.receive_eof(), translator)


def said(*deltas: dict[str, Any], finish: str | None = "stop", spent: int = 9, **kwargs: Any) -> Played:
    """Translate the clean stream of one choice that says `deltas` and then `finish`."""
    return play(ROLE, *map(chunk, deltas), chunk({}, finish), usage(spent), DONE, **kwargs)


def assembled(played: Played) -> dict[int, dict[str, Any]]:
    """Put the messages of a clean stream together as a client does; fail where a client would."""
    messages: dict[int, dict[str, Any]] = {}
    assert played.out.endswith(DONE)
    assert played.out.count(DONE) == 1
    for part in played.chunks:
        assert "error" not in part, part
        assert {key: part[key] for key in HEAD} == HEAD
        for choice in part["choices"]:
            _take(choice, messages)
    for message in messages.values():
        assert message["finish_reason"] is not None
    return messages


def _take(choice: dict[str, Any], messages: dict[int, dict[str, Any]]) -> None:
    delta = choice["delta"]
    assert ("role" in delta) is (choice["index"] not in messages), "exactly one role, first"
    message = messages.setdefault(choice["index"], {"finish_reason": None})
    assert message["finish_reason"] is None, "nothing follows the finish reason"
    message["finish_reason"] = choice["finish_reason"]
    for name in ("content", "reasoning", "reasoning_content"):
        if delta.get(name):
            message[name] = message.get(name, "") + delta[name]
    if delta.get("function_call"):
        call = message.setdefault("function_call", {"arguments": ""})
        call["arguments"] += delta["function_call"].pop("arguments")
        call.update(delta["function_call"])
    for fragment in delta.get("tool_calls") or ():
        _take_call(fragment, message.setdefault("tool_calls", []))


def _take_call(fragment: dict[str, Any], calls: list[dict[str, Any]]) -> None:
    fragment = dict(fragment)
    index = fragment.pop("index")
    assert index in (len(calls) - 1, len(calls)), "indices are contiguous"
    if index == len(calls):
        assert isinstance(fragment["id"], str)
        calls.append(fragment)
    else:
        assert set(fragment) == {"function"}, "id, type and name come once"
        assert set(fragment["function"]) == {"arguments"}
        calls[index]["function"]["arguments"] += fragment["function"]["arguments"]


def message_of(completion: bytes) -> dict[str, Any]:
    """The first choice of a whole answer, in the form of `assembled`: empty and null fields left out."""
    choice = json.loads(completion)["choices"][0]
    fields = ("content", "reasoning", "reasoning_content", "tool_calls", "function_call")
    message = {name: choice["message"][name] for name in fields if choice["message"].get(name)}
    return {"finish_reason": choice["finish_reason"], **message}
