"""The status page over sockets: what its events hold, who gets them, and that nothing is done where nobody looks."""

import asyncio
import json
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

import aiohttp
import msgspec
import pytest

from proxy.access.keys import encode_entries, new_key
from proxy.config import Tier
from proxy.edge.ui.watch import MOST_VIEWERS, Watch
from tests.edge.test_serve import start_process as start_process  # the fixture
from tests.fakes import (
    DONE,
    STREAM_END,
    STREAM_HEAD,
    ScriptedUpstream,
    completion,
    event,
    text_chunk,
    text_stream,
    until,
    whole,
)

PROMPT = "a prompt that nobody else may see"
ANSWER = "an answer that nobody else may see"
TIERS = {"ops": Tier(operator=True)}
PAGES = ("/ui", "/ui/assets/status.js", "/ui/assets/status.css", "/ui/assets/icon.svg")


class Events:
    """The events of a status page that is looked at."""

    def __init__(self, response):
        self.response = response

    async def next(self):
        line = await self.response.content.readline()
        assert await self.response.content.readline() == b"\n"
        assert line.startswith(b"data: ")
        return json.loads(line[6:])

    async def until(self, condition):
        async with asyncio.timeout(10):
            while not condition(seen := await self.next()):
                pass
        return seen


@asynccontextmanager
async def looking(proxy, **headers):
    async with proxy.session.get(f"{proxy.url}/ui/events", headers=headers) as response:
        assert response.status == 200
        yield Events(response)


async def ask(proxy, **fields):
    async with proxy.chat(**{"messages": [{"role": "user", "content": PROMPT}]} | fields) as response:
        return await response.read()


async def status_of(proxy, path, **headers):
    async with proxy.session.get(proxy.url + path, headers=headers) as response:
        return response.status


@pytest.fixture
async def upstream():
    async with ScriptedUpstream([whole(completion(ANSWER))]) as upstream:
        yield upstream


# --- what is shown


async def test_a_finished_request_is_shown_with_its_times_and_without_its_content(upstream, start_proxy):
    proxy = await start_proxy(upstream.url, vllm_api_key="sk-upstream")
    await ask(proxy)

    async with looking(proxy) as events:
        seen = await events.next()
    [request] = seen["recent"]
    line = await proxy.log.line()

    assert {name: request[name] for name in ("request_id", "status", "model", "duration_ms", "sent_ms")} == {
        name: line[name] for name in ("request_id", "status", "model", "duration_ms", "sent_ms")
    }
    assert 0 < request["sent_ms"] <= request["sent_ms"] + request["upstream_ms"] <= request["duration_ms"]
    text = json.dumps(seen)
    assert not any(secret in text for secret in (PROMPT, ANSWER, "sk-upstream", "127.0.0.1:" + str(proxy.port)))
    assert "client_ip" not in request


async def test_replicas_are_shown_with_breaker_zone_profile_and_what_runs_there(upstream, start_proxy):
    release = asyncio.Event()
    async with ScriptedUpstream([release, whole(completion())]) as slow:
        proxy = await start_proxy(slow.url)
        async with looking(proxy) as events, asyncio.TaskGroup() as group:
            group.create_task(ask(proxy))
            seen = await events.until(lambda seen: seen["replicas"][0]["in_flight"] == 1)
            release.set()

    assert (seen["in_flight"], seen["oldest_s"] > 0) == (1, True)
    [replica] = seen["replicas"]
    assert replica == {
        "name": slow.url.removeprefix("http://"),
        "health": "healthy",
        "breaker": "closed",
        "breakers": {"closed": 1, "open": 0, "half_open": 0},
        "zone": "",
        "profile": "vllm-mistral-tokenizer",
        "weight": 1.0,
        "in_flight": 1,
        "requests": 1,
        "failures": 0,
    }


async def test_rates_percentiles_and_rules_are_those_of_what_happens_while_somebody_looks(start_proxy):
    gates = [asyncio.Event(), asyncio.Event()]
    pieces = [event(text_chunk("one")), gates[0], event(text_chunk("two")), gates[1], event(text_chunk("three"))]
    script = [STREAM_HEAD, *pieces, event(text_chunk("", finish="stop")), DONE, STREAM_END]
    async with ScriptedUpstream(script) as upstream:
        proxy = await start_proxy(upstream.url)
        async with looking(proxy) as events:
            before = await events.next()
            async with proxy.chat(stream=True, messages=[{"role": "developer", "content": "x"}]) as response:
                for word, gate in zip((b"one", b"two"), gates, strict=True):
                    while word not in await response.content.readline():
                        pass
                    gate.set()
                await response.read()
            seen = await events.until(lambda seen: seen["requests"]["total"])

    assert before["spreads"]["ttft"] == {"count": 0, "p50": None, "p90": None, "p99": None, "largest_ms": 300_000}
    assert seen["requests"]["per_s"] == seen["requests"]["by_status"]["2xx"] > 0
    assert seen["spreads"]["ttft"]["count"] == seen["spreads"]["overhead"]["count"] == 1
    assert seen["spreads"]["gap"]["count"] >= 2
    assert seen["events_per_s"] > 0
    assert {"developer_to_system": 1}.items() <= {rule["name"]: rule["count"] for rule in seen["rules"]}.items()


