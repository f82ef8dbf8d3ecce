"""OpenAI's SDK asks a real vLLM for responses, by way of chats: whole and streamed, with tools, cut and wrong."""

import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.responses import Response

from tests.fronts.test_responses_answer import check_invariants, events_of
from tests.live.bench import MODES, Bench

pytestmark = pytest.mark.live
BENCH_MODES = tuple(MODES)

TIMEOUT_S = 120
GREETING = "Hello! How can I help you today?"
THOUGHT = "Let me see."
AFTER_RESULT = "It is sunny in Zürich, 25 °C – enjoy 👋"
#: Where thinking is told apart; see test_sdk.py.
MARKED = ("mistral-v13", "mistral-v13-noflags", "mistral-v13-reasoning")


def tool(name: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "name": name, "parameters": schema}


WEATHER, TIME = tool("get_weather", city={"type": "string"}), tool("get_time")


@pytest.fixture
def client(bench: Bench) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{bench.proxy}/v1", api_key="none", timeout=TIMEOUT_S, max_retries=0) as client:
        yield client


@pytest.fixture(params=["whole", "streamed"])
def ask(client: openai.OpenAI, request: pytest.FixtureRequest) -> Any:
    """Ask for one response, in either of the two ways; of a stream every event is looked at."""

    def asked(given: Any, **more: Any) -> Response:
        body = {"model": "devstral", "input": given} | more
        if request.param == "whole":
            return client.responses.create(**body)
        with client.responses.with_streaming_response.create(**body, stream=True) as stream:
            return Response.model_validate(check_invariants(events_of(stream.read())))

    return asked


def returned(call_id: str, output: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def history(response: Response) -> list[Any]:
    return [item.model_dump(exclude_none=True) for item in response.output]


def test_a_greeting(ask):
    response = ask("Hi", instructions="Be brief.")

    assert (response.output_text, response.status) == (GREETING, "completed")
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert min(response.usage.input_tokens, response.usage.output_tokens) > 0


def test_a_call_and_its_result(ask):
    question = {"role": "user", "content": "Weather?"}
    first = ask([question], tools=[WEATHER, TIME, {"type": "web_search"}])
    (call,) = [item for item in first.output if item.type == "function_call"]
    second = ask([question, *history(first), returned(call.call_id, "sunny")], tools=[WEATHER, TIME])

    assert (call.name, call.arguments) == ("get_weather", '{"city": "Paris"}')
    assert re.fullmatch("[a-zA-Z0-9]{9}", call.call_id)
    assert (second.output_text, second.status) == (AFTER_RESULT, "completed")


def test_two_calls_whose_results_come_back_swapped(ask):
    question = {"role": "user", "content": "Tell me both"}
    first = ask([question], tools=[WEATHER, TIME])
    weather, time = [item for item in first.output if item.type == "function_call"]
    results = [returned(time.call_id, "noon"), returned(weather.call_id, "sunny")]
    second = ask([question, *history(first), *results], tools=[WEATHER, TIME])

    assert (weather.name, time.name) == ("get_weather", "get_time")
    assert second.output_text == AFTER_RESULT


def test_a_history_of_another_server_has_foreign_ids(ask):
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_0f1e2d3c4b5a69788796a5b4", "name": "get_time"}
    items = [{"role": "user", "content": "Time?"}, call | {"arguments": "{}"}, returned(call["call_id"], "noon")]

    assert ask(items, tools=[TIME]).output_text == AFTER_RESULT


def test_a_call_that_is_demanded_by_its_name(ask):
    response = ask("Weather?", tools=[WEATHER, TIME], tool_choice={"type": "function", "name": "get_weather"})

    assert [item.name for item in response.output if item.type == "function_call"] == ["get_weather"]


def test_a_limit_that_ends_an_answer(ask):
    response = ask("Hi", max_output_tokens=3)

    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert GREETING.startswith(response.output_text)


def test_thoughts_are_items_of_their_own_where_they_are_marked(bench, ask):
    response = ask("I think")

    thoughts = [part.text for item in response.output if item.type == "reasoning" for part in item.content]
    assert ((thoughts, response.output_text) == ([THOUGHT], GREETING)) == (bench.mode in MARKED)


def test_probabilities(ask):
    response = ask("Hi", include=["message.output_text.logprobs"], top_logprobs=2)

    (part,) = response.output[0].content
    assert "".join(each.token for each in part.logprobs).startswith(GREETING)
    assert {len(each.top_logprobs) for each in part.logprobs} == {2}


def test_a_prompt_that_is_too_long_is_told_in_openais_words(ask):
    with pytest.raises(openai.BadRequestError) as refused:
        ask("word " * 40_000)

    assert refused.value.code == "context_length_exceeded"
