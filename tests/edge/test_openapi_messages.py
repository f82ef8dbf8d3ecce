"""What /openapi.json says of Anthropic's Messages API is what the proxy takes and answers."""

import json

import pytest

from proxy.errors import InvalidRequest
from proxy.fronts.messages_request import chat_request
from proxy.translate.request import translate_request
from tests.edge.test_messages import demo  # noqa: F401 - a fixture
from tests.edge.test_openapi import DOCUMENT, PROFILE, examples, faults, loosened, validator, variants
from tests.fronts.judge import parsed
from tests.fronts.test_messages_request import CASES, case

REQUEST = validator("MessagesRequest")
TAKEN = validator("MessagesRequest", components=loosened(DOCUMENT["components"]))
ANSWER, EVENT, ERROR = map(validator, ("MessagesAnswer", "MessagesEvent", "MessagesError"))
OPERATION = DOCUMENT["paths"]["/v1/messages"]["post"]
REQUESTS = examples(OPERATION["requestBody"]["content"]["application/json"]["examples"])


def refusal(body):
    """Return the error with which the proxy itself refuses `body`, None if it takes it."""
    try:
        translate_request(chat_request(json.dumps(body).encode(), strict=False).body, PROFILE)
    except InvalidRequest as error:
        return error
    return None


def is_untold(error):
    """Whether the schema leaves it open: which tools are offered."""
    return (error.param or "").startswith("tool_choice")


@pytest.mark.parametrize("name", CASES)
def test_what_a_case_sends_is_as_described(name):
    assert faults(REQUEST, case(name)["request"]) == []


def test_whatever_is_changed_in_a_case_the_schema_and_the_proxy_agree_on_it():
    requests = [case(name)["request"] for name in CASES]
    tried = refused = 0
    for body in {json.dumps(body): body for request in requests for body in variants(request)}.values():
        tried += 1
        error = refusal(body)
        if error is None:
            assert TAKEN.is_valid(body), f"taken, and not described: {body}"
        elif not is_untold(error):
            refused += 1
            assert not REQUEST.is_valid(body), f"described, and refused with {error.message!r}: {body}"

    assert tried > 5_000
    assert refused > tried / 10


@pytest.mark.parametrize("body", REQUESTS.values(), ids=REQUESTS)
async def test_an_example_is_answered_as_described(start_proxy, demo, body):  # noqa: F811
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


async def test_an_error_is_as_described(start_proxy, demo):  # noqa: F811
    proxy = await start_proxy(demo.url)
    async with proxy.session.post(f"{proxy.url}/v1/messages", json={}) as response:
        assert faults(ERROR, await response.json()) == []