async def test_an_answer_that_goes_out_in_one_piece_has_no_gap(start_proxy):
    async with ScriptedUpstream([text_stream("Hel", "lo")]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with looking(proxy) as events:
            await events.next()
            await ask(proxy, stream=True)
            seen = await events.until(lambda seen: seen["requests"]["total"])

    assert (seen["spreads"]["ttft"]["count"], seen["spreads"]["gap"]["count"]) == (1, 0)


async def test_an_error_is_shown_also_of_a_path_that_is_not_of_the_api(upstream, start_proxy):
    proxy = await start_proxy(upstream.url)
    await status_of(proxy, "/nowhere")
    await status_of(proxy, "/livez")

    async with looking(proxy) as events:
        seen = await events.next()

    assert [(error["path"], error["status"], error["error"]) for error in seen["errors"]] == [
        ("/nowhere", 404, "not_found")
    ]
    assert seen["recent"] == []


async def test_who_looks_is_not_among_what_runs(upstream, start_proxy):
    proxy = await start_proxy(upstream.url)
    async with looking(proxy) as first, looking(proxy) as second:
        await first.next()
        seen = await second.next()
        assert (seen["in_flight"], seen["oldest_s"], len(proxy.edge.in_flight)) == (0, 0, 0)
    await until(lambda: len(proxy.log.lines("request")) == 2)

    async with proxy.session.get(f"{proxy.url}/metrics") as response:
        assert "devstral_proxy_in_flight_requests 1.0\n" in await response.text()
    assert "inter_token_gap_seconds_count 0.0\n" in await response.text()


# --- what it costs


async def test_nothing_is_computed_after_the_last_viewer_has_left(upstream, start_proxy):
    proxy = await start_proxy(upstream.url)
    assert not proxy.edge.watch.is_running

    async with looking(proxy) as first:
        await first.next()
        async with looking(proxy) as second:
            await second.next()
        await until(lambda: proxy.log.lines("request"))
        assert proxy.edge.watch.is_running

    await until(lambda: not proxy.edge.watch.is_running)


async def test_there_are_so_many_viewers_and_no_more(upstream, start_proxy):
    proxy = await start_proxy(upstream.url)
    async with AsyncExitStack() as stack:
        viewers = [await stack.enter_async_context(looking(proxy)) for _ in range(MOST_VIEWERS)]
        assert await status_of(proxy, "/ui/events") == 429
        assert all([await viewer.next() for viewer in viewers])
    await until(lambda: not proxy.edge.watch.is_running)

    async with looking(proxy) as events:
        assert await events.next()


async def test_what_is_shown_is_computed_once_for_all_and_a_late_viewer_has_it_at_once():
    calls = []

    def look():
        calls.append(1)
        return b"%d" % len(calls)

    watch = Watch()
    async with watch.entered(look) as first:
        assert await watch.next(first) == (1, b"1")
        async with watch.entered(look) as second:
            assert await watch.next(second) == (1, b"1")
    assert not watch.is_running
    async with watch.entered(look) as later:
        assert await watch.next(later) == (2, b"2")


async def test_what_goes_wrong_in_computing_is_told_to_all_who_look():
    def failing():
        raise ValueError("no numbers")

    watch = Watch()
    async with watch.entered(failing) as seen:
        with pytest.raises(ValueError, match="no numbers"):
            await watch.next(seen)


# --- who may look


@pytest.mark.parametrize(
    ("setting", "is_local", "host", "status"),
    [
        ("auto", True, "127.0.0.1:9000", 200),
        ("auto", True, "localhost", 200),
        ("auto", True, "[::1]:9000", 200),
        ("auto", True, "rebound.example:9000", 404),
        ("auto", False, "127.0.0.1:9000", 404),
        ("on", False, "proxy.example", 200),
        ("off", True, "localhost", 404),
    ],
)
async def test_it_is_there_where_the_setting_says_so(upstream, start_proxy, setting, is_local, host, status):
    proxy = await start_proxy(upstream.url, ui=setting)
    proxy.edge.is_local = is_local

    assert {path: await status_of(proxy, path, Host=host) for path in (*PAGES, "/ui/events")} == dict.fromkeys(
        (*PAGES, "/ui/events"), status
    )


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 200), ("localhost", 200), ("0.0.0.0", 404)])
async def test_off_loopback_there_is_none_by_default(start_process, host, status):
    process = await start_process("--host", host, "--auth", "open", WORKERS="1")

    async with aiohttp.ClientSession() as session, session.get(f"{process.url}/ui") as response:
        assert response.status == status


