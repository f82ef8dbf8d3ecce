"""The openai SDK against a real vLLM behind the proxy: whole and streamed, blocking and async."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from tests.live.bench import MODES, Bench

pytestmark = pytest.mark.live
BENCH_MODES = tuple(MODES)

TIMEOUT_S = 120
GREETING = "Hello! How can I help you today?"
THOUGHT = "Let me see."
AFTER_RESULT = "It is sunny in Zürich, 25 °C – enjoy 👋"

#: Where vLLM's reasoning parser tells thinking from speaking, or the marks are left for the proxy.
#: v11 has no tokens for it, and in template mode vLLM 0.32 leaves the marks out or puts them behind the answer.
MARKED = ("mistral-v13", "mistral-v13-noflags", "mistral-v13-reasoning")


def tool(name: str, description: str, properties: dict[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS = [
    tool("get_weather", "Current weather of a city", {"city": {"type": "string"}}),
    tool("get_time", "Current time", {}),
]

Turn = dict[str, Any]  # {"message": what goes into the history, "finish": the finish reason}
Ask = Callable[..., Turn]


@pytest.fixture
def client(bench: Bench) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{bench.proxy}/v1", api_key="none", timeout=TIMEOUT_S, max_retries=0) as client:
        yield client


@pytest.fixture(params=["whole", "streamed", "async whole", "async streamed"])
def ask(bench: Bench, client: openai.OpenAI, request: pytest.FixtureRequest) -> Ask:
    """Ask for one assistant turn, in each of the four ways an application can."""

    def blocking(*, stream: bool, **body: Any) -> Turn:
        answer = client.chat.completions.create(model="devstral", stream=stream, **body)
        return joined(list(answer)) if stream else whole(answer)

    async def in_a_loop(*, stream: bool, **body: Any) -> Turn:
        url = f"{bench.proxy}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", timeout=TIMEOUT_S, max_retries=0) as client:
            answer = await client.chat.completions.create(model="devstral", stream=stream, **body)
            return joined([chunk async for chunk in answer]) if stream else whole(answer)

    stream = "streamed" in request.param
    if "async" in request.param:
        return lambda **body: asyncio.run(in_a_loop(stream=stream, **body))
    return lambda **body: blocking(stream=stream, **body)


def whole(completion: Any) -> Turn:
    choice = completion.choices[0]
    return {"message": choice.message.model_dump(exclude_none=True), "finish": choice.finish_reason}


def joined(chunks: list[Any]) -> Turn:
    """Put a stream together as applications do: text appended, calls collected by index."""
    text, thought, calls, finish = "", "", {}, None
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        text += choice.delta.content or ""
        thought += getattr(choice.delta, "reasoning_content", None) or ""
        finish = choice.finish_reason or finish
        for delta in choice.delta.tool_calls or ():
            call = calls.setdefault(delta.index, {"type": "function", "function": {"name": "", "arguments": ""}})
            if delta.id:
                call["id"] = delta.id
            call["function"]["name"] += delta.function.name or ""
            call["function"]["arguments"] += delta.function.arguments or ""
    parts = {"content": text, "reasoning_content": thought, "tool_calls": list(calls.values())}
    said = {name: part for name, part in parts.items() if part}
    return {"message": {"role": "assistant", **said}, "finish": finish}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def result(call_id: str, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


def test_a_plain_chat_is_answered(ask: Ask) -> None:
    turn = ask(messages=[user("Hi")])

    assert turn["message"]["content"] == GREETING
    assert turn["finish"] == "stop"


def test_a_call_comes_back_with_a_name_arguments_and_a_nine_character_id(ask: Ask) -> None:
    turn = ask(messages=[user("Weather?")], tools=TOOLS)

    (call,) = turn["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
    assert re.fullmatch("[a-zA-Z0-9]{9}", call["id"])
    assert turn["finish"] == "tool_calls"


@pytest.mark.parametrize(
    ("choice", "possible"),
    [
        ("required", {"get_weather", "get_time"}),
        ({"type": "function", "function": {"name": "get_weather"}}, {"get_weather"}),
    ],
    ids=["required", "named"],
)
def test_a_call_that_was_demanded_comes_back_as_a_call(ask: Ask, choice: Any, possible: set[str]) -> None:
    turn = ask(messages=[user("Weather?")], tools=TOOLS, tool_choice=choice)

    (call,) = turn["message"]["tool_calls"]
    assert call["function"]["name"] in possible
    assert isinstance(json.loads(call["function"]["arguments"]), dict)
    assert turn["finish"] == "tool_calls"


def test_a_tool_choice_of_null_loses_no_call(ask: Ask) -> None:
    """Sent as it is, vLLM 0.32 answers with neither text nor call, and says `stop`."""
    turn = ask(messages=[user("Weather?")], tools=TOOLS, extra_body={"tool_choice": None})

    assert [call["function"]["name"] for call in turn["message"]["tool_calls"]] == ["get_weather"]


@pytest.mark.parametrize("limit", [3, 9], ids=["in its name", "in its arguments"])
def test_a_call_that_is_cut_says_so_and_is_not_completed(ask: Ask, limit: int) -> None:
    """Alone, vLLM 0.32 says `tool_calls` in whole answers, and completes a cut name with the arguments `{}`."""
    turn = ask(messages=[user("Weather?")], tools=TOOLS, max_tokens=limit)

    assert turn["finish"] == "length"
    for call in turn["message"].get("tool_calls", ()):
        with pytest.raises(json.JSONDecodeError):
            json.loads(call["function"]["arguments"])


@pytest.mark.parametrize("foreign_id", [None, "call_0f1e2d3c4b5a69788796a5b4"])
def test_the_result_of_a_call_leads_to_the_answer(ask: Ask, foreign_id: str | None) -> None:
    """With the id that came with the call, and with one as OpenAI makes them, from a history of another model."""
    question = user("Weather?")
    asked = ask(messages=[question], tools=TOOLS)["message"]
    (call,) = asked["tool_calls"]
    call["id"] = foreign_id or call["id"]

    turn = ask(messages=[question, asked, result(call["id"], "sunny, 25 °C")], tools=TOOLS)

    assert turn["message"]["content"] == AFTER_RESULT
    assert turn["finish"] == "stop"


def test_the_results_of_two_calls_may_come_back_swapped(ask: Ask) -> None:
    question = user("Tell me both")
    asked = ask(messages=[question], tools=TOOLS)["message"]
    weather, time = asked["tool_calls"]

    turn = ask(messages=[question, asked, result(time["id"], "noon"), result(weather["id"], "sunny")], tools=TOOLS)

    assert [weather["function"]["name"], time["function"]["name"]] == ["get_weather", "get_time"]
    assert turn["message"]["content"] == AFTER_RESULT


def test_a_user_may_speak_right_after_a_result(ask: Ask) -> None:
    """A cancelled tool: some agents send tool, then user. Strict templates and older servers refuse that order."""
    question = user("Weather?")
    asked = ask(messages=[question], tools=TOOLS)["message"]
    history = [question, asked, result(asked["tool_calls"][0]["id"], "cancelled"), user("Never mind. Say hello.")]

    assert ask(messages=history)["message"]["content"] == GREETING


def test_thinking_is_told_apart_from_the_answer_where_it_is_marked(bench: Bench, ask: Ask) -> None:
    message = ask(messages=[user("I think")])["message"]

    said = (message["content"], message.get("reasoning_content"))
    assert (said == (GREETING, THOUGHT)) == (bench.mode in MARKED)


def test_an_error_is_the_sdks_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="devstral", messages=[{"role": "critic", "content": "Hi"}])  # type: ignore[list-item]

    assert caught.value.param == "messages[0].role"
