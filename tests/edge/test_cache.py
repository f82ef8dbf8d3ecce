"""The cache of answers from end to end: what is asked of the model server, and what is answered without it."""

import asyncio
import json

import msgspec
import pytest

from proxy.config import ModelSettings
from proxy.edge.cache import digest_of
from proxy.translate.profile import build_profile
from proxy.translate.request import asked_whole, translate_request
from tests.fakes import (
    DONE,
    STREAM_END,
    STREAM_HEAD,
    Do,
    ScriptedUpstream,
    completion,
    event,
    head,
    text_chunk,
    text_stream,
    until,
    whole,
)

USE = {"x-proxy-cache": "use"}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "abcDEF123", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
USAGE = {"prompt_tokens": 3, "total_tokens": 5, "completion_tokens": 2}


class Answered:
    """What a client got."""

    def __init__(self, status, headers, body):
        self.status = status
        self.cache = headers.get("x-proxy-cache")
        self.age = headers.get("age")
        self.body = body

    @property
    def chunks(self):
        assert self.body.endswith(b"data: [DONE]\n\n")
        blocks = (block.removeprefix(b"data: ") for block in self.body.split(b"\n\n") if block.startswith(b"data: {"))
        return [json.loads(block) for block in blocks]

    @property
    def text(self):
        if self.body.startswith(b"{"):
            return json.loads(self.body)["choices"][0]["message"]["content"]
        deltas = [choice["delta"] for chunk in self.chunks for choice in chunk["choices"]]
        return "".join(delta.get("content") or "" for delta in deltas)


async def ask(proxy, headers=USE, **fields):
    body = {"model": "devstral", "messages": [{"role": "user", "content": "Hi"}]} | fields
    async with proxy.session.post(f"{proxy.url}/v1/chat/completions", json=body, headers=headers) as response:
        return Answered(response.status, response.headers, await response.read())


def counted_stream(*events):
    """A streamed answer with its usage, which the proxy always asks for."""
    usage = event({**text_chunk(), "choices": [], "usage": USAGE})
    return STREAM_HEAD + b"".join(map(event, events)) + usage + DONE + STREAM_END


TEXT_STREAM = counted_stream(
    text_chunk("", role="assistant"), *map(text_chunk, ("Hel", "lo")), text_chunk("", finish="stop")
)


def chunk_of(delta, finish=None):
    chunk = text_chunk(finish=finish)
    chunk["choices"][0]["delta"] = delta
    return chunk


# --- one entry for whole and streamed answers


FORMS = {
    "whole": {},
    "streamed": {"stream": True},
    "streamed with usage": {"stream": True, "stream_options": {"include_usage": True}},
}


