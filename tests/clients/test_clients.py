"""
Client libraries take what the proxy gives them: recovered, repaired, and cut streams.

What is compared is what a library itself reports, not what is on the wire.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.demo import DemoUpstream
from tests.clients.answers import CUTS, CUTS_IN_ARGUMENTS, FINAL, FINAL_TEXT, PARIS, TRIPS, Trip
from tests.clients.drivers import RESULTS, Client, ai_sdk, langchain, openai_iteration, openai_stream_helper, turn
from tests.fakes import ScriptedUpstream

#: Those that need an environment of their own are not in `make test`: `make test-clients` sets them up.
CLIENTS = [
    pytest.param(openai_stream_helper, id="openai .stream()"),
    pytest.param(openai_iteration, id="openai iteration"),
    pytest.param(langchain, id="langchain", marks=pytest.mark.clients),
    pytest.param(ai_sdk, id="ai-sdk", marks=pytest.mark.clients),
]


def in_words_of(client: Client, finish: str) -> str:
    return finish.replace("_", "-") if client is ai_sdk else finish


def thought_in(client: Client, reasoning: str) -> str:
    """ChatOpenAI leaves out what OpenAI's own API does not have."""
    return "" if client is langchain else reasoning


def expected_report(client: Client, trip: Trip, final: str) -> dict[str, Any]:
    calls = [list(call) for call in trip.calls]
    first = turn(calls, trip.text, thought_in(client, trip.reasoning), in_words_of(client, "tool_calls"))
    return {"turns": [first, turn([], final, "", "stop")], "ran": [name for name, _ in trip.calls], "error": ""}


def results_by_call(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The calls in a history, each with the result that names its id."""
    results = {message["tool_call_id"]: message["content"] for message in messages if message["role"] == "tool"}
    calls = [call for message in messages for call in message.get("tool_calls") or ()]
    return [(call["function"]["name"], results.pop(call["id"])) for call in calls]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("trip", TRIPS.values(), ids=TRIPS)
async def test_a_call_however_it_came_leads_to_the_final_text(start_proxy, client, trip):
    async with ScriptedUpstream([trip.answer], FINAL) as upstream:
        proxy = await start_proxy(upstream.url)
        report = await client(f"{proxy.url}/v1")

    assert report == expected_report(client, trip, FINAL_TEXT)
    first, second = upstream.requests
    assert first.json["stream"] is True
    assert results_by_call(second.json["messages"]) == [(name, RESULTS[name]) for name, _ in trip.calls]


@contextlib.asynccontextmanager
async def demo(*, leak: bool) -> AsyncIterator[DemoUpstream]:
    upstream = DemoUpstream(leak=leak, chunk_delay_s=0)
    await upstream.start()
    try:
        yield upstream
    finally:
        await upstream.close()


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("leak", [False, True], ids=["parsed", "leaked"])
async def test_a_server_as_strict_as_mistral_common_takes_the_history_that_a_client_makes_of_a_call(
    start_proxy, client, leak
):
    async with demo(leak=leak) as upstream:
        proxy = await start_proxy(upstream.url)
        report = await client(f"{proxy.url}/v1")

    final = report["turns"][-1]["text"]
    assert RESULTS["get_weather"] in final
    assert report == expected_report(client, Trip(b"", [PARIS]), final)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
async def test_a_cut_answer_is_an_error(start_proxy, client, cut):
    async with ScriptedUpstream(cut, FINAL) as upstream:
        proxy = await start_proxy(upstream.url)
        report = await client(f"{proxy.url}/v1")

    assert report["error"].startswith("The model server")
    assert [heard["finish"] for heard in report["turns"]] == (["error"] if client is ai_sdk else [])
    assert report["ran"] == []
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("cut", CUTS_IN_ARGUMENTS.values(), ids=CUTS_IN_ARGUMENTS)
async def test_half_a_call_is_an_error_and_does_not_run(start_proxy, client, cut):
    """The AI SDK reports the error, shows the half call to the model as one that failed, and goes on."""
    async with ScriptedUpstream(cut, FINAL) as upstream:
        proxy = await start_proxy(upstream.url)
        report = await client(f"{proxy.url}/v1")

    assert report["error"].startswith("The model server")
    assert report["ran"] == []
    assert [heard["finish"] for heard in report["turns"]] == (["error", "stop"] if client is ai_sdk else [])
    for request in upstream.requests[1:]:
        ((name, result),) = results_by_call(request.json["messages"])
        assert (name, result not in RESULTS.values()) == ("get_weather", True)
