"""What /openapi.json says is what the proxy does: its routes, its errors, what it takes and what it answers."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import jsonschema_rs
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

import proxy
from proxy import __version__
from proxy.edge.openapi import document
from proxy.edge.openapi_errors import ERRORS
from proxy.edge.openapi_request import DEPENDS, MENDED, OTHERWISE, UPSTREAM
from proxy.edge.routes import LIVE, OPEN, READY, ROUTES
from proxy.errors import InvalidRequest, ProxyError
from proxy.fronts.responses import Responses
from proxy.translate.profile import build_profile
from proxy.translate.request import translate_request
from tests.fakes import ScriptedUpstream, whole
from tests.kit.sse import EventReader
from tests.shapes import expected, load_agents, load_shapes

DOCUMENT = json.loads(json.dumps(document(LIVE, READY)))
CHAT = DOCUMENT["paths"]["/v1/chat/completions"]["post"]
MODE = "mistral-v11"
PROFILE = build_profile("vllm-mistral-tokenizer")
AGENTS = load_agents()


def at(pointer):
    """Return what a JSON pointer of the document names."""
    value = DOCUMENT
    for step in pointer.removeprefix("#/").split("/"):
        value = value[step.replace("~1", "/").replace("~0", "~")]
    return value


def nodes(value):
    """Yield every object inside `value`, but for examples."""
    if isinstance(value, dict):
        yield value
        for name, item in value.items():
            if name not in ("example", "examples"):
                yield from nodes(item)
    elif isinstance(value, list):
        for item in value:
            yield from nodes(item)


def loosened(value):
    """Return schemas in which whatever has `x-otherwise` allows anything: what the proxy itself does not refuse."""
    if isinstance(value, list):
        return [loosened(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {} if OTHERWISE in value else {name: loosened(item) for name, item in value.items()}


def validator(name, *, components=None):
    return jsonschema_rs.Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": components or DOCUMENT["components"]}
    )


REQUEST = validator("ChatRequest")
TAKEN = validator("ChatRequest", components=loosened(DOCUMENT["components"]))
COMPLETION = validator("ChatCompletion")
CHUNK = validator("ChatCompletionChunk")
ERROR = validator("Error")


def faults(schema, value):
    return [f"{error.instance_path}: {error.message[:300]}" for error in schema.iter_errors(value)]


def operations() -> Iterator[tuple[str, str, dict]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


# --- the document itself


def test_the_document_is_valid_openapi_and_its_schemas_are_valid_json_schema():
    dialect = "https://json-schema.org/draft/2020-12/schema"

    assert faults(OPENAPI_31_VALIDATOR, DOCUMENT) == []
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": dialect, **schema})


def test_every_reference_leads_somewhere_and_every_component_is_referred_to():
    references = {node["$ref"] for node in nodes(DOCUMENT) if "$ref" in node}
    components = {
        f"#/components/{kind}/{name}"
        for kind, members in DOCUMENT["components"].items()
        for name in members
        if kind != "securitySchemes"
    }

    assert all(at(reference) for reference in references)
    assert components == references


def test_every_route_is_described_with_its_methods_and_nothing_else_is():
    described = {}
    for path, method, _ in operations():
        described.setdefault(path, set()).add(method)

    assert described == {path: set(methods) for path, methods in ROUTES.items()}


def test_operations_have_ids_of_their_own():
    ids = [operation["operationId"] for _, _, operation in operations()]

    assert len(ids) == len(set(ids))


def test_a_credential_is_described_where_one_is_looked_at():
    guarded = {path for path, _, operation in operations() if "security" in operation}

    assert guarded == set(ROUTES) - OPEN
    for _, _, operation in operations():
        assert ("security" in operation) == ({"401", "403"} <= operation["responses"].keys())


def error_classes(base=ProxyError):
    return {base}.union(*map(error_classes, base.__subclasses__()))


def test_every_error_has_its_status_described_and_an_example_of_its_own():
    assert {str(error.status) for error in error_classes()} <= ERRORS.keys()
    for described in ERRORS.values():
        response = at(f"#/components/responses/{described.name}")
        assert faults(ERROR, response["content"]["application/json"]["example"]) == []


def test_the_headers_that_the_code_speaks_of_are_described():
    sources = [p for p in Path(proxy.__file__).parent.rglob("*.py") if not p.name.startswith("openapi")]
    named = {
        name for path in sources for name in re.findall(r'"(x-(?:proxy|ratelimit)-[a-z-]+)"', path.read_text("utf-8"))
    }
    described = {*DOCUMENT["components"]["headers"], *DOCUMENT["components"]["parameters"]}

    assert named
    assert named - described == set()


def test_what_becomes_of_other_values_is_one_of_three_words():
    assert {node[OTHERWISE] for node in nodes(DOCUMENT) if OTHERWISE in node} == {UPSTREAM, MENDED, DEPENDS}


async def test_the_document_is_served(start_proxy):
    async with ScriptedUpstream([whole({})]) as upstream:
        proxy_ = await start_proxy(upstream.url)
        async with proxy_.session.get(f"{proxy_.url}/openapi.json") as response:
            assert (response.status, response.headers["Content-Type"]) == (200, "application/json")
            assert await response.json() == DOCUMENT

        assert upstream.requests == []
    assert DOCUMENT["info"]["version"] == __version__


# --- what is taken


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: f"{agent['name']}, {agent['scenario']}")
def test_what_agents_send_is_as_described(agent):
    assert faults(REQUEST, agent["body"]) == []


#: Taken, and outside the schema; what becomes of it is said by `x-otherwise`.
OUTSIDE = {'temperature="0.5"'}
#: Refused by the proxy, and inside the schema: which tools are offered is not for a schema to know.
INSIDE = {'tool_choice {"type": "function", "function": {"name": "nope"}}'}
CHATS = [s for s in load_shapes() if s.is_chat and s.content_type == "application/json" and isinstance(s.request, dict)]


@pytest.mark.parametrize("shape", CHATS, ids=lambda shape: shape.name)
def test_a_recorded_request_is_as_described_if_it_is_taken_and_is_not_if_the_proxy_refuses_it(shape):
    outcome = expected(shape, MODE)

    if outcome.status == 200:
        assert faults(TAKEN, shape.request) == []
        assert (faults(REQUEST, shape.request) == []) == (shape.title not in OUTSIDE)
    elif outcome.by == "proxy":
        assert (faults(REQUEST, shape.request) == []) == (shape.title in INSIDE)


#: What is put in the place of each value of a request: nothing, something of each type, parts and names of tools.
OTHERS = (
    *(None, False, True, 0, 1, 1.5, -1, "", "x", "text", [], {}, ["x"], [1], [{}]),
    *([{"type": "text"}], [{"type": "text", "text": 1}], {"type": "function"}, {"name": "x"}, {"name": 1}),
)


def variants(value):
    """Yield `value` with each value inside it replaced by each of OTHERS, or left out; tools' own schemas are kept."""
    yield from OTHERS
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if key != "parameters":
            for other in variants(item):
                changed = value.copy()
                changed[key] = other
                yield changed
        changed = value.copy()
        del changed[key]
        yield changed


