"""
The proxy behind another server, which reads the same bytes first, and beside servers that read them too.

Behind another: however the two read a client's bytes, they count the same requests. What one client sent is never
taken for another's, and nobody gets an answer that is not his. Beside others: where they differ, differences.py says
why.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from tests.fakes import completion, until
from tests.security.cases.case import Case, Then, body, post, taken
from tests.security.client import Heard, play
from tests.security.differences import DIFFERENCES, reason
from tests.security.fronts import running
from tests.security.http_cases import CASES
from tests.security.origin import RecordingOrigin, translated

#: Longer ones are refused by all, each for a bound of its own.
_MOST_BYTES = 5000
#: These are answered in other protocols than HTTP/1.1 by some, or, the last, without the body that is announced.
_OTHER_PROTOCOLS = (
    "start: HTTP/0.9 with headers",
    "start: an LF in the target",
    "the preface of HTTP/2",
    "method: HEAD with a length that is none",
)
PROBED = tuple(
    case
    for case in CASES
    if case.then is Then.PROBE and len(case.data) < _MOST_BYTES and case.name not in _OTHER_PROTOCOLS
)


def marker(number: int) -> Case:
    """Another client's request, which must get its own answer."""
    return taken("marker", post(f"marker {number}"), "", f"marker {number}")


def is_even(seen: list[str], heard: Heard, after: Heard) -> bool:
    """
    Whether the model server has seen no more requests than were answered, and each answer went to who asked.

    Varnish may have passed on what it then says to be broken: the case's own request, once.
    """
    told = heard.texts + after.texts
    untold = [text for text in seen if text not in told]
    return (
        len(after.texts) == 1
        and [text for text in seen if text in told] == told
        and untold in ([], ["case"])
        and len(seen) <= len(heard.answers) + len(after.answers)
    )


def differs(case: Case, heard: Heard) -> bool:
    """Whether another than the proxy's own requests were taken."""
    return tuple(heard.texts) not in {outcome.seen for outcome in case.outcomes}


@pytest.mark.parametrize("name", ["nginx", "haproxy", "varnishd"])
async def test_a_server_before_the_proxy_counts_the_same_requests(start_proxy, installed, tmp_path, shortcuts, name):
    program = installed(name, "varnish" if name == "varnishd" else name)
    uneven, unexplained = {}, {}
    async with RecordingOrigin() as origin:
        proxy = await start_proxy(origin.url, shortcuts=shortcuts, read_timeout_s=1)
        async with running(name, program, proxy.port, tmp_path) as front:
            for number, case in enumerate(PROBED):
                begun = len(origin.seen)
                heard = await play(front.port, case)
                after = await play(front.port, marker(number))
                if after.texts != [f"marker {number}"] or not is_even(origin.texts[begun:], heard, after):
                    uneven[case.name] = (origin.texts[begun:], heard.statuses, heard.texts, after.texts)
                if differs(case, heard) and reason(name, case.name) is None:
                    unexplained[case.name] = (heard.statuses, heard.texts)
            if front.log is not None:
                await until(lambda: front.believed() >= len(origin.seen))

        assert (uneven, unexplained) == ({}, {})
        assert len(origin.seen) > len(PROBED)
        assert origin.judged() == []
        assert [seen.body for seen in origin.seen] == [translated(body(text)) for text in origin.texts]


async def test_both_ways_of_the_hot_path_take_and_refuse_the_same(start_proxy):
    heard = {}
    for shortcuts in ("push", "none"):
        async with RecordingOrigin() as origin:
            proxy = await start_proxy(origin.url, shortcuts=shortcuts, read_timeout_s=1)
            answers = [await play(proxy.port, case) for case in PROBED if not _lingers(case)]
            heard[shortcuts] = [(answer.statuses, answer.texts, answer.end) for answer in answers]

    assert heard["push"] == heard["none"]


def _lingers(case: Case) -> bool:
    """Whether aiohttp goes on reading for ten seconds, for a body that does not come."""
    return any({408, 413} & {*outcome.answers} for outcome in case.outcomes)


@contextlib.asynccontextmanager
async def bare_server() -> AsyncIterator[int]:
    """A server of aiohttp's alone, with the least of a handler: its port."""

    async def handle(request: web.BaseRequest) -> web.Response:
        content = await request.read()
        headers = {"x-request-id": request.headers.get("x-request-id", "")}
        if request.rel_url.raw_path.rstrip("/") != "/v1/chat/completions":
            return web.json_response({}, status=200 if request.path == "/livez" else 404, headers=headers)
        if request.method != "POST" or request.content_type not in ("application/json", "application/octet-stream"):
            return web.json_response({}, status=405)
        try:
            return web.json_response(completion(json.loads(content)["messages"][-1]["content"]))
        except ValueError:
            return web.json_response({}, status=400)

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def test_a_bare_server_of_aiohttp_differs_only_where_the_table_says_why():
    """So that what doubt.py is there for is seen to go, when aiohttp mends it."""
    differing = set()
    async with bare_server() as port:
        for case in PROBED:
            if _lingers(case) or "media type" in case.name or case.name == "header: a form":
                continue
            try:
                async with asyncio.timeout(1):
                    heard = await play(port, case)
            except TimeoutError:
                differing.add(case.name)  # it has lost count
            else:
                if differs(case, heard):
                    differing.add(case.name)

    assert {name for name in differing if reason("aiohttp", name) is None} == set()
    assert {
        pattern for pattern in DIFFERENCES["aiohttp"] if not any(_fits(name, pattern) for name in differing)
    } == set()


def _fits(name: str, pattern: str) -> bool:
    return DIFFERENCES["aiohttp"][pattern] == reason("aiohttp", name)
