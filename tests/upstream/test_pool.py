"""The replicas of one worker, over real sockets: choice, ejection, return, reload, DNS, TLS and Unix sockets."""

import asyncio
import os
import re
import ssl
import subprocess
from contextlib import AsyncExitStack

import msgspec
import pytest

from proxy.config import Backend, ConfigError, ModelSettings
from proxy.errors import UpstreamUnavailable
from proxy.upstream.breaker import State
from tests.fakes import DONE, STREAM_END, STREAM_HEAD, Do, ScriptedUpstream, completion, event, text_chunk, until, whole


def answering(name):
    return [whole(completion(name))]


def listed(*upstreams, **fields):
    return tuple(Backend(url=each.url, name=f"r{i}", **fields) for i, each in enumerate(upstreams))


async def text_of(proxy, **fields):
    async with proxy.chat(**fields) as response:
        body = await response.json()
        return body["choices"][0]["message"]["content"] if response.status == 200 else (response.status, body)


async def test_several_upstreams_share_the_requests(start_proxy):
    async with ScriptedUpstream(answering("a")) as a, ScriptedUpstream(answering("b")) as b:
        proxy = await start_proxy(f"{a.url},{b.url}", balance="round_robin")
        for _ in range(10):
            await text_of(proxy)

        assert (len(a.requests), len(b.requests)) == (5, 5)


async def test_weights_count(start_proxy):
    async with ScriptedUpstream(answering("a")) as a, ScriptedUpstream(answering("b")) as b:
        backends = (Backend(url=a.url, name="a", weight=3), Backend(url=b.url, name="b"))
        proxy = await start_proxy("", backends=backends, balance="round_robin")
        for _ in range(40):
            await text_of(proxy)

        assert 29 <= len(a.requests) <= 31  # where a round begins is each worker's own


async def test_a_model_goes_where_it_is_served_and_an_unknown_one_is_404(start_proxy):
    async with ScriptedUpstream(answering("a")) as a, ScriptedUpstream(answering("b")) as b:
        backends = (Backend(url=a.url, name="a", models=("small",)), Backend(url=b.url, name="b", models=("large",)))
        proxy = await start_proxy("", backends=backends)

        assert [await text_of(proxy, model=name) for name in ("small", "large", "small")] == ["a", "b", "a"]
        status, body = await text_of(proxy, model="nope")
        assert (status, body["error"]["code"], body["error"]["param"]) == (404, "model_not_found", "model")


async def test_the_models_of_all_are_one_list(start_proxy):
    def models(*names):
        return [whole({"object": "list", "data": [{"id": name, "max_model_len": 9} for name in names]})]

    async with ScriptedUpstream(models("small", "both")) as a, ScriptedUpstream(models("both", "large")) as b:
        backends = (
            Backend(url=a.url, name="a", models=("small", "both")),
            Backend(url=b.url, name="b", models=("large", "both")),
        )
        proxy = await start_proxy("", backends=backends)
        async with proxy.session.get(f"{proxy.url}/v1/models") as response:
            assert [model["id"] for model in (await response.json())["data"]] == ["small", "both", "large"]


async def test_each_replica_gets_its_own_key_and_profile(start_proxy):
    async with ScriptedUpstream(answering("a")) as a, ScriptedUpstream(answering("b")) as b:
        backends = (
            Backend(url=a.url, name="a", api_key="key-a", models=("a",)),
            Backend(url=b.url, name="b", api_key="key-b", models=("b",), profile="passthrough"),
        )
        proxy = await start_proxy("", backends=backends)
        history = [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "call_longer_than_nine", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ]},
            {"role": "tool", "tool_call_id": "call_longer_than_nine", "content": "y"},
        ]  # fmt: skip
        for name in "ab":
            await text_of(proxy, model=name, messages=history)

        assert [each.requests[0].header("authorization") for each in (a, b)] == ["Bearer key-a", "Bearer key-b"]
        ids = [each.requests[0].json["messages"][2]["tool_call_id"] for each in (a, b)]
        assert (len(ids[0]), ids[1]) == (9, "call_longer_than_nine")