def refusal(body):
    """Return the path and the text with which the proxy itself refuses `body`, None if it takes it."""
    try:
        translate_request(json.dumps(body).encode(), PROFILE)
    except InvalidRequest as error:
        return error.param, error.message
    return None


def is_untold(path):
    """Whether the schema leaves it open: which tools are offered."""
    return path == "tool_choice.function.name"


def agreed(requests, refusal, is_untold, *, taken, described):
    """
    Check that a schema and the proxy agree on every variant of `requests`; return how many there are, and how many of
    them both refuse.
    """
    tried = refused = 0
    for body in {json.dumps(body): body for request in requests for body in variants(request)}.values():
        tried += 1
        error = refusal(body)
        if error is None:
            assert taken.is_valid(body), f"taken, and not described: {body}"
        elif not is_untold(error[0]):
            refused += 1
            assert not described.is_valid(body), f"described, and refused with {error[1]!r}: {body}"
    return tried, refused


def test_whatever_is_changed_in_a_recorded_request_the_schema_and_the_proxy_agree_on_it():
    requests = [shape.request for shape in CHATS if expected(shape, MODE).status == 200]
    short = [request for request in requests if len(json.dumps(request)) <= 500]
    tried, refused = agreed(short, refusal, is_untold, taken=TAKEN, described=REQUEST)

    assert tried > 20_000
    assert refused > tried / 10


#: One request to the Responses API with each kind of item, and one with each kind of tool.
RESPONSES = (
    {
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}]},
            {"type": "function_call", "call_id": "a", "name": "f", "namespace": "n", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": "x"},
            {"type": "custom_tool_call", "call_id": "b", "name": "p", "input": "x"},
            {"type": "custom_tool_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "x"}]},
            {"type": "local_shell_call", "call_id": "c", "action": {"type": "exec", "command": ["ls"], "env": {}}},
            {"type": "local_shell_call_output", "id": "c", "output": "x"},
            {"type": "web_search_call", "id": "ws_1"},
            {"type": "additional_tools", "tools": [{"type": "function", "name": "x"}]},
        ],
        "instructions": "x",
        "stream": True,
        "max_output_tokens": 5,
        "previous_response_id": None,
    },
    {
        "input": "x",
        "tools": [
            {"type": "function", "name": "f", "parameters": {}},
            {"type": "custom", "name": "p", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
            {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "g"}]},
            {"type": "local_shell"},
            {"type": "web_search"},
        ],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
        "text": {"format": {"type": "json_schema", "name": "x", "schema": {}}, "verbosity": "low"},
        "reasoning": {"effort": "high", "summary": "auto"},
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
        "truncation": "auto",
    },
)
RESPONSES_REQUEST = validator("ResponsesRequest")
RESPONSES_TAKEN = validator("ResponsesRequest", components=loosened(DOCUMENT["components"]))


