"""
F03, at every byte: wherever an answer is cut, the client has the whole answer or an error, and nothing between.

The upstream reads in the request where to cut, so that the requests may run side by side.
"""

import asyncio
import json
from dataclasses import dataclass

import pytest

from tests.fakes import STREAM_HEAD, Do, ScriptedUpstream, chunk, event, head, whole

TEXT = "Hello"
#: So many at once: more would only wait for the loop.
SIDE_BY_SIDE = 16
#: Only a bound for a test that would else hang.
PATIENCE_S = 60

ENDS = {"RST": Do.RESET, "FIN": Do.CLOSE, "half-close": Do.HALF_CLOSE}


def piece(finish=None, **delta):
    return compact({"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def compact(value):
    return json.dumps(value, separators=(",", ":")).encode()


EVENTS = [piece(role="assistant", content=""), piece(content="Hel"), piece(content="lo"), piece("stop"), b"[DONE]"]
SSE = b"".join(b"data: " + payload + b"\n\n" for payload in EVENTS)
CHUNKED_SSE = b"".join(map(event, EVENTS))
MESSAGE = {"role": "assistant", "content": TEXT}
BODY = compact({"id": "c", "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}]})


@dataclass(frozen=True)
class Sent:
    """An answer on the wire. It is whole from `complete` on: what follows is the framing's end."""

    wire: bytes
    complete: int
    stream: bool


def sent(begin, body, rest=b"", *, stream):
    return Sent(begin + body + rest, len(begin + body), stream)


NO_LENGTH = sent(head(content_type="application/json"), BODY, stream=False)
SHAPES = {
    "chunked stream": sent(STREAM_HEAD, CHUNKED_SSE.removesuffix(b"\r\n"), b"\r\n0\r\n\r\n", stream=True),
    "stream without length": sent(head(content_type="text/event-stream"), SSE, stream=True),
    "JSON with length": sent(b"", whole(BODY), stream=False),
    "JSON without length": NO_LENGTH,
    "chunked JSON": sent(
        head(content_type="application/json", transfer_encoding="chunked"), chunk(BODY) + b"0\r\n\r\n", stream=False
    ),
}


class CuttingUpstream(ScriptedUpstream):
    """Sends so many bytes of `answer` as the last message says, then ends the connection."""

    def __init__(self, answer, end):
        super().__init__()
        self._answer, self._end = answer, end

    def next_script(self):
        cut = int(self.requests[-1].json["messages"][-1]["content"])
        return [self._answer[:cut], 0.0, self._end]


class ContinuingUpstream(ScriptedUpstream):
    """Says what is missing of TEXT behind the assistant's message, or all of it."""

    def next_script(self):
        last = self.requests[-1].json["messages"][-1]
        seen = last["content"] if last["role"] == "assistant" else ""
        assert TEXT.startswith(seen)
        events = [piece(role="assistant", content=""), piece(content=TEXT[len(seen) :]), piece("stop"), b"[DONE]"]
        return [STREAM_HEAD + b"".join(map(event, events)) + b"0\r\n\r\n"]


async def outcomes(proxy, shape):
    """Ask once for each place to cut; return status and body by place."""
    limit = asyncio.Semaphore(SIDE_BY_SIDE)

    async def ask(cut):
        async with limit, proxy.chat(stream=shape.stream, messages=[{"role": "user", "content": str(cut)}]) as response:
            return response.status, await response.read()

    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.gather(*map(ask, range(len(shape.wire) + 1)))


def told(stream):
    """Return the text, the finish reasons and the error of a stream, which ends in [DONE]."""
    *payloads, done = [block.removeprefix(b"data: ") for block in stream.split(b"\n\n") if block.startswith(b"data: ")]
    assert done == b"[DONE]"
    events = list(map(json.loads, payloads))
    choices = [choice for each in events for choice in each.get("choices", ())]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    finish = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    errors = [each["error"]["code"] for each in events if "error" in each]
    assert errors == [] or "error" in events[-1]
    return text, finish, errors


def is_whole(shape, status, body):
    """Return whether an answer is the whole one; fail if it is neither that nor an error."""
    if status != 200:
        # Without a length the end of a body is the connection's: then only its JSON shows that it was cut.
        codes = ("upstream_disconnected", "malformed_upstream_answer" if shape is NO_LENGTH else None)
        assert status == 502
        assert json.loads(body)["error"]["code"] in codes
        return False
    if not shape.stream:
        answer = json.loads(body)["choices"][0]
        assert (answer["message"]["content"], answer["finish_reason"]) == (TEXT, "stop")
        return True
    text, finish, errors = told(body)
    if errors:
        assert errors == ["upstream_disconnected"]
        assert TEXT.startswith(text)
        assert finish == [] or (text, finish) == (TEXT, ["stop"])  # the model server said it, and only [DONE] is lost
    else:
        assert (text, finish) == (TEXT, ["stop"])
    return not errors


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
async def test_an_answer_that_is_cut_anywhere_is_whole_or_an_error(start_proxy, shape, end):
    async with CuttingUpstream(shape.wire, end) as upstream:
        proxy = await start_proxy(upstream.url, eject_after=1_000_000, connect_timeout_s=PATIENCE_S)
        found = await outcomes(proxy, shape)

        wholes = [cut for cut, outcome in enumerate(found) if is_whole(shape, *outcome)]
        if end is Do.RESET:  # takes with it what has not been read
            assert all(cut >= shape.complete for cut in wholes)
        else:
            assert wholes == list(range(shape.complete, len(shape.wire) + 1))
        assert len(proxy.edge.in_flight) == proxy.edge.pool.replicas[0].in_flight == 0


async def test_where_another_replica_goes_on_the_answer_is_whole_wherever_the_first_one_is_cut(
    start_proxy, monkeypatch
):
    monkeypatch.setattr("proxy.upstream.pool.make_policy", lambda name: lambda loads, ask: loads[0])
    shape = SHAPES["chunked stream"]
    begun = len(STREAM_HEAD)  # before it, the request may still run there, and is not sent again
    over = shape.wire.index(b'"stop"}]}\n\n') + len(b'"stop"}]}\n\n')  # from here on there is nothing to go on with
    async with CuttingUpstream(shape.wire, Do.CLOSE) as first, ContinuingUpstream() as second:
        urls = f"{first.url},{second.url}"
        proxy = await start_proxy(urls, eject_after=1_000_000, retry_budget=1.0, connect_timeout_s=PATIENCE_S)
        found = await outcomes(proxy, shape)

        wholes = [cut for cut, outcome in enumerate(found) if is_whole(shape, *outcome)]
        assert wholes == [*range(begun, over), *range(shape.complete, len(shape.wire) + 1)]