async def test_the_own_zone_comes_first_and_the_other_one_is_used_when_it_is_gone(start_proxy):
    async with ScriptedUpstream(answering("far")) as far, ScriptedUpstream(answering("near")) as near:
        backends = (Backend(url=far.url, name="far", zone="us"), Backend(url=near.url, name="near", zone="eu"))
        proxy = await start_proxy("", backends=backends, zone="eu")
        assert {await text_of(proxy) for _ in range(5)} == {"near"}

        proxy.edge.pool.tripped(proxy.edge.pool.replicas[1], "gone")
        assert {await text_of(proxy) for _ in range(5)} == {"far"}


# --- coming and going


async def test_a_replica_that_returns_is_used_again_with_a_growing_share(start_proxy):
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(ScriptedUpstream(answering("a")))
        b = ScriptedUpstream(answering("b"))
        async with b:
            proxy = await start_proxy(f"{a.url},{b.url}", health_interval_s=0.05, eject_s=0.05, slow_start_s=3600)
        replica = proxy.edge.pool.replicas[1]
        await until(lambda: replica.breaker.state is State.OPEN)
        assert {await text_of(proxy) for _ in range(6)} == {"a"}

        await stack.enter_async_context(ScriptedUpstream(answering("b"), port=int(b.url.rpartition(":")[2])))
        await until(lambda: replica.breaker.state is State.HALF_OPEN)
        while replica.breaker.state is not State.CLOSED:
            await text_of(proxy)
        assert replica.weight < 0.2
        moves = [line["state"] for line in proxy.log.lines("replica_state") if line["replica"] == replica.name]
        assert moves == ["open", "half_open", "closed"]


async def test_a_half_open_replica_gets_one_request_at_a_time(start_proxy):
    release = asyncio.Event()
    async with ScriptedUpstream(answering("a")) as a, ScriptedUpstream([release, *answering("b")]) as b:
        proxy = await start_proxy(f"{a.url},{b.url}", balance="round_robin")
        pool, replica = proxy.edge.pool, proxy.edge.pool.replicas[1]
        pool.tripped(replica, "test")
        pool.healthy(replica)
        asked = [asyncio.ensure_future(text_of(proxy)) for _ in range(8)]
        await until(lambda: len(a.requests) == 7)

        assert len(b.requests) == 1
        release.set()
        await asyncio.gather(*asked)
        assert replica.breaker.state is State.CLOSED


async def test_a_client_that_leaves_ends_the_trial(start_proxy):
    async with ScriptedUpstream([Do.WAIT_FOR_PEER]) as a:
        proxy = await start_proxy(a.url)
        pool, replica = proxy.edge.pool, proxy.edge.pool.replicas[0]
        pool.tripped(replica, "test")
        pool.healthy(replica)
        asked = asyncio.ensure_future(text_of(proxy))
        await a.asked.wait()
        assert replica.is_on_trial
        asked.cancel()
        await until(lambda: not replica.is_on_trial)
        assert replica.in_flight == 0


async def test_a_replica_on_which_nothing_moves_gets_no_more_requests(start_proxy):
    async with ScriptedUpstream([Do.WAIT_FOR_PEER], answering("a")) as a, ScriptedUpstream(answering("b")) as b:
        proxy = await start_proxy(f"{a.url},{b.url}", wedge_timeout_s=0.2, balance="round_robin")
        stuck = [asyncio.ensure_future(text_of(proxy)) for _ in range(2)]
        replica = proxy.edge.pool.replicas[0]
        await until(lambda: replica.breaker.state is State.OPEN)

        assert {await text_of(proxy) for _ in range(4)} == {"b"}
        assert replica.in_flight == 1
        assert "wedge_timeout_s" in proxy.log.lines("replica_state")[0]["reason"]
        for task in stuck:
            task.cancel()


async def test_an_idle_replica_is_not_stuck(start_proxy):
    async with ScriptedUpstream(answering("a")) as a:
        proxy = await start_proxy(a.url, wedge_timeout_s=0.1)
        await text_of(proxy)
        await asyncio.sleep(1.2)  # one look of the keeper

        assert await text_of(proxy) == "a"
        assert proxy.log.lines("replica_state") == []


# --- another configuration


async def test_replicas_come_and_go_while_a_stream_runs(start_proxy):
    release = asyncio.Event()
    script = [STREAM_HEAD, event(text_chunk("Hel")), release, event(text_chunk("lo", finish="stop")), DONE, STREAM_END]
    async with ScriptedUpstream(script) as a, ScriptedUpstream(answering("b")) as b:
        proxy = await start_proxy(a.url)
        async with proxy.chat(stream=True) as response:
            await response.content.readuntil(b"\n\n")
            await proxy.edge.reload(msgspec.structs.replace(proxy.edge.config, vllm_base=b.url))

            assert await text_of(proxy) == "b"
            assert [replica.name for replica in proxy.edge.pool.replicas] == [b.url.removeprefix("http://")]
            release.set()
            assert (await response.content.read()).endswith(b"data: [DONE]\n\n")
        await until(lambda: a.open_connections == 0)


