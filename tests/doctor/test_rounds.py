"""What the doctor says of tool calls and thoughts, with and without vLLM's parsers."""

import pytest

from tests.doctor.vllm import CHAT, LEAKED, Vllm, answer, asks_for_call, chat_template, leaking, refusal, texts_of
from tests.fakes import STREAM_END, STREAM_HEAD, event, text_chunk, whole

FLAGS = "vllm serve … --enable-auto-tool-choice --tool-call-parser mistral"
ROUNDS = ("tool call", "tool call, streamed", "tool result")


def statuses(checks, *names):
    return [checks[name]["status"] for name in names]


async def test_calls_that_leak_as_text_are_told_with_the_flags_and_repaired(examine):
    async with Vllm({CHAT: leaking}) as vllm:
        code, checks = await examine(vllm.url)

    assert code == 0
    assert (checks["tool parser"]["status"], checks["tool parser"]["fix"]) == ("warning", [FLAGS])
    assert statuses(checks, *ROUNDS) == ["ok", "ok", "ok"]
    assert "recover_leaked_calls" in texts_of(checks["tool call"])
    assert "recover_leaked_calls" in texts_of(checks["tool call, streamed"])


async def test_calls_that_leak_and_are_not_repaired_are_a_failure(examine):
    async with Vllm({CHAT: leaking}) as vllm:
        code, checks = await examine(vllm.url, "--option", "recover_tool_calls=off")

    assert code == 1
    assert statuses(checks, "tool parser", *ROUNDS) == ["warning", "failed", "failed", "skipped"]
    assert checks["tool call"]["says"].startswith("the call stays in the text")
    assert checks["tool call"]["fix"] == [FLAGS]


async def test_a_refusal_of_tools_is_told_with_the_flags_that_vllm_names(examine):
    """As vLLM 0.32 words it (renderers/online_renderer.py), with a chat template."""
    message = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'

    def refusing(request):
        return refusal(message) if request.json.get("tools") else answer(request)

    async with Vllm({"/tokenize": chat_template, CHAT: refusing}) as vllm:
        code, checks = await examine(vllm.url)

    assert code == 1
    assert checks["tool parser"]["fix"] == [FLAGS]
    assert message in checks["tool parser"]["says"]
    assert statuses(checks, *ROUNDS) == ["skipped"] * 3
    assert checks["reasoning parser"]["status"] == "skipped"


async def test_a_grammar_that_the_tokenizers_library_broke_is_told_with_the_version_that_works(examine):
    message = "GrammarFactory.get_lark_from_jinja() missing 1 required positional argument: 'force_tool_names'"
    async with Vllm({CHAT: refusal(message)}) as vllm:
        code, checks = await examine(vllm.url)

    assert code == 1
    assert checks["tool parser"]["fix"] == ["pip install 'mistral-common<1.13', where vLLM runs"]


async def test_a_model_that_calls_nothing_is_a_failure_and_its_words_are_not_shown(examine):
    async with Vllm({CHAT: lambda request: answer(request, text="I am a teapot.")}) as vllm:
        code, checks = await examine(vllm.url)

    assert code == 1
    assert statuses(checks, "tool parser", *ROUNDS) == ["skipped", "failed", "failed", "skipped"]
    assert "no call came" in checks["tool call"]["says"]
    assert "teapot" not in texts_of(checks)


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        ({"name": "no_such_tool", "arguments": "{}"}, "'no_such_tool', which was not offered"),
        ({"name": "get_weather", "arguments": '{"city": '}, "its arguments are not JSON"),
    ],
)
async def test_a_call_that_a_client_cannot_use_is_a_failure(call, problem, examine):
    def calling(request):
        calls = [{"id": "abcdefgh1", "type": "function", "function": call}]
        message = {"role": "assistant", "content": None, "tool_calls": calls}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        return whole({"id": "1", "object": "chat.completion", "created": 1, "model": "devstral", "choices": [choice]})

    async with Vllm({CHAT: calling}) as vllm:
        code, checks = await examine(vllm.url)

    assert code == 1
    assert problem in checks["tool call"]["says"]


