"""Anthropic's SDK against a real vLLM behind the proxy: whole and streamed answers, tools, and counts of tokens."""

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.live.bench import MODES, Bench

pytestmark = pytest.mark.live
BENCH_MODES = tuple(MODES)

TIMEOUT_S = 120
GREETING = "Hello! How can I help you today?"
AFTER_RESULT = "It is sunny in Zürich, 25 °C – enjoy 👋"


def tool(name: str, description: str, properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"name": name, "description": description, "input_schema": schema}


TOOLS = [
    tool("get_weather", "Current weather of a city", {"city": {"type": "string"}}),
    tool("get_time", "Current time", {}),
]
QUESTION = {"role": "user", "content": "What is the weather?"}


@pytest.fixture
def client(bench: Bench) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=bench.proxy, api_key="none", timeout=TIMEOUT_S, max_retries=0) as client:
        yield client


@pytest.fixture(params=["whole", "streamed"])
def ask(client: anthropic.Anthropic, request: pytest.FixtureRequest) -> Any:
    """Ask for one message, in either of the two ways."""

    def asked(*messages: Any, **more: Any) -> anthropic.types.Message:
        body = {"model": "devstral", "max_tokens": 200, "messages": list(messages)} | more
        if request.param == "whole":
            return client.messages.create(**body)
        with client.messages.stream(**body) as stream:
            return stream.get_final_message()

    return asked


def test_a_greeting(ask):
    message = ask({"role": "user", "content": "Hi"}, system=[{"type": "text", "text": "Be brief."}])

    assert [block.text for block in message.content] == [GREETING]
    assert message.stop_reason == "end_turn"
    assert message.usage.input_tokens > 0
    assert message.usage.output_tokens > 0


def test_a_call_and_its_result(ask):
    first = ask(QUESTION, tools=TOOLS)
    (call,) = [block for block in first.content if block.type == "tool_use"]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "sunny"}]}
    second = ask(
        *(QUESTION, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}),
        tools=TOOLS,
    )

    assert (call.name, call.input, first.stop_reason) == ("get_weather", {"city": "Paris"}, "tool_use")
    assert (second.content[-1].text, second.stop_reason) == (AFTER_RESULT, "end_turn")


def test_a_limit_and_a_sequence_that_end_an_answer(ask):
    cut = ask({"role": "user", "content": "Hi"}, max_tokens=3)
    stopped = ask({"role": "user", "content": "Hi"}, stop_sequences=["How can"])

    assert cut.stop_reason == "max_tokens"
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "How can")
    assert stopped.content[0].text.rstrip() == "Hello!"


@pytest.mark.parametrize("tools", [[], TOOLS], ids=["plain", "tools"])
def test_the_count_is_what_the_answer_says_it_was(client, tools):
    prompt = {"model": "devstral", "messages": [QUESTION], "system": "Be brief.", "tools": tools}
    counted = client.messages.with_raw_response.count_tokens(**prompt)
    message = client.messages.create(max_tokens=50, **prompt)

    assert counted.headers["x-proxy-token-count"] == "exact"
    usage = message.usage
    assert counted.parse().input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_a_context_that_is_full_is_told_in_anthropics_words(client):
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.create(
            model="devstral", max_tokens=10, messages=[{"role": "user", "content": "word " * 40_000}]
        )

    assert refused.value.body["error"]["message"].startswith("prompt is too long: ")