async def test_a_replica_that_stays_keeps_its_connections_and_its_state(start_proxy):
    async with ScriptedUpstream(answering("a")) as a, ScriptedUpstream(answering("b")) as b:
        proxy = await start_proxy(a.url)
        await text_of(proxy)
        before = proxy.edge.pool.replicas[0]
        await proxy.edge.reload(msgspec.structs.replace(proxy.edge.config, vllm_base=f"{a.url},{b.url}"))
        proxy.edge.pool.tripped(proxy.edge.pool.replicas[1], "test")
        await text_of(proxy)

        assert proxy.edge.pool.replicas[0] is before
        assert a.connections_made == 1


async def in_flight(proxy):
    """Return what the metrics say of each replica, by its address."""
    async with proxy.session.get(f"{proxy.url}/metrics") as response:
        found = re.findall(r'replica_in_flight\{replica="(.+?)"\} (\S+)', await response.text())
    return {name: float(number) for name, number in found}


async def test_a_replica_with_other_settings_is_still_told_of(start_proxy):
    async with ScriptedUpstream(answering("a")) as a:
        proxy = await start_proxy(a.url)
        await proxy.edge.reload(msgspec.structs.replace(proxy.edge.config, eject_after=7))
        await until(lambda: not proxy.edge.pool._retired)

        assert await in_flight(proxy) == {proxy.edge.pool.replicas[0].name: 0}


async def test_what_ends_on_a_replica_that_is_gone_is_not_counted_for_another(start_proxy):
    release = asyncio.Event()
    script = [STREAM_HEAD, event(text_chunk("Hel")), release, event(text_chunk("lo", finish="stop")), DONE, STREAM_END]
    async with ScriptedUpstream(script) as a, ScriptedUpstream(answering("b")) as b, ScriptedUpstream() as c:
        proxy = await start_proxy(a.url)
        async with proxy.chat(stream=True) as response:
            await response.content.readuntil(b"\n\n")
            for urls in (b.url, f"{b.url},{c.url}"):
                await proxy.edge.reload(msgspec.structs.replace(proxy.edge.config, vllm_base=urls))
            release.set()
            await response.content.read()
        await until(lambda: not proxy.edge.pool._retired)

        assert await in_flight(proxy) == {each.url.removeprefix("http://"): 0 for each in (b, c)}


@pytest.mark.parametrize(
    "bad",
    [{"backends": (Backend(url="http://a"),) * 2, "vllm_base": ""}, {"options": {"bridge": "nevr"}}, {"ca": True}],
    ids=["one name twice", "option", "certificates"],
)
async def test_a_configuration_that_cannot_be_used_changes_nothing(start_proxy, bad):
    async with ScriptedUpstream(answering("a")) as a:
        proxy = await start_proxy(a.url)
        before = proxy.edge.pool.replicas
        if "ca" in bad:
            bad = {"vllm_base": "", "backends": (Backend(url="https://x", ca_file="/nonexistent.pem"),)}
        with pytest.raises((ConfigError, ValueError, OSError)):
            await proxy.edge.reload(msgspec.structs.replace(proxy.edge.config, **bad))

        assert proxy.edge.pool.replicas == before
        assert await text_of(proxy) == "a"


async def test_a_model_may_have_timers_of_its_own(start_proxy):
    async with ScriptedUpstream([Do.WAIT_FOR_PEER]) as a:
        proxy = await start_proxy(a.url, models={"slow": ModelSettings(first_byte_timeout_s=0.1)})
        status, body = await text_of(proxy, model="slow")

        assert (status, body["error"]["code"]) == (504, "upstream_timeout")
        assert "first_byte_timeout_s" in body["error"]["message"]


# --- places


