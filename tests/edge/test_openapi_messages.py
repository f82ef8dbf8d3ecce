"""What /openapi.json says of Anthropic's Messages API is what the proxy takes and answers."""

import json

import pytest

from proxy.errors import InvalidRequest
from proxy.fronts.messages_request import chat_request
from proxy.translate.request import translate_request
from tests.edge.test_openapi import DOCUMENT, PROFILE, agreed, examples, faults, loosened, validator
from tests.fronts.judge import parsed
from tests.fronts.test_messages_request import CASES, case

REQUEST = validator("MessagesRequest")
TAKEN = validator("MessagesRequest", components=loosened(DOCUMENT["components"]))
ANSWER, EVENT, ERROR = map(validator, ("MessagesAnswer", "MessagesEvent", "MessagesError"))
OPERATION = DOCUMENT["paths"]["/v1/messages"]["post"]
REQUESTS = examples(OPERATION["requestBody"]["content"]["application/json"]["examples"])


def refusal(body):
    """Return the path and the text with which the proxy itself refuses `body`, None if it takes it."""
    try:
        translate_request(chat_request(json.dumps(body).encode(), strict=False).body, PROFILE)
    except InvalidRequest as error:
        return error.param, error.message
    return None


def is_untold(path):
    """Whether the schema leaves it open: which tools are offered."""
    return (path or "").startswith("tool_choice")


@pytest.mark.parametrize("name", CASES)
def test_what_a_case_sends_is_as_described(name):
    assert faults(REQUEST, case(name)["request"]) == []


def test_whatever_is_changed_in_a_case_the_schema_and_the_proxy_agree_on_it():
    requests = [case(name)["request"] for name in CASES]
    tried, refused = agreed(requests, refusal, is_untold, taken=TAKEN, described=REQUEST)

    assert tried > 5_000
    assert refused > tried / 10


@pytest.mark.parametrize("body", REQUESTS.values(), ids=REQUESTS)
async def test_an_example_is_answered_as_described(start_proxy, demo, body):
    proxy = await start_proxy(demo.url)
    streams = body.get("stream", False)
    async with proxy.session.post(f"{proxy.url}/v1/messages", json=body) as response:
        data = await response.read()

    assert faults(REQUEST, body) == []
    assert response.status == 200
    described = {name.lower() for name in OPERATION["responses"]["200"]["headers"]}
    assert {name.lower() for name in response.headers if name.lower().startswith("x-")} - described <= {
        "x-accel-buffering"
    }
    if not streams:
        assert faults(ANSWER, json.loads(data)) == []
        return
    for event in parsed(data):
        assert faults(EVENT, {"event": event["type"], "data": json.dumps(event)}) == []


async def test_an_error_is_as_described(start_proxy, demo):
    proxy = await start_proxy(demo.url)
    async with proxy.session.post(f"{proxy.url}/v1/messages", json={}) as response:
        assert faults(ERROR, await response.json()) == []