def refusal_of_the_front(body):
    """Return the path and the text with which a request to the Responses API is refused, None if it is not."""
    front = Responses("req_1")
    try:
        translate_request(front.request(json.dumps(body).encode(), strict=False), PROFILE)
    except InvalidRequest as error:
        told = json.loads(front.error_body(error))["error"]
        return told["param"], told["message"]
    return None


def test_whatever_is_changed_in_a_request_to_the_responses_api_the_schema_and_the_proxy_agree_on_it():
    tried, refused = agreed(
        RESPONSES,
        refusal_of_the_front,
        lambda path: path in ("input", "tool_choice", "tool_choice.name"),
        taken=RESPONSES_TAKEN,
        described=RESPONSES_REQUEST,
    )

    assert tried > 1_000
    assert refused > tried / 10


def test_exceptions_name_shapes():
    assert {shape.title for shape in CHATS} >= OUTSIDE | INSIDE


# --- what is answered


def events_of(data):
    reader = EventReader()
    events = [event.data for event in reader.feed(data) if not event.is_comment]
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1]]


def undescribed_headers(headers):
    described = {name.lower() for name in CHAT["responses"]["200"]["headers"]}
    return {name.lower() for name in headers if name.lower().startswith("x-")} - described - {"x-accel-buffering"}


async def test_whole_and_streamed_answers_to_agents_are_as_described(start_proxy, demo):
    proxy_ = await start_proxy(demo.url)
    chunks = 0
    for agent in AGENTS:
        async with proxy_.chat(**agent["body"] | {"model": "devstral", "stream": False}) as response:
            assert response.status == 200, agent["name"]
            assert faults(COMPLETION, await response.json()) == [], agent["name"]
            assert undescribed_headers(response.headers) == set()
        async with proxy_.chat(**agent["body"] | {"model": "devstral", "stream": True}) as response:
            assert response.status == 200, agent["name"]
            for chunk in events_of(await response.read()):
                assert faults(CHUNK, chunk) == [], agent["name"]
                chunks += 1
            assert undescribed_headers(response.headers) == set()

    assert chunks > len(AGENTS)


def examples(of):
    return {name: example["value"] for name, example in of.items()}


REQUESTS = examples(CHAT["requestBody"]["content"]["application/json"]["examples"])


@pytest.mark.parametrize("body", REQUESTS.values(), ids=REQUESTS)
async def test_an_example_of_a_request_is_as_described_and_is_answered(start_proxy, demo, body):
    proxy_ = await start_proxy(demo.url)

    assert faults(REQUEST, body) == []
    async with proxy_.session.post(f"{proxy_.url}/v1/chat/completions", json=body) as response:
        assert response.status == 200


ASKED = {path: operation for path, method, operation in operations() if method == "POST"}


@pytest.mark.parametrize("path", ASKED)
async def test_a_command_in_the_document_is_the_example_beside_it_and_is_answered(start_proxy, demo, path):
    proxy_ = await start_proxy(demo.url)
    requests = examples(ASKED[path]["requestBody"]["content"]["application/json"]["examples"])
    commands = [shlex.split(sample["source"]) for sample in ASKED[path]["x-codeSamples"]]

    assert [json.loads(words[words.index("-d") + 1]) for words in commands] == list(requests.values())
    assert any("tools" in request for request in requests.values())
    for words in commands:
        [url] = [word for word in words if word.startswith("http:")]
        assert urlsplit(url).path == path
        name, value = words[words.index("-H") + 1].split(": ")
        body = words[words.index("-d") + 1]
        async with proxy_.session.post(proxy_.url + urlsplit(url).path, headers={name: value}, data=body) as response:
            assert response.status == 200


async def test_pages_are_as_described(start_proxy, demo, unused_port):
    for url in (demo.url, f"http://127.0.0.1:{unused_port}"):
        proxy_ = await start_proxy(url)
        for path, method, operation in operations():
            if method == "POST" or path == "/metrics":
                continue
            async with proxy_.session.get(proxy_.url + path) as response:
                found = operation["responses"][str(response.status)]
                found = at(found["$ref"]) if "$ref" in found else found
                schema = found["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
                assert faults(validator(schema), await response.json()) == [], path


def test_examples_of_answers_are_as_described():
    content = CHAT["responses"]["200"]["content"]

    for answer in examples(content["application/json"]["examples"]).values():
        assert faults(COMPLETION, answer) == []
    for event in examples(content["text/event-stream"]["examples"]).values():
        assert event["data"] == "[DONE]" or faults(CHUNK, json.loads(event["data"])) == []