async def test_every_address_of_a_name_is_a_replica_and_they_follow_the_name(start_proxy, monkeypatch):
    """The resolver is the loop's: what it answers is the only thing that is not real here."""
    answers = [["127.0.0.1"]]

    async def addresses(url, timeout_s):
        if not answers[0]:
            raise OSError("no such name")
        return tuple(answers[0])

    monkeypatch.setattr("proxy.upstream.health.addresses_of", addresses)
    async with ScriptedUpstream(answering("1")) as a:
        port = int(a.url.rpartition(":")[2])
        backends = (Backend(url=f"http://vllm.example:{port}", name="headless", dns=True),)
        proxy = await start_proxy("", backends=backends, dns_refresh_s=0.05, health_interval_s=0.05)
        await until(lambda: len(proxy.edge.pool.replicas) == 1)
        assert await text_of(proxy) == "1"
        assert a.requests[0].header("host") == f"vllm.example:{port}"

        answers[0] = ["127.0.0.1", "127.0.0.2"]
        await until(lambda: len(proxy.edge.pool.replicas) == 2)
        answers[0] = []
        await until(lambda: proxy.log.lines("name_not_resolved"))
        assert proxy.log.lines("name_not_resolved")[0]["level"] == "warning"
        assert len(proxy.edge.pool.replicas) == 2
        answers[0] = ["127.0.0.2"]
        await until(lambda: [replica.name for replica in proxy.edge.pool.replicas] == [f"127.0.0.2:{port}"])


async def test_what_a_name_stands_for_is_looked_at_when_it_is_found_and_not_a_round_later(start_proxy, monkeypatch):
    async def addresses(url, timeout_s):
        return ("127.0.0.1",)

    monkeypatch.setattr("proxy.upstream.health.addresses_of", addresses)
    async with ScriptedUpstream(answering("1")) as a:
        backends = (Backend(url=f"http://vllm.example:{a.url.rpartition(':')[2]}", dns=True),)
        proxy = await start_proxy("", backends=backends, health_interval_s=3600)

        await until(lambda: proxy.edge.pool.is_ready)


async def test_a_name_without_addresses_is_502_that_says_so(start_proxy, monkeypatch):
    async def addresses(url, timeout_s):
        raise TimeoutError

    monkeypatch.setattr("proxy.upstream.health.addresses_of", addresses)
    proxy = await start_proxy("", backends=(Backend(url="http://vllm.example", dns=True),))
    status, body = await text_of(proxy)

    assert (status, body["error"]["code"]) == (502, "upstream_unavailable")
    assert "No model server is known" in body["error"]["message"]


async def test_a_unix_socket_is_an_upstream(start_proxy, tmp_path):
    path = str(tmp_path / "vllm.sock")

    async def answer(reader, writer):
        request = await reader.readuntil(b"\r\n\r\n")
        if request.startswith(b"POST"):
            await reader.read(1)
            writer.write(whole(completion("over a socket")))
        else:
            writer.write(whole({}))
        await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(answer, path):
        proxy = await start_proxy(f"unix:{path}")
        assert await text_of(proxy) == "over a socket"


async def test_a_unix_socket_that_is_not_there_is_502(start_proxy, tmp_path):
    proxy = await start_proxy(f"unix:{tmp_path}/none.sock")
    status, body = await text_of(proxy)

    assert (status, body["error"]["code"]) == (502, "upstream_unavailable")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,DNS:vllm.example", "-keyout", folder / "key.pem"),
            *("-out", folder / "cert.pem"),
        ],
        check=True,
        capture_output=True,
    )
    return folder


@pytest.mark.parametrize("trusts", [True, False])
@pytest.mark.parametrize("is_dns", [True, False])
async def test_https_trusts_its_own_certificates_and_no_others(start_proxy, monkeypatch, certificate, trusts, is_dns):
    async def addresses(url, timeout_s):
        return ("127.0.0.1",)

    monkeypatch.setattr("proxy.upstream.health.addresses_of", addresses)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")

    async def answer(reader, writer):
        request = await reader.readuntil(b"\r\n\r\n")
        writer.write(whole(completion("secret")) if request.startswith(b"POST") else whole({}))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        host = "vllm.example" if is_dns else "localhost"
        backend = Backend(
            url=f"https://{host}:{server.sockets[0].getsockname()[1]}",
            ca_file=os.fspath(certificate / "cert.pem") if trusts else "",
            dns=is_dns,
        )
        proxy = await start_proxy("", backends=(backend,))
        await until(lambda: proxy.edge.pool.replicas)
        found = await text_of(proxy)

        assert found == "secret" if trusts else found[1]["error"]["code"] == "upstream_unavailable"


# --- metrics


