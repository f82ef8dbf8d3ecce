"""
What a model server may answer, and what clients get: a right answer or an honest error, and the next one its own.

Nothing that an answer leaves on a connection of the pool is taken for the answer to another request.
"""

import asyncio
import json

import pytest

from tests.fakes import ScriptedUpstream, completion, until, whole
from tests.security.cases.answers import ANSWERS, LATER, STREAMS, Evil, Result

#: So long is waited for what does not come.
_SHORT_S = 0.5
_BEFORE, _AFTER = whole(completion("before")), whole(completion("after"))


async def heard(proxy, evil: Evil) -> tuple[Result, str]:
    """Ask, and return what kind of answer came, and its text; fail if it is neither right nor an honest error."""
    async with proxy.chat(stream=evil.is_streamed) as response:
        body = await response.read()
        assert not {"set-cookie", "location"} & {name.lower() for name in response.headers}
    if response.status != 200:
        assert response.status >= 500
        error = json.loads(body)["error"]
        assert error["message"]
        return Result.ERROR, ""
    if response.content_type == "application/json":
        return Result.RIGHT, json.loads(body)["choices"][0]["message"]["content"]
    events = [line.removeprefix(b"data: ") for line in body.split(b"\n") if line.startswith(b"data: ")]
    assert events.pop() == b"[DONE]"
    chunks = [json.loads(event) for event in events]
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", []))
    is_cut = any("error" in chunk for chunk in chunks)
    return Result.ERROR if is_cut else Result.RIGHT, text


def test_there_are_enough_of_them_and_no_two_of_one_name():
    evils = ANSWERS + STREAMS
    assert len({evil.name for evil in evils}) == len(evils) >= 90
    assert all(evil.why for evil in evils)


@pytest.mark.parametrize("evil", ANSWERS + STREAMS, ids=lambda evil: evil.name)
async def test_an_answer_is_right_or_an_error_and_the_next_request_gets_its_own(start_proxy, shortcuts, evil):
    async with ScriptedUpstream([_BEFORE], evil.script, [_AFTER]) as upstream:
        proxy = await start_proxy(
            upstream.url,
            shortcuts=shortcuts,
            max_attempts=1,
            failover="off",
            first_byte_timeout_s=_SHORT_S,
            between_bytes_timeout_s=_SHORT_S,
        )
        plain = Evil("", (), Result.RIGHT, "")
        assert await heard(proxy, plain) == (Result.RIGHT, "before")
        result, text = await heard(proxy, evil)
        assert evil.result in (result, Result.EITHER)
        assert text in ("first", "") if result is Result.ERROR else text == "first"
        await until(lambda: proxy.edge.pool.replicas[0].in_flight == 0)
        if LATER in evil.script:  # else it could not be told from the answer to the next request
            await asyncio.sleep(10 * LATER)

        assert await heard(proxy, plain) == (Result.RIGHT, "after")
        assert await heard(proxy, plain) == (Result.RIGHT, "after")
        assert len(upstream.requests) == 4
        assert [line for line in map(json.loads, proxy.log.text.splitlines()) if line["level"] == "error"] == []
