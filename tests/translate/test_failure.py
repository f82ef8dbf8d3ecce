"""Error bodies of every shape seen, as the one shape that clients parse."""

import json

import pytest

from proxy.errors import UpstreamProtocolError, error_body
from proxy.translate.failure import error_in_answer, translate_failure

CONTEXT = (
    "This model's maximum context length is 4096 tokens. However, your prompt contains 5004 input tokens,"
    " which exceeds this limit even without any output tokens. Please reduce the length of the input prompt."
)
ALTERNATION = "After the optional system message, conversation roles must alternate user/assistant/user/assistant/..."
VLLM_DUMP = (
    "19 validation errors:\n"
    "  {'type': 'string_type', 'loc': 'body.messages.0.ChatCompletionDeveloperMessageParam.content',"
    " 'msg': 'Input should be a valid string', 'input': 'None'}\n"
    "  {'type': 'literal_error', 'loc': 'body.messages.0.role', 'msg': \"Input should be 'system'\","
    " 'input': 'my secret', 'ctx': {'expected': \"'system'\"}}\n" + "  {'type': 'x'}\n" * 17
)
PYDANTIC_DUMP = (
    "7 validation errors for ValidatorIterator\n"
    "0.ChatCompletionContentPartTextParam.type\n"
    "  Input should be 'text' [type=literal_error, input_value='my secret', input_type=str]\n"
    "    For further information visit https://errors.pydantic.dev/2.14/v/literal_error\n"
)


def rejected(status, body):
    return translate_failure(status, body if isinstance(body, bytes) else json.dumps(body).encode())


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (
            400,
            {"error": {"message": "top_p must be in (0, 1]", "type": "BadRequestError", "param": "top_p", "code": 400}},
            ("top_p must be in (0, 1]", "invalid_request_error", "top_p", 400),
        ),
        (
            404,
            {"error": {"message": "No model `x`.", "type": "NotFoundError", "param": "model", "code": 404}},
            ("No model `x`.", "not_found_error", "model", 404),
        ),
        (404, {"detail": "Not Found"}, ("Not Found", "not_found_error", None, None)),
        (
            422,
            {"detail": [{"loc": ["body", "n"], "msg": "Input should be less", "type": "x"}, {"loc": "y", "msg": "z"}]},
            ("body.n: Input should be less\ny: z", "invalid_request_error", None, None),
        ),
        (
            400,
            {"object": "error", "message": "Bad order", "type": "invalid_request_message_order", "code": "3230"},
            ("Bad order", "invalid_request_error", None, "3230"),
        ),
        (
            422,
            {"object": "error", "message": {"detail": [{"loc": ["body", "x"], "msg": "Extra", "type": "t"}]}},
            ("body.x: Extra", "invalid_request_error", None, None),
        ),
        (401, {"message": "Unauthorized", "request_id": "1"}, ("Unauthorized", "authentication_error", None, None)),
        (403, {"error": "forbidden"}, ("forbidden", "permission_error", None, None)),
        (500, {"error": {"message": "Internal error", "code": 500}}, ("Internal error", "server_error", None, 500)),
        (
            502,
            b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>",
            ("502 Bad Gateway", "server_error", None, None),
        ),
        (503, b"<p>no  healthy</p> <script>x</script>upstream", ("no healthy upstream", "server_error", None, None)),
        (503, b"no healthy upstream", ("no healthy upstream", "server_error", None, None)),
        (500, b"", ("The model server answered with status 500.", "server_error", None, None)),
        (500, b"{}", ("The model server answered with status 500.", "server_error", None, None)),
        (500, b'{"detail": null}', ("The model server answered with status 500.", "server_error", None, None)),
        (400, b"[1]", ("The model server answered with status 400.", "invalid_request_error", None, None)),
    ],
)  # fmt: skip
def test_every_shape_becomes_one(status, body, expected):
    error = rejected(status, body)

    assert (error.message, error.kind, error.param, error.code) == expected
    assert error.status == status


@pytest.mark.parametrize(
    "text",
    [
        CONTEXT,
        "prompt is longer than the maximum model length of 4096",
        "Please reduce the length of the messages",
    ],
)
def test_a_prompt_that_is_too_long_has_the_code_that_agents_act_on(text):
    assert rejected(400, {"error": {"message": text, "code": 400}}).code == "context_length_exceeded"


def test_too_many_requests_have_openai_s_code():
    error = rejected(429, {"error": {"message": "slow down", "code": 429}})

    assert (error.kind, error.code) == ("rate_limit_error", "rate_limit_exceeded")


@pytest.mark.parametrize("text", [ALTERNATION, "Jinja Exception: no", "Tool call IDs should be alphanumeric strings"])
def test_a_template_s_refusal_is_the_client_s_fault(text):
    error = rejected(500, {"error": {"code": 500, "message": text, "type": "server_error"}})

    assert (error.status, error.kind, error.code) == (400, "invalid_request_error", 400)


@pytest.mark.parametrize("status", [200, 204, 302, 307, 399, 600])
def test_a_status_that_is_no_error_is_a_bad_gateway(status):
    assert rejected(status, b"").status == 502


@pytest.mark.parametrize(
    ("dump", "lines"),
    [
        (
            VLLM_DUMP,
            [
                "body.messages.0.ChatCompletionDeveloperMessageParam.content: Input should be a valid string",
                "body.messages.0.role: Input should be 'system'",
                "(and 17 more validation errors)",
            ],
        ),
        (
            PYDANTIC_DUMP,
            ["0.ChatCompletionContentPartTextParam.type: Input should be 'text'", "(and 6 more validation errors)"],
        ),
        ("1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed",
         ["Unsupported Media Type: Only 'application/json' is allowed"]),
    ],
)  # fmt: skip
def test_a_dump_of_validation_errors_is_a_few_lines_without_the_client_s_text(dump, lines):
    message = rejected(400, {"error": {"message": dump}}).message

    assert message.splitlines() == lines
    assert "secret" not in message


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("Unexpected role 'user' after role 'tool'", "bridge=always"),
        (ALTERNATION, "vllm-hf-template"),
        ("Tool call id was x but must be a-z, A-Z, 0-9, with a length of 9.", "id_mode=hash9"),
        ('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set', "start vLLM with"),
    ],
)
def test_a_known_refusal_names_what_helps(text, advice):
    message = rejected(400, {"error": {"message": text}}).message

    assert message.startswith(text)
    assert advice in message


@pytest.mark.parametrize("text", ["x" * 100_000, "é👋" * 50_000, CONTEXT + "x" * 100_000])
def test_a_message_is_never_long(text):
    error = rejected(400, {"error": {"message": text, "param": text, "code": text}})

    assert len(error.message.encode()) <= 2048
    assert len(error_body(error)) < 6000


def test_a_lone_surrogate_is_no_message():
    assert rejected(400, b'{"error": {"message": "\\ud800"}}').status == 400


def test_an_event_that_is_an_error_says_what_it_says():
    error = error_in_answer(b'{"error": {"message": "EngineCore died", "type": "InternalServerError", "code": 500}}')

    assert (error.status, error.kind, error.message) == (500, "server_error", "EngineCore died")
    assert error_in_answer(b'{"object": "error", "message": "no"}').status == 500


@pytest.mark.parametrize("payload", [b"{}", b"[]", b"1", b'{"choices": null}', b'{"type": "ping"}'])
def test_an_event_that_is_neither_an_answer_nor_an_error_is_a_protocol_error(payload):
    assert isinstance(error_in_answer(payload), UpstreamProtocolError)
