"""POST /v1/messages/count_tokens: the tokenizer's number, or one that says it is an estimate, or an error."""

import anthropic
import pytest

from proxy.config import Tier
from proxy.edge import count
from proxy.upstream.answer import Limits
from tests.edge.test_messages import QUESTION, TOOLS, client_of
from tests.fakes import ScriptedUpstream, whole

COUNTED = whole({"count": 321, "max_model_len": 4096, "tokens": list(range(321)), "token_strs": None})


def asked(proxy, **more):
    return proxy.session.post(
        f"{proxy.url}/v1/messages/count_tokens", json={"model": "devstral", "messages": QUESTION} | more
    )


async def test_the_replicas_tokenizer_counts_messages_and_tools_as_the_model_gets_them(start_proxy):
    async with ScriptedUpstream([COUNTED]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with client_of(proxy) as client:
            history = [
                *QUESTION,
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}}],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"}]},
            ]
            counted = await client.messages.count_tokens(
                model="devstral", messages=history, tools=TOOLS, system="Be brief."
            )

    (request,) = upstream.requests
    assert counted.input_tokens == 321
    assert request.target == "/tokenize"
    assert set(request.json) == {"model", "messages", "tools"}
    assert [message["role"] for message in request.json["messages"]] == ["system", "user", "assistant", "tool"]
    assert len(request.json["messages"][3]["tool_call_id"]) == 9


async def test_it_says_whether_it_is_the_tokenizers_and_charges_nothing(start_proxy):
    async with ScriptedUpstream([COUNTED]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with asked(proxy) as response:
            assert await response.json() == {"input_tokens": 321}
        line = await proxy.log.line()
        async with proxy.session.get(f"{proxy.url}/metrics") as metrics:
            text = await metrics.text()

    assert response.headers["x-proxy-token-count"] == "exact"
    assert all(line[name] is not None for name in ("read_ms", "translate_ms", "sent_ms", "upstream_ms"))
    assert (line["path"], line["tokens_in"], line["status"]) == ("/v1/messages/count_tokens", None, 200)
    assert 'devstral_proxy_tokens_total{direction="in"} 0.0' in text
    assert 'devstral_proxy_requests_total{route="/v1/messages/count_tokens",status="2xx"} 1.0' in text
    assert proxy.edge.pool.replicas[0].in_flight == 0


@pytest.mark.parametrize(
    "answer",
    [
        whole({"detail": "Not Found"}, 404),
        whole({"detail": "Method Not Allowed"}, 405),
        whole({"tokens": [1, 2, 3]}),
        whole(b"<h1>404</h1>", 404, content_type="text/html"),
        whole(b"", 404),
    ],
    ids=["no route", "another method", "llama.cpp", "a page", "nothing"],
)
async def test_a_server_that_cannot_count_is_made_up_for_by_an_estimate_that_is_called_one(start_proxy, answer):
    async with ScriptedUpstream([answer]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with asked(proxy, messages=[{"role": "user", "content": "x" * 4000}]) as response:
            body = await response.json()

    assert response.headers["x-proxy-token-count"] == "estimate"
    assert 1000 <= body["input_tokens"] <= 1100


async def test_a_model_that_is_not_there_is_no_reason_to_estimate(start_proxy):
    refusal = {
        "error": {"message": "The model `x` does not exist.", "type": "NotFoundError", "param": None, "code": 404}
    }
    async with ScriptedUpstream([whole(refusal, 404)]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with client_of(proxy) as client:
            with pytest.raises(anthropic.NotFoundError):
                await client.messages.count_tokens(model="x", messages=QUESTION)


async def test_a_refusal_is_passed_on(start_proxy):
    refusal = {"error": {"message": "Unexpected role", "type": "BadRequestError", "param": None, "code": 400}}
    async with ScriptedUpstream([whole(refusal, 400)]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with asked(proxy) as response:
            body = await response.json()

    assert response.status == 400
    assert body["error"] == {"type": "invalid_request_error", "message": "Unexpected role"}
    assert proxy.edge.pool.replicas[0].in_flight == 0


async def test_a_server_that_is_away_is_an_error_and_another_one_is_asked_first(start_proxy, unused_port):
    gone = f"http://127.0.0.1:{unused_port}"
    async with ScriptedUpstream([COUNTED]) as upstream:
        alone = await start_proxy(gone)
        both = await start_proxy(f"{gone},{upstream.url}")
        async with asked(alone) as response:
            body = await response.json()
        numbers = []
        for _ in range(4):
            async with asked(both) as counted:
                numbers.append(await counted.json())

    assert (response.status, body["error"]["type"]) == (502, "api_error")
    assert "x-proxy-token-count" not in response.headers
    assert numbers == [{"input_tokens": 321}] * 4


async def test_a_server_that_does_not_answer_in_time_is_an_error(start_proxy, monkeypatch):
    monkeypatch.setattr(count, "_LIMITS", Limits(first_byte_s=0.05, between_bytes_s=0.05))
    async with ScriptedUpstream([60.0]) as upstream:
        proxy = await start_proxy(upstream.url, max_attempts=1)
        async with asked(proxy) as response:
            body = await response.json()

    assert (response.status, body["error"]["type"]) == (504, "timeout_error")


async def test_what_is_no_request_is_refused(start_proxy):
    async with ScriptedUpstream([]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with asked(proxy, messages=[]) as response:
            body = await response.json()

    assert response.status == 400
    assert body["error"]["message"] == "messages: at least one message is required"
    assert upstream.requests == []


async def test_the_key_and_the_model_are_looked_at(start_proxy):
    async with ScriptedUpstream([COUNTED]) as upstream:
        tier = Tier(models=("other",))
        proxy = await start_proxy(upstream.url, api_keys="right", tiers={"default": tier})
        async with client_of(proxy, api_key="wrong") as client:
            with pytest.raises(anthropic.AuthenticationError):
                await client.messages.count_tokens(model="devstral", messages=QUESTION)
            with pytest.raises(anthropic.PermissionDeniedError):
                await client.with_options(api_key="right").messages.count_tokens(model="devstral", messages=QUESTION)

    assert upstream.requests == []
