"""What a whole chat completion becomes, and the words for errors."""

import json

import pytest
from anthropic.types import ErrorResponse, Message

from proxy import errors
from proxy.errors import ProxyError, UpstreamProtocolError, UpstreamRejected
from proxy.fronts.messages_answer import whole_message
from proxy.fronts.messages_errors import error_event, error_object
from tests.fakes import completion

ANTHROPICS_TYPES = {
    "invalid_request_error", "authentication_error", "billing_error", "permission_error", "not_found_error",
    "request_too_large", "rate_limit_error", "timeout_error", "api_error", "overloaded_error",
}  # fmt: skip


def message(*, finish="stop", stopped_by=None, usage=None, stop=(), **said):
    answer = completion()
    answer["choices"][0] |= {
        "message": {"role": "assistant", **said},
        "finish_reason": finish,
        "stop_reason": stopped_by,
    }
    if usage:
        answer["usage"] = usage
    body = json.loads(whole_message(json.dumps(answer).encode(), "asked", stop))
    Message.model_validate(body)
    return body


def call(arguments, name="f", call_id="Ab1Cd2Ef3"):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_a_text():
    assert message(content="Hello") == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "devstral",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 3,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 2,
        },
    }


def test_a_thought_comes_first_then_text_then_calls():
    said = message(
        content="I look.", reasoning="Hm.", reasoning_content="Hm.", tool_calls=[call('{"a": 1}')], finish="tool_calls"
    )

    assert said["stop_reason"] == "tool_use"
    assert said["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": "devstral-proxy"},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "Ab1Cd2Ef3", "name": "f", "input": {"a": 1}},
    ]


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ("", {}),
        (" ", {}),
        (None, {}),
        ("{}", {}),
        ({"a": 1}, {"a": 1}),
        ({"n": -(10**4298)}, {"n": -(10**4298)}),
        ('{"n": 123456789012345678901234567890}', {"n": 123456789012345678901234567890}),
        ('{"a":', {"_raw_arguments": '{"a":'}),
        ("[1]", {"_raw_arguments": "[1]"}),
    ],
)
def test_arguments_are_an_object_and_nothing_of_them_is_lost(arguments, given):
    (block,) = message(content=None, tool_calls=[call(arguments)], finish="tool_calls")["content"]

    assert block["input"] == given


@pytest.mark.parametrize(
    ("finish", "stopped_by", "reason", "sequence"),
    [
        ("stop", None, "end_turn", None),
        ("stop", "END", "stop_sequence", "END"),
        ("stop", "other", "end_turn", None),
        ("stop", 2, "end_turn", None),
        ("length", None, "max_tokens", None),
        ("tool_calls", None, "tool_use", None),
        ("content_filter", None, "refusal", None),
        ("something new", None, "end_turn", None),
    ],
)
def test_why_it_ended(finish, stopped_by, reason, sequence):
    said = message(content="x", finish=finish, stopped_by=stopped_by, stop=("END",))

    assert (said["stop_reason"], said["stop_sequence"]) == (reason, sequence)


def test_nothing_said_is_no_block():
    assert message(content=None)["content"] == []
    assert message(content="")["content"] == []


def test_parts_and_refusals_are_text():
    assert message(content=[{"type": "text", "text": "a"}, {"type": "image"}])["content"][0]["text"] == "a"
    assert message(content=None, refusal="No.")["content"][0]["text"] == "No."


def test_cached_tokens_are_not_among_the_input_tokens():
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 8}}

    assert message(content="x", usage=usage)["usage"] == {
        "input_tokens": 2,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 8,
        "output_tokens": 2,
    }


@pytest.mark.parametrize("count", [None, -1, "9", 1.5, 10**30, [], True])
def test_a_counter_that_is_none_is_zero(count):
    usage = {"prompt_tokens": 3, "completion_tokens": count, "prompt_tokens_details": {"cached_tokens": count}}

    used = message(content="x", usage=usage)["usage"]
    assert (used["input_tokens"], used["output_tokens"], used["cache_read_input_tokens"]) == (3, 0, 0)
    assert used["output_tokens"] is not False


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"choices":[]}', b'{"choices":[{"index":1}]}', b'{"choices":5}'])
def test_what_is_no_completion_is_an_error(body):
    with pytest.raises(UpstreamProtocolError):
        whole_message(body, "", ())


# --- errors


def said(error):
    body = json.loads(error_object(error, "req_1"))
    if body["error"]["type"] != "request_too_large":  # documented, but not among the SDK's
        ErrorResponse.model_validate(body)
    return body


def classes(base=ProxyError):
    return [base, *(found for child in base.__subclasses__() for found in classes(child))]


@pytest.mark.parametrize(
    "kind", [kind for kind in classes() if kind.__module__ == errors.__name__ and kind is not UpstreamRejected]
)
def test_every_error_has_one_of_anthropics_types(kind):
    body = said(kind("What is wrong."))

    assert body["error"]["type"] in ANTHROPICS_TYPES
    assert body["error"]["message"] == "What is wrong."
    assert (body["type"], body["request_id"]) == ("error", "req_1")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "request_too_large"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)
def test_a_status_has_its_type(status, kind):
    assert said(UpstreamRejected(status, "x", kind="whatever"))["error"]["type"] == kind


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        ({"message": "m", "type": "server_error", "code": "upstream_timeout"}, "timeout_error", "m"),
        ({"message": "m", "type": "server_error", "code": "overloaded"}, "overloaded_error", "m"),
        ({"message": "m", "type": "server_error", "code": 500}, "api_error", "m"),
        ({"message": "m", "type": "invalid_request_error", "code": None}, "invalid_request_error", "m"),
        ({"message": 5, "type": [], "code": {}}, "api_error", "The answer broke off."),
        ({}, "api_error", "The answer broke off."),
    ],
)
def test_an_error_inside_a_stream(error, kind, text):
    name, data = error_event(error, "req_1").removesuffix(b"\n\n").split(b"\n")
    body = json.loads(data.removeprefix(b"data: "))

    assert name == b"event: error"
    assert body == {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_1"}


LIMIT = "This model's maximum context length is 4096 tokens. However, "
TOO_LONG = LIMIT + "your prompt contains 5004 input tokens, which exceeds this limit even without any output tokens."
AT_LEAST = LIMIT + "your prompt contains at least 4097 input tokens, which exceeds this limit."
BOTH = LIMIT + "you requested 2000 output tokens and your prompt contains at least 3504 input tokens."


@pytest.mark.parametrize(
    ("message", "start"),
    [
        (TOO_LONG, "prompt is too long: 5004 tokens > 4096 maximum. This model's"),
        (AT_LEAST, "prompt is too long: 4097 tokens > 4096 maximum. This model's"),
        (BOTH, "input length and `max_tokens` exceed context limit: 3504 + 2000 > 4096. This model's"),
        ("Please reduce the length", "prompt is too long. Please reduce the length"),
    ],
)
def test_a_context_that_is_full_is_said_in_words_that_claude_code_reads(message, start):
    error = UpstreamRejected(400, message, kind="invalid_request_error", code="context_length_exceeded")

    assert said(error)["error"]["message"].startswith(start)