async def test_metrics_tell_of_each_replica(start_proxy, unused_port):
    async with ScriptedUpstream(answering("a")) as a:
        backends = (Backend(url=a.url, name="up"), Backend(url=f"http://127.0.0.1:{unused_port}", name="down"))
        proxy = await start_proxy("", backends=backends)
        for _ in range(3):
            await text_of(proxy)
        async with proxy.session.get(f"{proxy.url}/metrics") as response:
            text = await response.text()

    assert 'devstral_proxy_replica_requests_total{replica="up"} 3.0' in text
    assert 'devstral_proxy_replica_breaker{replica="up",state="closed"} 1.0' in text
    assert 'devstral_proxy_replica_breaker{replica="down",state="open"} 1.0' in text
    assert 'devstral_proxy_replica_breaker_openings_total{replica="down"} 1.0' in text
    assert 'devstral_proxy_replica_in_flight{replica="up"} 0.0' in text


async def test_without_any_address_there_is_nothing_to_choose_from(start_proxy):
    proxy = await start_proxy("http://127.0.0.1:1")
    proxy.edge.pool._swap({})

    with pytest.raises(UpstreamUnavailable):
        proxy.edge.pool._serving("m")


# --- the profile `auto`

TOOL_THEN_USER = [
    {"role": "user", "content": "x"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "abcdefghi", "content": "y"},
    {"role": "user", "content": "z"},
]


def refused(text):
    return [whole({"error": {"message": text, "type": "BadRequestError", "param": None, "code": 400}}, 400)]


class Vllm(ScriptedUpstream):
    """Answers /tokenize by counting words, as a vLLM that tolerates everything, and chat by script."""

    def next_script(self):
        request = self.requests[-1]
        if request.target == "/tokenize":
            body = request.json
            words = sum(len(str(message.get("content")).split()) for message in body["messages"])
            self.requests.pop()
            return [whole({"count": 1 + 9 * words + 9 * len(body.get("tools", []))})]
        if request.target in ("/version", "/v1/models"):
            self.requests.pop()
            return [whole({"version": "0.32.0", "object": "list", "data": [{"id": "devstral"}]})]
        return super().next_script()


async def test_auto_leaves_out_the_rules_that_an_upstream_can_do_without(start_proxy):
    async with Vllm(answering("a")) as vllm:
        proxy = await start_proxy(vllm.url, profile="auto")
        await until(lambda: proxy.log.lines("profile"))
        await text_of(proxy, messages=TOOL_THEN_USER)

        assert [message["role"] for message in vllm.requests[0].json["messages"]] == [
            *("user", "assistant", "tool", "user")
        ]


async def test_a_refusal_that_a_rule_would_have_avoided_brings_the_rule_back_and_is_not_seen(start_proxy):
    async with Vllm(refused("Unexpected role 'user' after role 'tool'"), answering("a")) as vllm:
        proxy = await start_proxy(vllm.url, profile="auto")
        await until(lambda: proxy.log.lines("profile"))
        for _ in range(2):
            assert await text_of(proxy, messages=TOOL_THEN_USER) == "a"

        roles = [[message["role"] for message in request.json["messages"]] for request in vllm.requests]
        bridged = ["user", "assistant", "tool", "assistant", "user"]
        assert roles == [["user", "assistant", "tool", "user"], bridged, bridged]
        first, second = proxy.log.lines("request")
        assert (first["attempts"], first["retried"], second["attempts"]) == (2, ["rejected_shape"], 1)


async def test_a_refusal_that_comes_again_reaches_the_client(start_proxy):
    async with Vllm(refused("Unexpected role 'user' after role 'tool'")) as vllm:
        proxy = await start_proxy(vllm.url, profile="auto")
        await until(lambda: proxy.log.lines("profile"))
        status, _ = await text_of(proxy, messages=TOOL_THEN_USER)

        assert (status, len(vllm.requests)) == (400, 2)


async def test_an_upstream_that_cannot_be_asked_gets_every_rule(start_proxy):
    async with ScriptedUpstream(*[[whole({"detail": "Not Found"}, 404)]] * 3, answering("a")) as old:
        proxy = await start_proxy(old.url, profile="auto")
        await until(lambda: not proxy.edge.pool.replicas[0].wants_probe)
        await text_of(proxy, messages=TOOL_THEN_USER)

        assert [message["role"] for message in old.requests[-1].json["messages"]][3] == "assistant"
