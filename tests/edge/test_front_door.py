"""The seam of the other front doors, with a small one that shows what it was given."""

import asyncio
import json

import pytest

from proxy.edge import routes
from proxy.errors import InvalidRequest
from proxy.fronts.rewrites import Rewrites
from tests.fakes import (
    DONE,
    STREAM_END,
    STREAM_HEAD,
    ScriptedUpstream,
    completion,
    event,
    text_chunk,
    text_stream,
    whole,
)

SLOW = 300 * 1024  #: characters of a body that is translated in the thread


def shouted(text):
    """Small letters are not wanted."""
    return None if text.isupper() else "say"


class Echo:
    """Takes `{"say": TEXT}`; answers with the chat's own answer between brackets. A role alone says nothing to it."""

    def __init__(self, request_id):
        assert request_id
        self.rules = ()

    def request(self, body, *, strict):
        asked = json.loads(body)
        if not isinstance(asked.get("say"), str):
            raise InvalidRequest("`say` must be a string.", param="say")
        rewrites = Rewrites(strict=strict)
        rewrites.ran(shouted, shouted(asked["say"]))
        self.rules = rewrites.names
        message = {"role": "user", "content": asked["say"].upper()}
        return json.dumps({"model": "devstral", "messages": [message], "stream": asked.get("stream", False)}).encode()

    def whole(self, body):
        return b"<" + body + b">"

    def piece(self, data):
        said = [part for part in data.split(b"\n\n") if part and b'"role"' not in part]
        return b"".join(b"<" + part + b">" for part in said)

    def error_body(self, error):
        return json.dumps({"trouble": error.message, "at": error.param}).encode()


@pytest.fixture
def door(monkeypatch):
    """Open a door for as long as the test lasts; return what asks at it."""
    monkeypatch.setattr(routes, "FRONTS", {"/echo": Echo})
    monkeypatch.setattr(routes, "ROUTES", {**routes.ROUTES, "/echo": routes.ROUTES["/v1/chat/completions"]})
    return lambda proxy, **body: proxy.session.post(f"{proxy.url}/echo", json=body)


async def test_a_whole_answer_goes_through_the_front(start_proxy, door):
    async with ScriptedUpstream([whole(completion("Hello"))]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with door(proxy, say="hi") as response:
            body = await response.read()

    line = await proxy.log.line()
    assert body.startswith(b"<{")
    assert body.endswith(b"}>")
    assert upstream.requests[0].json["messages"] == [{"role": "user", "content": "HI"}]
    assert response.headers["x-proxy-rewrites"].split(",")[0] == "shouted"
    assert (line["path"], line["rules"][0], line["bytes_out"]) == ("/echo", "shouted", len(body))


@pytest.mark.parametrize("shortcuts", ["push", "none"])
async def test_a_stream_goes_through_the_front_and_what_says_nothing_is_not_written(start_proxy, door, shortcuts):
    async with ScriptedUpstream([text_stream("Hel", "lo")]) as upstream:
        proxy = await start_proxy(upstream.url, shortcuts=shortcuts)
        async with door(proxy, say="HI", stream=True) as response:
            body = await response.read()

    assert response.headers["Content-Type"].startswith("text/event-stream")
    assert "x-proxy-rewrites" not in response.headers
    assert b'"lo"' in body
    assert b"[DONE]" in body
    assert body.endswith(b">")
    assert b'"role"' not in body


async def test_a_large_body_is_translated_all_the_same(start_proxy, door):
    async with ScriptedUpstream([whole(completion("Hello"))]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with door(proxy, say="x" * SLOW) as response:
            assert response.status == 200

    assert upstream.requests[0].json["messages"][0]["content"] == "X" * SLOW


async def test_errors_with_a_status_are_the_fronts(start_proxy, door):
    refusal = {"error": {"message": "too long", "type": "BadRequestError", "param": None, "code": 400}}
    async with ScriptedUpstream([whole(refusal, status=400)]) as upstream:
        proxy = await start_proxy(upstream.url, api_keys="", max_body_bytes=1000)
        asked = [door(proxy, say=1), door(proxy, say="hi"), door(proxy, say="x" * 2000)]
        answers = []
        for asking in asked:
            async with asking as response:
                answers.append((response.status, await response.json()))
        async with proxy.session.get(f"{proxy.url}/echo") as response:
            answers.append((response.status, await response.json()))

    assert answers[0] == (400, {"trouble": "`say` must be a string.", "at": "say"})
    assert answers[1] == (400, {"trouble": "too long", "at": None})
    assert [status for status, _ in answers[2:]] == [413, 405]
    assert all(answer.keys() == {"trouble", "at"} for _, answer in answers)


async def test_in_strict_mode_a_rule_of_the_front_refuses(start_proxy, door):
    async with ScriptedUpstream([]) as upstream:
        proxy = await start_proxy(upstream.url, strict=True)
        async with door(proxy, say="hi") as response:
            answer = await response.json()

    assert (response.status, answer["at"]) == (400, "say")
    assert answer["trouble"] == "Refused in strict mode by shouted: Small letters are not wanted."


async def test_the_front_sees_the_error_inside_a_stream(start_proxy, door):
    error = event({"error": {"message": "lost", "type": "server_error", "param": None, "code": None}})
    more = asyncio.Event()
    async with ScriptedUpstream([STREAM_HEAD, event(text_chunk("Hel")), more, error, DONE, STREAM_END]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with door(proxy, say="HI", stream=True) as response:
            body = await response.content.readuntil(b'"Hel"')
            more.set()
            body += await response.read()

    assert response.status == 200
    assert body.index(b'"content":"Hel"') < body.index(b'"error"') < body.index(b"[DONE]")


async def test_the_front_sees_what_the_boundary_says_last(start_proxy, door):
    held = asyncio.Event()
    async with ScriptedUpstream([STREAM_HEAD, event(text_chunk("Hel")), held]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with door(proxy, say="HI", stream=True) as response:
            await response.content.readuntil(b'"Hel"')
            proxy.edge.in_flight.cut_off()
            body = await response.read()
        held.set()

    assert body.endswith(b">")
    assert b"shutting_down" in body