async def test_with_authentication_the_page_is_for_anybody_and_the_events_are_for_operators(upstream, start_proxy):
    (operator, first), (other, second) = (new_key(name, tier, datetime.now(UTC), None) for name, tier in KEYS)
    proxy = await start_proxy(upstream.url, keys=encode_entries([first, second]), tiers=TIERS)

    assert [await status_of(proxy, path) for path in PAGES] == [200] * len(PAGES)
    async with proxy.session.get(f"{proxy.url}/ui") as response:
        assert 'data-key="required"' in await response.text()
    assert await status_of(proxy, "/ui/events") == 401
    async with proxy.session.head(f"{proxy.url}/ui/events") as response:
        assert response.status == 401
    assert await status_of(proxy, "/ui/events", Authorization=f"Bearer {other}") == 403
    async with looking(proxy, Authorization=f"Bearer {operator}") as events:
        seen = await events.next()
    assert [error["status"] for error in seen["errors"]] == [403, 401, 401]
    assert operator not in json.dumps(seen)
    assert other not in json.dumps(seen)


KEYS = (("olga", "ops"), ("alice", ""))


async def test_a_viewer_whose_key_is_revoked_sees_no_more(upstream, start_proxy):
    key, entry = new_key("olga", "ops", datetime.now(UTC), None)
    _, other = new_key("alice", "", datetime.now(UTC), None)
    proxy = await start_proxy(upstream.url, keys=encode_entries([entry]), tiers=TIERS)

    async with looking(proxy, Authorization=f"Bearer {key}") as events:
        await events.next()
        await proxy.edge.reload(msgspec.structs.replace(proxy.edge.config, keys=encode_entries([other])))
        seen = await events.until(lambda seen: "error" in seen)

    assert seen["error"]["code"] == "invalid_api_key"


async def test_a_page_from_elsewhere_cannot_take_the_viewers_places(upstream, start_proxy):
    proxy = await start_proxy(upstream.url)

    assert await status_of(proxy, "/ui/events", **{"Sec-Fetch-Site": "cross-site"}) == 403
    assert await status_of(proxy, "/ui/events", **{"Sec-Fetch-Site": "same-origin"}) == 200


async def test_a_head_of_the_events_ends(upstream, start_proxy):
    proxy = await start_proxy(upstream.url)
    async with proxy.session.head(f"{proxy.url}/ui/events") as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")


async def test_what_belongs_to_the_page_has_its_type_and_a_policy_that_allows_nothing_inline(upstream, start_proxy):
    proxy = await start_proxy(upstream.url)
    types = {}
    for path in PAGES:
        async with proxy.session.get(proxy.url + path) as response:
            types[path] = response.content_type
            policy = response.headers["Content-Security-Policy"]
            body = await response.text()
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "://" not in body.replace("http://www.w3.org/2000/svg", "")

    assert list(types.values()) == ["text/html", "text/javascript", "text/css", "image/svg+xml"]


# --- several workers, and the end


async def test_what_is_summed_is_of_all_workers_and_the_page_says_which_one_it_is_of(start_process):
    process = await start_process(WORKERS="2")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        for _ in range(12):  # each on a connection of its own, which the kernel deals out
            async with session.post(f"{process.url}/v1/chat/completions", json={"messages": "none"}) as response:
                assert response.status == 400
        async with session.get(f"{process.url}/ui/events") as response:
            seen = await Events(response).until(lambda seen: seen["requests"]["total"] == 12)
            assert (seen["workers"], seen["worker"] in (1, 2)) == (2, True)
            assert len(seen["recent"]) <= 12
            process.signal(signal.SIGTERM)
            assert await process.exit_code() == 0


async def test_a_viewer_who_does_not_read_loses_his_place(upstream, start_proxy, monkeypatch):
    large = b"1" * 32 * 1024 * 1024
    monkeypatch.setattr("proxy.edge.ui.page._SLOWEST_S", 0.1)
    monkeypatch.setattr("proxy.edge.ui.page.looking", lambda edge: lambda: large)
    proxy = await start_proxy(upstream.url)
    _, writer = await proxy.raw(b"GET /ui/events HTTP/1.1\r\nHost: localhost\r\n\r\n")

    line = await proxy.log.line()
    assert (line["status"], line["error"], proxy.edge.watch.is_running) == (499, "client_disconnect", False)
    writer.close()


async def test_the_end_of_the_process_does_not_wait_for_viewers(upstream, start_proxy):
    proxy = await start_proxy(upstream.url)
    async with looking(proxy) as events:
        await events.next()
        proxy.edge.in_flight.is_draining = True
        async with asyncio.timeout(5):
            await proxy.edge.in_flight.wait()
            rest = await events.response.read()

    assert rest.count(b"data: ") <= 1
