"""
Claude Code, as it is installed from npm, uses the proxy for a whole session; `make test-clients` sets it up.

What is compared is what Claude Code itself reports, and what the model server was asked.
"""

import json

import pytest

from tests.clients.answers import begun, call
from tests.clients.claude_code import ANSWERS, FINAL_TEXT, KEY, MARKER, claude_code
from tests.fakes import Do, ScriptedUpstream, completion, text_chunk, whole

pytestmark = pytest.mark.clients


def refusal(message):
    return [whole({"error": {"message": message, "type": "BadRequestError", "param": None, "code": 400}}, 400)]


LIMIT = "This model's maximum context length is 131072 tokens. However, "
TOO_LONG = LIMIT + "your prompt contains 140000 input tokens, which exceeds this limit even without any output tokens."
TOO_MANY = LIMIT + "you requested 32000 output tokens and your prompt contains at least 120000 input tokens."


async def test_a_session_with_tools_leads_to_the_final_text(start_proxy, tmp_path):
    async with ScriptedUpstream(*ANSWERS) as upstream:
        proxy = await start_proxy(upstream.url)
        ended = await claude_code(proxy.url, tmp_path)

    assert (ended.code, ended.result["is_error"], ended.result["result"]) == (0, False, FINAL_TEXT)
    assert [block["input"]["command"] for block in ended.blocks("tool_use")] == [
        "ls && cat hello.py",
        "cat hello.py",
        "wc -l hello.py",
    ]
    assert all(not block["is_error"] for block in ended.blocks("tool_result"))
    last = upstream.requests[-1].json["messages"]
    assert [message["role"] for message in last[-5:]] == ["assistant", "tool", "assistant", "tool", "tool"]
    assert [message["tool_call_id"] for message in last if message["role"] == "tool"] == [
        "Ab1Cd2Ef3",
        "Gh4Ij5Kl6",
        "Mn7Op8Qr9",
    ]
    assert [MARKER in message["content"] for message in last if message["role"] == "tool"] == [True, True, False]


async def test_nothing_of_anthropics_own_goes_to_the_model_server(start_proxy, tmp_path):
    async with ScriptedUpstream(*ANSWERS) as upstream:
        proxy = await start_proxy(upstream.url)
        await claude_code(proxy.url, tmp_path)

    line = next(line for line in proxy.log.lines("request") if line["path"] == "/v1/messages")
    assert line["rules"][:2] == ["foreign_members_dropped", "billing_header_dropped"]
    for request in upstream.requests:
        body = request.json
        assert set(body) <= {"model", "messages", "tools", "max_tokens", "user", "stream", "stream_options"}
        assert "x-anthropic" not in json.dumps(body)
        assert "cache_control" not in json.dumps([body["messages"], body["tools"]])
        assert body["messages"][0]["role"] == "system"
        assert KEY.encode() not in request.raw + request.body


async def test_an_answer_that_breaks_off_at_once_is_asked_for_again_and_the_session_goes_on(start_proxy, tmp_path):
    async with ScriptedUpstream([begun(text_chunk("I look")), Do.CLOSE], [whole(completion(FINAL_TEXT))]) as upstream:
        proxy = await start_proxy(upstream.url)
        ended = await claude_code(proxy.url, tmp_path)

    assert (ended.code, ended.result["result"]) == (0, FINAL_TEXT)
    assert [request.json.get("stream", False) for request in upstream.requests] == [True, False]


async def test_half_a_call_does_not_run(start_proxy, tmp_path):
    half = begun(text_chunk("I look."), call(0, "Bash", '{"command": "touch ran'))
    async with ScriptedUpstream([half, Do.CLOSE], [whole(completion(FINAL_TEXT))]) as upstream:
        proxy = await start_proxy(upstream.url)
        ended = await claude_code(proxy.url, tmp_path)

    assert ended.blocks("tool_use") == []
    assert not (tmp_path / "workspace/ran").exists()
    assert ended.result["is_error"] is True
    assert "broke off its answer" in ended.result["result"]


async def test_where_the_limit_is_too_high_fewer_tokens_are_asked_for(start_proxy, tmp_path):
    async with ScriptedUpstream(refusal(TOO_MANY), ANSWERS[-1]) as upstream:
        proxy = await start_proxy(upstream.url)
        ended = await claude_code(proxy.url, tmp_path)

    first, second = [request.json["max_tokens"] for request in upstream.requests]
    assert ended.result["result"] == FINAL_TEXT
    assert first == 32000
    assert second <= 131072 - 120000


async def test_where_the_prompt_is_too_long_it_says_so_in_figures(start_proxy, tmp_path):
    async with ScriptedUpstream(refusal(TOO_LONG)) as upstream:
        proxy = await start_proxy(upstream.url)
        ended = await claude_code(proxy.url, tmp_path)

    assert ended.result["is_error"] is True
    assert ended.result["result"].startswith("Prompt is too long")
    assert "140000" in ended.result["result"]


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({"ANTHROPIC_API_KEY": KEY}, None),
        ({"ANTHROPIC_AUTH_TOKEN": KEY}, None),
        ({"ANTHROPIC_API_KEY": "sk-another"}, 401),
    ],
    ids=["x-api-key", "bearer", "wrong"],
)
async def test_its_key_is_the_proxys(start_proxy, tmp_path, settings, status):
    async with ScriptedUpstream(ANSWERS[-1]) as upstream:
        proxy = await start_proxy(upstream.url, api_keys=KEY)
        ended = await claude_code(proxy.url, tmp_path, **settings)

    assert ended.result["api_error_status"] == status
    assert ended.result["is_error"] == (status is not None)
    assert len(upstream.requests) == (status is None)
