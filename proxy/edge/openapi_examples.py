"""The OpenAPI document's examples: requests that the demo upstream answers, and answers."""

import json
import shlex
from typing import Any, Final

Json = dict[str, Any]

#: Where a proxy listens by default: the document is the same wherever it is.
_ADDRESS: Final = "http://127.0.0.1:9000"

_CALL_ID = "Sf7Ee8N2o"


def request_examples() -> Json:
    """Return chat requests, by name."""
    return {
        "plain": _example("A question", _request(_user("Hi"))),
        "streaming": _example(
            "As a stream", {**_request(_user("Hi")), "stream": True, "stream_options": {"include_usage": True}}
        ),
        "tool": _example("With a tool", {**_request(_question()), "tools": [_tool()], "tool_choice": "auto"}),
        "result": _example(
            "With the result of a call",
            {**_request(_question(), _calling(), _result()), "tools": [_tool()]},
        ),
    }


def with_curl_samples(path: str, operation: Json) -> Json:
    """Return an operation with its examples of requests as commands too: `x-codeSamples`, which Redoc shows."""
    examples = operation["requestBody"]["content"]["application/json"]["examples"]
    samples = [
        {"lang": "Shell", "label": f"curl: {example['summary']}", "source": _curl(path, example["value"])}
        for example in examples.values()
    ]
    return {**operation, "x-codeSamples": samples}


def _curl(path: str, request: Json) -> str:
    body = shlex.quote(json.dumps(request, indent=2, ensure_ascii=False))
    unbuffered = " -N" if request.get("stream") else ""
    return f"curl -sS{unbuffered} {_ADDRESS}{path} -H 'Content-Type: application/json' -d {body}"


def answer_examples() -> Json:
    """Return whole answers, by name."""
    text = {"role": "assistant", "content": "Hello! How can I help you today?"}
    return {
        "text": _example("Text", _completion(text, "stop", (4, 9))),
        "call": _example("A call", _completion(_calling(), "tool_calls", (9, 12))),
    }


def stream_example() -> Json:
    """Return one event of a stream."""
    chunk = (
        '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1767225600,"model":"devstral",'
        '"choices":[{"index":0,"delta":{"content":"Hello"},"logprobs":null,"finish_reason":null}]}'
    )
    return {"chunk": _example("A chunk", {"data": chunk}), "end": _example("The end", {"data": "[DONE]"})}


def _example(summary: str, value: Any) -> Json:
    return {"summary": summary, "value": value}


def _request(*messages: Json) -> Json:
    return {"model": "devstral", "messages": list(messages)}


def _user(text: str) -> Json:
    return {"role": "user", "content": text}


def _question() -> Json:
    return _user("What is the weather in Paris?")


def _calling() -> Json:
    function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    call = {"id": _CALL_ID, "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _result() -> Json:
    return {"role": "tool", "tool_call_id": _CALL_ID, "content": "18 °C, sunny"}


def _tool() -> Json:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {"type": "function", "function": {"name": "get_weather", "parameters": parameters}}


def _completion(message: Json, reason: str, tokens: tuple[int, int]) -> Json:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1767225600,
        "model": "devstral",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)},
    }