@pytest.mark.parametrize("second", FORMS)
@pytest.mark.parametrize("first", FORMS)
async def test_one_entry_answers_every_form(start_proxy, first, second):
    async with ScriptedUpstream([TEXT_STREAM if "stream" in FORMS[first] else whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask")
        asked = await ask(proxy, **FORMS[first])
        again = await ask(proxy, **FORMS[second])

        assert (asked.cache, asked.age, asked.text) == ("miss", None, "Hello")
        assert (again.status, again.cache, again.age, again.text) == (200, "hit", "0", "Hello")
        assert len(upstream.requests) == 1
        if second == "whole":
            assert json.loads(again.body)["usage"] == USAGE
        else:
            assert [chunk["usage"] for chunk in again.chunks if "usage" in chunk] == [USAGE] * ("usage" in second)


@pytest.mark.parametrize("stream", [False, True])
async def test_one_entry_answers_every_front_door(start_proxy, stream):
    doors = {
        "chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50},
        "messages": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50},
        "responses": {"input": "Hi", "max_output_tokens": 50},
    }
    async with ScriptedUpstream([TEXT_STREAM if stream else whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask")
        answers = []
        for door, fields in doors.items():
            # as front doors write: blanks inside a message are part of what is asked
            body = json.dumps({"model": "devstral", "stream": stream} | fields, separators=(",", ":"))
            headers = {**USE, "Content-Type": "application/json"}
            async with proxy.session.post(f"{proxy.url}/v1/{door}", data=body, headers=headers) as response:
                answers.append((response.headers["x-proxy-cache"], b"Hel" in await response.read()))

        assert answers == [("miss", True), ("hit", True), ("hit", True)]
        assert len(upstream.requests) == 1


@pytest.mark.parametrize("second", FORMS)
@pytest.mark.parametrize("first", FORMS)
async def test_calls_and_thoughts_are_kept(start_proxy, first, second):
    fragment = {"index": 0, **CALL}
    stream = counted_stream(
        chunk_of({"role": "assistant", "content": ""}),
        chunk_of({"reasoning": "Hm"}),
        chunk_of({"reasoning": "m."}),
        chunk_of({"tool_calls": [{**fragment, "function": {"name": "get_weather", "arguments": '{"city": '}}]}),
        chunk_of({"tool_calls": [{"index": 0, "function": {"arguments": '"Paris"}'}}]}),
        chunk_of({}, "tool_calls"),
    )
    message = {"role": "assistant", "content": None, "reasoning": "Hmm.", "tool_calls": [CALL]}
    body = completion()
    body["choices"][0] |= {"message": message, "finish_reason": "tool_calls"}
    async with ScriptedUpstream([stream if "stream" in FORMS[first] else whole(body)]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask")
        await ask(proxy, tools=[TOOL], **FORMS[first])
        again = await ask(proxy, tools=[TOOL], **FORMS[second])

        assert (again.cache, len(upstream.requests)) == ("hit", 1)
        if second == "whole":
            choice = json.loads(again.body)["choices"][0]
            assert (choice["finish_reason"], choice["message"]["tool_calls"]) == ("tool_calls", [CALL])
            assert (choice["message"]["reasoning"], choice["message"]["reasoning_content"]) == ("Hmm.", "Hmm.")
        else:
            deltas = [choice["delta"] for chunk in again.chunks for choice in chunk["choices"]]
            assert [delta["tool_calls"] for delta in deltas if "tool_calls" in delta] == [[fragment]]
            assert [delta["reasoning"] for delta in deltas if "reasoning" in delta] == ["Hmm."]


async def test_a_hit_is_logged_as_what_it_was_and_costs_no_tokens(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask")
        await ask(proxy)
        await ask(proxy)
        await until(lambda: len(proxy.log.lines("request")) == 2)
        miss, hit = proxy.log.lines("request")

        assert (miss["cache"], miss["tokens_out"], miss["attempts"]) == ("miss", 2, 1)
        assert (hit["cache"], hit["tokens_out"], hit["attempts"]) == ("hit", None, 0)
        assert (hit["finish_reason"], hit["upstream_ms"], hit["replica"]) == ("stop", None, None)
        assert [replica.in_flight for replica in proxy.edge.pool.replicas] == [0]


async def test_a_hit_names_the_rules_that_made_the_answer(start_proxy):
    thinking = completion("<think>Hm.</think>Hello")
    async with ScriptedUpstream([whole(thinking)]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask")
        for _ in range(2):
            async with proxy.session.post(
                f"{proxy.url}/v1/chat/completions",
                json={"model": "devstral", "messages": [{"role": "user", "content": "Hi"}]},
                headers=USE,
            ) as response:
                rules, answer = response.headers["x-proxy-rewrites"], await response.json()

        assert "think_tags_to_reasoning" in rules
        assert answer["choices"][0]["message"]["content"] == "Hello"
        assert len(upstream.requests) == 1


async def test_an_answer_that_was_asked_for_again_whole_is_kept(start_proxy):
    """R4: the stream swallowed the answer, the same replica is asked without streaming."""
    silent = counted_stream(text_chunk("", role="assistant"), text_chunk("", finish="tool_calls"))
    body = completion()
    body["choices"][0] |= {"message": {"role": "assistant", "tool_calls": [CALL]}, "finish_reason": "tool_calls"}
    async with ScriptedUpstream([silent], [whole(body)]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask", options={"retry_swallowed": "non_stream"})
        await ask(proxy, tools=[TOOL], stream=True)
        again = await ask(proxy, tools=[TOOL])

        assert (again.cache, len(upstream.requests)) == ("hit", 2)
        assert json.loads(again.body)["choices"][0]["message"]["tool_calls"] == [CALL]


async def test_an_upstream_that_is_never_asked_to_stream_fills_the_cache_for_streams(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask", options={"upstream_stream": "never"})
        await ask(proxy, stream=True)
        again = await ask(proxy, stream=True)

        assert (again.cache, again.text, len(upstream.requests)) == ("hit", "Hello", 1)


# --- who may use it


@pytest.mark.parametrize(
    ("policy", "headers", "fields", "results"),
    [
        ("off", USE, {"temperature": 0}, [None, None]),
        ("off", {"x-proxy-cache": "nonsense"}, {}, [None, None]),
        ("ask", {}, {"temperature": 0}, ["bypass", "bypass"]),
        ("ask", USE, {"temperature": 1.5}, ["miss", "hit"]),
        ("ask", {"x-proxy-cache": " USE "}, {}, ["miss", "hit"]),
        ("on", {}, {"temperature": 0}, ["miss", "hit"]),
        ("on", {}, {"temperature": 0.0}, ["miss", "hit"]),
        ("on", {}, {"temperature": 0.0001}, ["bypass", "bypass"]),
        ("on", {}, {"temperature": False}, ["bypass", "bypass"]),
        ("on", {}, {}, ["bypass", "bypass"]),
        ("on", USE, {"temperature": 1}, ["miss", "hit"]),
        ("on", {"x-proxy-cache": "bypass"}, {"temperature": 0}, ["bypass", "bypass"]),
        ("on", {"x-proxy-cache": "use, bypass"}, {"temperature": 0}, ["bypass", "bypass"]),
        ("on", {"Cache-Control": "no-store"}, {"temperature": 0}, ["bypass", "bypass"]),
        ("on", {"Cache-Control": "max-age=5, No-Store", **USE}, {}, ["bypass", "bypass"]),
        ("on", {"Cache-Control": "no-cache"}, {"temperature": 0}, ["miss", "miss"]),
        ("on", {"Cache-Control": "max-age=5"}, {"temperature": 0}, ["miss", "hit"]),
    ],
)
async def test_who_asks_the_cache(start_proxy, policy, headers, fields, results):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, cache=policy)
        answers = [await ask(proxy, headers, **fields) for _ in results]

        assert [answer.cache for answer in answers] == results
        assert len(upstream.requests) == len(results) - results.count("hit")


async def test_a_request_that_does_not_read_the_cache_still_fills_it(start_proxy):
    async with ScriptedUpstream([whole(completion("old"))], [whole(completion("new"))]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask")
        await ask(proxy)
        anew = await ask(proxy, USE | {"Cache-Control": "no-cache"})
        again = await ask(proxy)

        assert [anew.text, again.text, again.cache] == ["new", "new", "hit"]


async def test_a_word_that_is_not_known_is_refused_and_leaves_no_trace(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask")
        refused = await ask(proxy, {"x-proxy-cache": "please"})

        assert (refused.status, json.loads(refused.body)["error"]["param"]) == (400, "x-proxy-cache")
        assert (upstream.requests, proxy.edge.pool.replicas[0].in_flight) == ([], 0)


async def test_a_model_may_differ(start_proxy):
    models = {"devstral": ModelSettings(cache="on"), "other": ModelSettings(), "third": ModelSettings(cache="off")}
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask", models=models)
        results = {
            model: [(await ask(proxy, {}, model=model, temperature=0)).cache for _ in range(2)]
            for model in (*models, "unknown")
        }

        assert results == {
            "devstral": ["miss", "hit"],
            "other": ["bypass", "bypass"],
            "third": [None, None],
            "unknown": ["bypass", "bypass"],
        }


async def test_one_model_s_cache_is_enough_to_have_one(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, models={"devstral": ModelSettings(cache="ask")})

        assert [(await ask(proxy)).cache for _ in range(2)] == ["miss", "hit"]
        assert (await ask(proxy, model="other")).cache is None


async def test_the_temperature_that_counts_is_the_one_that_goes_upstream(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, cache="on", options={"default_temperature": 0.0})

        assert [(await ask(proxy, {})).cache for _ in range(2)] == ["miss", "hit"]
        assert upstream.requests[0].json["temperature"] == 0


async def test_answers_that_are_not_read_are_not_kept(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, cache="on", profile="passthrough")

        assert [(await ask(proxy, temperature=0)).cache for _ in range(2)] == ["bypass", "bypass"]


KEYS = {"api_keys": "first-client-key,second-client-key", "auth": "required"}


def as_client(name):
    return USE | {"Authorization": f"Bearer {name}-client-key"}


@pytest.mark.parametrize(("is_shared", "second"), [(False, "miss"), (True, "hit")])
async def test_principals_share_answers_only_where_that_is_configured(start_proxy, is_shared, second):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask", cache_shared=is_shared, **KEYS)
        results = [(await ask(proxy, as_client(name))).cache for name in ("first", "second", "first", "second")]

        assert results == ["miss", second, "hit", "hit"]


async def test_a_key_that_takes_another_one_s_place_does_not_take_its_answers(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask", **KEYS)
        await ask(proxy, as_client("first"))
        await proxy.edge.reload(msgspec.structs.replace(proxy.edge.config, api_keys="second-client-key"))

        assert (await ask(proxy, as_client("second"))).cache == "miss"


# --- what is kept, and for how long


async def test_an_entry_is_over_after_its_time(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask", cache_ttl_s=0.05)
        await ask(proxy)
        await until(lambda: not len(proxy.edge.cache._memory))

        assert (await ask(proxy)).cache == "miss"


async def test_what_does_not_fit_is_not_kept(start_proxy):
    async with ScriptedUpstream([whole(completion("x" * 5000))]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask", cache_max_bytes=5000)

        assert [(await ask(proxy)).cache for _ in range(2)] == ["miss", "miss"]
        assert proxy.edge.cache._memory.held_bytes == 0


async def test_the_oldest_makes_room(start_proxy):
    async with ScriptedUpstream([whole(completion("x" * 1000))]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask", cache_max_bytes=6000)
        for seed in (1, 2, 3):
            await ask(proxy, seed=seed)

        assert [(await ask(proxy, seed=seed)).cache for seed in (3, 2, 1)] == ["hit", "hit", "miss"]


LENGTH = completion()
LENGTH["choices"][0]["finish_reason"] = "length"
REFUSED = {"error": {"message": "too long", "type": "BadRequestError", "param": None, "code": 400}}
NOT_KEPT = {
    "truncated": ({}, [whole(LENGTH)]),
    "truncated stream": ({"stream": True}, [counted_stream(text_chunk("Hel"), text_chunk("lo", finish="length"))]),
    "empty": ({}, [whole(completion(""))]),
    "refused": ({}, [whole(REFUSED, 400)]),
    "refused in a 200": ({}, [whole(REFUSED)]),
    "overloaded": ({}, [whole(REFUSED, 503)]),
    "cut": ({}, [head(content_type="application/json", content_length="500"), b'{"id"', Do.RESET]),
    "cut stream": ({"stream": True}, [STREAM_HEAD, event(text_chunk("Hel")), 0.02, Do.RESET]),
    "ended stream": ({"stream": True}, [STREAM_HEAD, event(text_chunk("Hel")), STREAM_END]),
    "stream without [DONE]": ({"stream": True}, [STREAM_HEAD, event(text_chunk("Hel", finish="stop")), STREAM_END]),
    "failed stream": ({"stream": True}, [STREAM_HEAD, event(text_chunk("Hel")), event(REFUSED), DONE, STREAM_END]),
    "stream of unknown cost": ({"stream": True}, [text_stream("Hel", "lo")]),
}


@pytest.mark.parametrize("name", NOT_KEPT)
async def test_only_answers_that_came_to_their_own_end_are_kept(start_proxy, name):
    fields, script = NOT_KEPT[name]
    async with ScriptedUpstream(script) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask", max_attempts=1)

        assert [(await ask(proxy, **fields)).cache for _ in range(2)] == ["miss", "miss"]
        assert len(upstream.requests) == 2
        assert (len(proxy.edge.cache._memory), len(proxy.edge.cache.flights)) == (0, 0)


async def test_an_answer_whose_client_left_is_not_kept(start_proxy):
    script = [STREAM_HEAD, event(text_chunk("Hel")), Do.WAIT_FOR_PEER]
    async with ScriptedUpstream(script, [TEXT_STREAM]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask")
        body = {"model": "devstral", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        async with proxy.session.post(f"{proxy.url}/v1/chat/completions", json=body, headers=USE) as response:
            await response.content.readany()
            response.close()
        await asyncio.wait_for(upstream.left.wait(), 5)
        again = await ask(proxy, stream=True)

        assert (again.cache, again.text) == ("miss", "Hello")
        assert len(proxy.edge.cache.flights) == 0


async def test_an_answer_that_another_replica_went_on_with_is_not_kept(start_proxy, monkeypatch):
    monkeypatch.setattr("proxy.upstream.pool.make_policy", lambda name: lambda loads, ask: loads[0])
    first = [STREAM_HEAD, event(text_chunk("", role="assistant")), event(text_chunk("Hel")), 0.02, Do.RESET]
    rest = counted_stream(text_chunk("", role="assistant"), text_chunk("lo"), text_chunk("", finish="stop"))
    async with ScriptedUpstream(first) as a, ScriptedUpstream([rest]) as b:
        proxy = await start_proxy(f"{a.url},{b.url}", cache="ask")
        asked = await ask(proxy, stream=True)

        assert (asked.text, len(b.requests)) == ("Hello", 1)
        assert len(proxy.edge.cache._memory) == 0


# --- the same question at the same time


def held_open(gate, answer):
    """A script that answers when the gate opens."""
    return [gate, answer]


async def waiting_for(proxy, upstream, count, **fields):
    """Return the tasks of so many identical requests, when one of them asks and the others wait."""
    tasks = [asyncio.create_task(ask(proxy, **fields)) for _ in range(count)]
    flights = proxy.edge.cache.flights
    await until(lambda: upstream.requests and sum(map(len, flights._waiting.values())) == count - 1)
    return tasks


@pytest.mark.parametrize("stream", [False, True])
async def test_twenty_identical_requests_are_one_for_the_model_server(start_proxy, stream):
    gate = asyncio.Event()
    async with ScriptedUpstream(held_open(gate, TEXT_STREAM if stream else whole(completion()))) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask")
        tasks = await waiting_for(proxy, upstream, 20, stream=stream)
        busy = [replica.in_flight for replica in proxy.edge.pool.replicas]
        gate.set()
        answers = await asyncio.gather(*tasks)

        assert [answer.text for answer in answers] == ["Hello"] * 20
        assert sorted(answer.cache for answer in answers) == ["hit"] * 19 + ["miss"]
        assert (len(upstream.requests), busy) == (1, [1])
        assert [replica.in_flight for replica in proxy.edge.pool.replicas] == [0]
        assert len(proxy.edge.cache.flights) == 0


@pytest.mark.parametrize("first", [False, True])
async def test_whole_and_streamed_requests_wait_for_each_other(start_proxy, first):
    gate = asyncio.Event()
    async with ScriptedUpstream(held_open(gate, TEXT_STREAM if first else whole(completion()))) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask")
        leader = asyncio.create_task(ask(proxy, stream=first))
        await until(lambda: upstream.requests)
        follower = asyncio.create_task(ask(proxy, stream=not first))
        await until(lambda: sum(map(len, proxy.edge.cache.flights._waiting.values())) == 1)
        gate.set()

        assert [(await task).text for task in (leader, follower)] == ["Hello", "Hello"]
        assert len(upstream.requests) == 1


async def test_a_leader_that_streams_gets_its_answer_as_it_comes(start_proxy):
    gate = asyncio.Event()
    script = [STREAM_HEAD, event(text_chunk("Hel", role="assistant")), gate]
    rest = [text_chunk("lo"), text_chunk("", finish="stop"), {**text_chunk(), "choices": [], "usage": USAGE}]
    async with ScriptedUpstream([*script, *map(event, rest), DONE, STREAM_END]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask")
        body = {"model": "devstral", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        async with proxy.session.post(f"{proxy.url}/v1/chat/completions", json=body, headers=USE) as response:
            early = await response.content.readany()
            gate.set()
            rest = await response.content.read()

        assert b'"Hel"' in early
        assert b'"lo"' in rest


@pytest.mark.parametrize(
    "failure",
    [[whole(REFUSED, 400)], [head(content_type="application/json", content_length="9"), Do.RESET]],
    ids=["refused", "cut"],
)
async def test_when_the_first_one_fails_the_next_one_asks_and_the_others_wait_on(start_proxy, failure):
    gate, second = asyncio.Event(), asyncio.Event()
    async with ScriptedUpstream([gate, *failure], held_open(second, whole(completion()))) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask", max_attempts=1)
        tasks = await waiting_for(proxy, upstream, 5)
        gate.set()
        await until(lambda: len(upstream.requests) == 2)
        waits = sum(map(len, proxy.edge.cache.flights._waiting.values()))
        second.set()
        answers = await asyncio.gather(*tasks)

        assert waits == 3
        assert sorted(answer.cache for answer in answers) == ["hit"] * 3 + ["miss"] * 2
        assert len(upstream.requests) == 2
        assert [replica.in_flight for replica in proxy.edge.pool.replicas] == [0]


@pytest.mark.parametrize("stream", [False, True])
async def test_behind_a_truncated_answer_all_that_wait_ask_at_once(start_proxy, stream):
    cut = counted_stream(text_chunk("Hel"), text_chunk("lo", finish="length")) if stream else whole(LENGTH)
    gate, rest = asyncio.Event(), asyncio.Event()
    async with ScriptedUpstream([gate, cut], *[[rest, cut] for _ in range(4)]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask")
        tasks = await waiting_for(proxy, upstream, 5, stream=stream)
        gate.set()
        await until(lambda: len(upstream.requests) == 5)
        rest.set()

        assert [(await task).cache for task in tasks] == ["miss"] * 5


async def test_when_the_first_one_s_client_leaves_the_next_one_asks(start_proxy):
    gate = asyncio.Event()
    async with ScriptedUpstream([Do.WAIT_FOR_PEER], held_open(gate, whole(completion()))) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask")
        leader = asyncio.create_task(ask(proxy))
        await until(lambda: upstream.requests)
        followers = [asyncio.create_task(ask(proxy)) for _ in range(3)]
        await until(lambda: sum(map(len, proxy.edge.cache.flights._waiting.values())) == 3)
        leader.cancel()
        await until(lambda: len(upstream.requests) == 2)
        gate.set()

        assert sorted(answer.cache for answer in await asyncio.gather(*followers)) == ["hit", "hit", "miss"]


async def test_a_client_that_leaves_while_it_waits_leaves_no_trace(start_proxy):
    gate = asyncio.Event()
    async with ScriptedUpstream(held_open(gate, whole(completion()))) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask")
        tasks = await waiting_for(proxy, upstream, 3)
        for task in tasks[1:]:
            task.cancel()
        await until(lambda: sum(map(len, proxy.edge.cache.flights._waiting.values())) == 0)
        gate.set()

        assert (await tasks[0]).text == "Hello"
        assert (len(upstream.requests), len(proxy.edge.cache.flights)) == (1, 0)
        assert [replica.in_flight for replica in proxy.edge.pool.replicas] == [0]


@pytest.mark.parametrize("header", ["x-proxy-first-byte-timeout", "x-proxy-timeout"])
async def test_who_has_waited_for_half_of_its_time_asks_by_itself(start_proxy, header):
    gate = asyncio.Event()
    async with ScriptedUpstream(held_open(gate, whole(completion("slow"))), [whole(completion("fast"))]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask")
        leader = asyncio.create_task(ask(proxy))
        await until(lambda: upstream.requests)
        hasty = await ask(proxy, USE | {header: "0.5"})
        gate.set()

        assert (hasty.text, hasty.cache, (await leader).text) == ("fast", "miss", "slow")


async def test_who_asks_by_itself_has_only_the_rest_of_its_time(start_proxy):
    async with ScriptedUpstream([Do.WAIT_FOR_PEER]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask", max_attempts=1)
        leader = asyncio.create_task(ask(proxy))
        await until(lambda: upstream.requests)
        hasty = await ask(proxy, USE | {"x-proxy-first-byte-timeout": "0.6"})
        error = json.loads(hasty.body)["error"]
        leader.cancel()

        assert (hasty.status, error["code"]) == (504, "upstream_timeout")
        assert "first_byte_timeout_s" in error["message"]
        assert float(error["message"].rpartition(" for ")[2].removesuffix(" s")) <= 0.3


async def test_a_stream_that_waits_is_kept_alive(start_proxy):
    gate = asyncio.Event()
    async with ScriptedUpstream(held_open(gate, whole(completion()))) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask", keep_alive_s=0.1)
        leader = asyncio.create_task(ask(proxy))
        await until(lambda: upstream.requests)
        body = {"model": "devstral", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        async with proxy.session.post(f"{proxy.url}/v1/chat/completions", json=body, headers=USE) as response:
            comment = await response.content.readany()
            gate.set()
            rest = await response.content.read()
        await leader

        assert (comment.startswith(b": keep-alive"), response.headers["x-proxy-cache"]) == (True, "miss")
        assert rest.endswith(b"data: [DONE]\n\n")
        assert len(upstream.requests) == 1


async def test_requests_that_do_not_read_the_cache_do_not_wait(start_proxy):
    gate = asyncio.Event()
    async with ScriptedUpstream(held_open(gate, whole(completion("slow"))), [whole(completion("new"))]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask")
        leader = asyncio.create_task(ask(proxy))
        await until(lambda: upstream.requests)
        anew = await ask(proxy, USE | {"Cache-Control": "no-cache"})
        gate.set()

        assert (anew.text, (await leader).text) == ("new", "slow")


# --- what is asked


def request_of(profile="vllm-mistral-tokenizer", options=None, **fields):
    body = {"model": "devstral", "messages": [{"role": "user", "content": "Hi"}]} | fields
    return translate_request(json.dumps(body).encode(), build_profile(profile, options))


def digest(request, who="somebody", profile="vllm-mistral-tokenizer"):
    return digest_of(who, profile, request)


def custom(name):
    return {"type": "custom", "custom": {"name": name, "description": "free text"}}


DIFFERENT = {
    "another text": {"messages": [{"role": "user", "content": "Hi "}]},
    "a limit": {"max_tokens": 5},
    "a temperature": {"temperature": 0.5},
    "another model": {"model": "other"},
    "a seed": {"seed": 1},
    "a tool": {"tools": [TOOL]},
    "another description": {
        "tools": [{"type": "function", "function": {**TOOL["function"], "description": "Tells the weather."}}]
    },
    "a tool's client name": {"tools": [{"type": "function", "function": {**TOOL["function"], "name": "get.weather"}}]},
    "another client name of the same": {
        "tools": [{"type": "function", "function": {**TOOL["function"], "name": "get weather"}}]
    },
    "a custom tool": {"tools": [custom("get_weather")]},
    "legacy functions": {"functions": [TOOL["function"]]},
    "a choice": {"tools": [TOOL], "tool_choice": "required"},
}


def test_whatever_shapes_an_answer_tells_questions_apart():
    digests = {name: digest(request_of(**fields)) for name, fields in DIFFERENT.items()}
    digests["nothing"] = digest(request_of())
    digests["other options"] = digest(request_of(options={"reasoning_field": "drop"}))
    digests["another profile"] = digest(request_of(), profile="vllm-hf-template")
    digests["another principal"] = digest(request_of(), who="somebody else")
    digests["no principal"] = digest(request_of(), who="")
    digests["all principals"] = digest(request_of(), who=None)

    assert len(set(digests.values())) == len(digests)


@pytest.mark.parametrize("name", request_of().expectation.__struct_fields__)
def test_every_field_of_the_expectation_but_two_tells_questions_apart(name):
    """Also one that is added later: it is in the digest without being named there."""
    request = request_of(tools=[TOOL])
    other = {
        "options": request_of(options={"bad_args": "repair"}).expectation.options,
        "model": "other",
        "stream": True,
        "usage_wanted": True,
        "tool_names": {"get_weather": "get weather"},
        "tool_choice": "none",
        "custom_tools": frozenset({"get_weather"}),
        "legacy_functions": True,
        "echoed_prefix": "x",
        "max_tokens": 7,
        "choices": 2,
    }[name]
    changed = msgspec.structs.replace(
        request, expectation=msgspec.structs.replace(request.expectation, **{name: other})
    )

    assert (digest(changed) == digest(request)) is (name in ("stream", "usage_wanted"))


def test_how_an_answer_travels_tells_nothing_apart():
    plain = digest(request_of())

    assert digest(request_of(stream=False)) == plain
    assert digest(request_of(stream=True)) == plain
    assert digest(request_of(stream=True, stream_options={"include_usage": True})) == plain
    assert digest(asked_whole(request_of(stream=True))) == plain


def test_the_order_of_members_tells_nothing_apart():
    assert digest(request_of(seed=1, top_p=0.5)) == digest(request_of(top_p=0.5, seed=1))


def test_the_order_in_which_a_process_holds_a_set_tells_nothing_apart():
    names = [f"tool_{number}" for number in range(50)]
    request = request_of(tools=[custom(name) for name in names])
    backwards = msgspec.structs.replace(
        request, expectation=msgspec.structs.replace(request.expectation, custom_tools=frozenset(reversed(names)))
    )

    assert digest(backwards) == digest(request)


def test_a_name_with_half_a_character_is_a_name():
    assert digest(request_of(), who="\ud800") != digest(request_of(), who="\ud801")


@pytest.mark.parametrize("size", [100, 300_000])
async def test_large_bodies_are_found_again_too(start_proxy, size):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask")
        messages = [{"role": "user", "content": "x" * size}]

        assert [(await ask(proxy, messages=messages)).cache for _ in range(2)] == ["miss", "hit"]


async def test_custom_and_function_tools_of_one_name_do_not_mix(start_proxy):
    body = completion()
    called = {**CALL, "function": {"name": "get_weather", "arguments": '{"input": "Paris"}'}}
    body["choices"][0] |= {"message": {"role": "assistant", "tool_calls": [called]}, "finish_reason": "tool_calls"}
    async with ScriptedUpstream([whole(body)]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask")
        kinds = []
        for tools in ([TOOL], [custom("get_weather")]) * 2:
            answer = await ask(proxy, tools=tools)
            kinds.append((answer.cache, json.loads(answer.body)["choices"][0]["message"]["tool_calls"][0]["type"]))

        assert kinds == [("miss", "function"), ("miss", "custom"), ("hit", "function"), ("hit", "custom")]


async def test_an_answer_to_another_profile_s_request_is_kept_as_that(start_proxy):
    """With `auto` a refusal teaches a rule, and the request is sent again with it."""
    refusal = {"error": {"message": "Unexpected role 'system' after role 'user'", "type": "BadRequestError"}}
    messages = [{"role": "user", "content": "Hi"}, {"role": "system", "content": "Be brief."}]
    probes = [[whole({}, 404)]] * 3  # of /version, /v1/models and /tokenize: it is not asked further
    async with ScriptedUpstream(*probes, [whole(refusal, 400)], [whole(completion("by rule"))]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask", profile="auto")
        await until(lambda: len(upstream.requests) == len(probes))
        answers = [await ask(proxy, messages=messages) for _ in range(2)]
        roles = [[message["role"] for message in request.json["messages"]] for request in upstream.requests[3:]]

        assert [(answer.cache, answer.text) for answer in answers] == [("miss", "by rule"), ("hit", "by rule")]
        assert roles == [["user", "system"], ["user", "user"]]


# --- a new configuration


async def test_switching_it_off_drops_what_was_kept(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask")
        await ask(proxy)
        config = proxy.edge.config
        await proxy.edge.reload(msgspec.structs.replace(config, cache="off"))
        off, held = await ask(proxy), proxy.edge.cache._memory.held_bytes
        await proxy.edge.reload(config)

        assert (off.cache, held) == (None, 0)
        assert (await ask(proxy)).cache == "miss"


async def test_a_new_bound_holds_at_once_and_what_fits_stays(start_proxy):
    async with ScriptedUpstream([whole(completion("x" * 1000))]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask")
        for seed in (1, 2, 3):
            await ask(proxy, seed=seed)
        await proxy.edge.reload(msgspec.structs.replace(proxy.edge.config, cache_max_bytes=6000))

        assert proxy.edge.cache._memory.held_bytes <= 6000
        assert (await ask(proxy, seed=3)).cache == "hit"