async def test_a_stream_that_is_cut_is_a_failure(examine):
    def cutting(request):
        if request.json.get("stream"):
            return [STREAM_HEAD, event(text_chunk("", role="assistant")), STREAM_END]
        return answer(request, call=asks_for_call(request))

    async with Vllm({CHAT: cutting}) as vllm:
        code, checks = await examine(vllm.url)

    assert code == 1
    assert statuses(checks, *ROUNDS) == ["ok", "failed", "ok"]
    assert checks["tool call, streamed"]["says"].startswith("a client gets an error: ")


async def test_a_result_that_is_refused_is_a_failure(examine):
    def refusing(request):
        has_result = request.json["messages"][-1]["role"] == "tool"
        return refusal("Unexpected role 'tool'") if has_result else answer(request, call=asks_for_call(request))

    async with Vllm({CHAT: refusing}) as vllm:
        code, checks = await examine(vllm.url)

    assert code == 1
    assert checks["tool result"]["says"] == "the turn with the result is refused (400): Unexpected role 'tool'"


async def test_the_result_goes_back_under_the_id_of_the_call(examine):
    async with Vllm() as vllm:
        await examine(vllm.url)
        [turn] = [r.json["messages"] for r in vllm.sent_to(CHAT) if r.json["messages"][-1]["role"] == "tool"]

    assert turn[1]["tool_calls"][0]["id"] == turn[2]["tool_call_id"]


# --- thoughts


async def test_thoughts_that_come_as_text_are_told_with_the_flag(examine):
    def thinking(request):
        return answer(request, text="[THINK]Let me see.[/THINK]42", call=asks_for_call(request))

    async with Vllm({CHAT: thinking}) as vllm:
        code, checks = await examine(vllm.url)

    assert code == 0
    assert checks["reasoning parser"]["status"] == "warning"
    assert checks["reasoning parser"]["fix"] == ["vllm serve … --reasoning-parser mistral"]


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
async def test_thoughts_that_come_as_such_are_well(field, examine):
    async with Vllm({CHAT: lambda request: answer(request, call=asks_for_call(request), **{field: "Hm."})}) as vllm:
        _, checks = await examine(vllm.url)

    assert checks["reasoning parser"]["status"] == "ok"


# --- the demo, and a proxy


async def test_the_demo_is_well(demo, examine):
    code, checks = await examine(demo.url)

    assert code == 0
    assert statuses(checks, *ROUNDS) == ["ok", "ok", "ok"]


async def test_a_proxy_is_known_and_looked_through(demo, start_proxy, examine):
    proxy = await start_proxy(demo.url)
    code, checks = await examine(proxy.url)

    assert code == 0
    assert checks["server"]["says"].startswith("this is a Devstral Proxy ")
    assert statuses(checks, "health", *ROUNDS) == ["ok"] * 4
    assert checks["tokenizer"]["says"] == "a Devstral Proxy asks its upstreams itself"


async def test_a_missing_tool_parser_is_seen_through_a_proxy(start_proxy, examine):
    async with Vllm({CHAT: leaking}) as vllm:
        proxy = await start_proxy(vllm.url)
        code, checks = await examine(proxy.url)

    assert code == 0
    assert (checks["tool parser"]["status"], checks["tool parser"]["fix"]) == ("warning", [FLAGS])
    assert checks["tool parser"]["says"].startswith("the vLLM behind it ")
    assert LEAKED not in texts_of(checks)


async def test_a_proxy_whose_upstream_is_gone_is_not_ready(start_proxy, examine, unused_port):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}")
    code, checks = await examine(proxy.url)

    assert code == 1
    assert checks["health"]["says"] == "/readyz answers 503: it has no upstream to work with"
    assert checks["health"]["fix"] == ["devstral-proxy doctor UPSTREAM"]


async def test_a_proxy_that_wants_a_key_is_told_so(demo, start_proxy, examine):
    proxy = await start_proxy(demo.url, auth="required", api_keys="sk-1")
    code, checks = await examine(proxy.url)

    assert code == 1
    assert checks["api key"]["says"] == "a key is asked for (401), and none was sent"
