"""Authentication as a client meets it: over the socket, through the proxy, in its log and in its process."""

import asyncio
import ssl
from datetime import UTC, datetime

import aiohttp
import msgspec
import openai
import pytest
import trustme

from proxy.access.commands import keys
from proxy.access.keys import encode_entries, new_key
from proxy.cli import main
from proxy.config import Issuer, Tier
from proxy.edge.routes import OPEN, PAGES, ROUTES
from tests.access.signing import AUDIENCE, RSA, IssuerServer, token_of
from tests.edge.test_serve import run_proxy
from tests.edge.test_serve import start_process as start_process  # the fixture
from tests.fakes import DONE, STREAM_END, STREAM_HEAD, ScriptedUpstream, completion, event, text_chunk, whole

TIERS = {"ops": Tier(operator=True), "small": Tier(models=("small",))}


def made(name, tier=""):
    key, entry = new_key(name, tier, datetime.now(UTC), None)
    return key, encode_entries([entry])


@pytest.fixture
async def upstream():
    async with ScriptedUpstream([whole(completion("Hello"))]) as upstream:
        yield upstream


async def status_of(proxy, path, token=None, method="GET"):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with proxy.session.request(method, proxy.url + path, headers=headers) as response:
        return response.status


async def test_a_request_without_a_key_is_told_how_to_come_in_and_reaches_nothing(upstream, start_proxy):
    proxy = await start_proxy(upstream.url, api_keys="k1")

    async with proxy.chat() as response:
        body = await response.json()

    assert response.status == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert body["error"]["type"] == "authentication_error"
    assert body["error"]["code"] == "invalid_api_key"
    assert "Send `Authorization: Bearer`" in body["error"]["message"]
    assert upstream.requests == []


async def test_openais_client_has_its_key_accepted_and_its_errors_typed(upstream, start_proxy):
    key, text = made("alice")
    proxy = await start_proxy(upstream.url, keys=text)
    messages = [{"role": "user", "content": "Hi"}]
    async with openai.AsyncOpenAI(api_key=key, base_url=f"{proxy.url}/v1", max_retries=0) as client:
        answer = await client.chat.completions.create(model="devstral", messages=messages)
        assert answer.choices[0].message.content == "Hello"
    async with openai.AsyncOpenAI(api_key="wrong", base_url=f"{proxy.url}/v1", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(model="devstral", messages=messages)


@pytest.mark.parametrize("path", sorted(OPEN))
async def test_what_is_for_everybody_needs_no_key(path, upstream, start_proxy):
    proxy = await start_proxy(upstream.url, api_keys="k1")

    assert await status_of(proxy, path) == 200


async def test_every_other_route_needs_one(upstream, start_proxy):
    proxy = await start_proxy(upstream.url, api_keys="k1")
    guarded = [
        (method, path) for path, methods in (ROUTES | PAGES).items() if path not in OPEN for method in (*methods,)
    ]
    for method, path in guarded:
        async with proxy.session.request(method, proxy.url + path, data=b"{}") as response:
            assert (path, response.status, response.headers["WWW-Authenticate"]) == (path, 401, "Bearer")

    assert len(guarded) >= 8
    assert upstream.requests == []


@pytest.mark.parametrize("path", ["/metrics", "/health", "/v1/models"])
async def test_what_shows_something_of_others_needs_one(path, upstream, start_proxy):
    key, text = made("root", "ops")
    proxy = await start_proxy(upstream.url, api_keys="k1", keys=text, tiers=TIERS)

    assert await status_of(proxy, path) == 401
    assert await status_of(proxy, path, "wrong") == 401
    assert await status_of(proxy, path, "k1") == (200 if path == "/v1/models" else 403)
    assert await status_of(proxy, path, key) == 200


async def test_an_unknown_path_is_no_way_to_find_out_whether_a_key_is_good(upstream, start_proxy):
    proxy = await start_proxy(upstream.url, api_keys="k1")

    assert [await status_of(proxy, "/v1/nothing", token) for token in (None, "wrong", "k1")] == [404, 404, 404]


async def test_the_log_says_who_it_was_and_never_with_what(upstream, start_proxy):
    key, text = made("alice")
    proxy = await start_proxy(upstream.url, keys=text, api_keys="plain-secret")
    wrong = key[:-4] + "0000"
    for token in (key, "plain-secret", wrong, "other-secret"):
        async with proxy.chat() as response:
            pass
        proxy.session.headers["Authorization"] = f"Bearer {token}"
    async with proxy.chat() as response:
        assert response.status == 401

    await proxy.log.line()
    lines = proxy.log.lines("request")
    assert [line["principal"] for line in lines] == [None, "alice", "api_keys[0]", None, None]
    assert [line["error"] for line in lines] == ["invalid_api_key", None, None, "invalid_api_key", "invalid_api_key"]
    for secret in (key.split("_")[2][:16], "plain-secret", "other-secret", wrong[-16:]):
        assert secret not in proxy.log.text


async def test_a_clients_key_does_not_reach_the_model_server(upstream, start_proxy):
    key, text = made("alice")
    proxy = await start_proxy(upstream.url, keys=text, vllm_api_key="upstream-key")
    proxy.session.headers["Authorization"] = f"Bearer {key}"

    async with proxy.chat() as response:
        assert response.status == 200

    [request] = upstream.requests
    assert request.header("authorization") == "Bearer upstream-key"
    assert key.encode() not in request.raw


async def test_a_key_of_a_tier_that_is_not_there_is_seen_in_the_log(upstream, start_proxy):
    key, text = made("alice", "platinum")
    proxy = await start_proxy(upstream.url, keys=text, tiers=TIERS)
    proxy.session.headers["Authorization"] = f"Bearer {key}"

    async with proxy.chat() as response:
        assert response.status == 403

    assert (await proxy.log.line())["error"] == "unknown_tier"
    assert upstream.requests == []


async def test_a_tier_may_ask_for_its_models_only(upstream, start_proxy):
    key, text = made("alice", "small")
    proxy = await start_proxy(upstream.url, keys=text, tiers=TIERS)
    proxy.session.headers["Authorization"] = f"Bearer {key}"

    async with proxy.chat(model="small") as response:
        assert response.status == 200
    async with proxy.chat(model="large") as response:
        assert response.status == 403
        assert (await response.json())["error"]["code"] == "model_not_allowed"


async def test_two_authorization_headers_are_none(upstream, start_proxy):
    proxy = await start_proxy(upstream.url, api_keys="k1")
    reader, writer = await proxy.raw(
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k1\r\nauthorization: Bearer k1\r\n\r\n"
    )

    assert (await reader.readline()).split()[1] == b"401"
    writer.close()


async def test_a_key_in_the_url_is_none(upstream, start_proxy):
    proxy = await start_proxy(upstream.url, api_keys="k1")

    for query in ("access_token=k1", "api_key=k1", "key=k1"):
        assert await status_of(proxy, f"/v1/models?{query}") == 401


async def test_a_refusal_comes_before_the_body_is_read(upstream, start_proxy):
    proxy = await start_proxy(upstream.url, api_keys="k1")
    reader, writer = await proxy.raw(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: 1000000\r\n\r\n{"
    )

    assert (await reader.readline()).split()[1] == b"401"
    writer.close()


async def test_an_issuer_that_is_down_is_503_and_a_time_to_come_again(upstream, start_proxy, unused_port):
    url = f"http://127.0.0.1:{unused_port}"
    proxy = await start_proxy(upstream.url, issuers=(Issuer(url=url, audience=(AUDIENCE,)),))
    proxy.session.headers["Authorization"] = f"Bearer {token_of(url)}"

    async with proxy.chat() as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) >= 1
        assert (await response.json())["error"]["code"] == "undecided"
    assert proxy.log.lines("issuer_failed")[0]["issuer"] == url


async def test_other_keys_are_in_effect_for_the_next_request_and_running_streams_go_on(start_proxy):
    (first, text), (second, other_text) = made("first"), made("second")
    gate = asyncio.Event()
    script = [STREAM_HEAD, event(text_chunk("Hel")), gate, event(text_chunk("lo", finish="stop")), DONE, STREAM_END]
    async with ScriptedUpstream(script, [whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, keys=text)
        proxy.session.headers["Authorization"] = f"Bearer {first}"
        async with proxy.chat(stream=True) as response:
            await proxy.edge.reload(msgspec.structs.replace(proxy.edge.config, keys=other_text))
            async with proxy.chat() as refused:
                assert refused.status == 401
            gate.set()
            assert (await response.read()).endswith(b"data: [DONE]\n\n")
        proxy.session.headers["Authorization"] = f"Bearer {second}"
        async with proxy.chat() as accepted:
            assert accepted.status == 200


async def test_tokens_and_keys_are_accepted_side_by_side(upstream, start_proxy):
    async with IssuerServer(RSA) as issuer:
        proxy = await start_proxy(upstream.url, api_keys="k1", issuers=(Issuer(url=issuer.url, audience=(AUDIENCE,)),))
        for token, status in (("k1", 200), (token_of(issuer.url), 200), (token_of("https://id.example"), 401)):
            proxy.session.headers["Authorization"] = f"Bearer {token}"
            async with proxy.chat() as response:
                assert response.status == status


async def status_at(url, token):
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers) as session, session.get(f"{url}/v1/models") as response:
        return response.status


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_keys_come_and_go_while_the_proxy_runs(workers, upstream, start_process, tmp_path, capsys):
    path = str(tmp_path / "keys.json")

    def run(*arguments):
        assert keys([*arguments, "--keys-file", path], {}) == 0
        return capsys.readouterr().out.strip()

    alice = run("add", "alice")
    flags = ("--keys-file", path, "--watch-config-s", "0.05", "--workers", workers)
    proxy = await start_process(*flags, VLLM_BASE=upstream.url)

    async def statuses(token):
        """Of requests on connections of their own, so that every worker is asked."""
        return {await status_at(proxy.url, token) for _ in range(8)}

    assert await statuses(alice) == {200}
    bob = run("add", "bob")
    assert (await proxy.log_line("config_reloaded"))["changed"] == ["keys"]
    run("revoke", "alice")
    await proxy.log_line("config_reloaded")
    async with asyncio.timeout(20):
        while (await statuses(alice), await statuses(bob)) != ({401}, {200}):  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.05)


async def test_a_file_of_keys_that_is_broken_while_the_proxy_runs_changes_nothing(upstream, start_process, tmp_path):
    path = tmp_path / "keys.json"
    key, text = made("alice")
    path.write_text(text)
    proxy = await start_process("--keys-file", str(path), "--watch-config-s", "0.05", VLLM_BASE=upstream.url)

    path.write_text('{"SECRET"')

    line = await proxy.log_line("config_reload_failed")
    assert line["error"] == "keys_file: not a file that `devstral-proxy keys` has written"
    assert await status_at(proxy.url, key) == 200


async def test_a_clients_certificate_says_who_it_is_and_is_not_enough_beside_keys(upstream, start_process, tmp_path):
    authority = trustme.CA()
    pem = {name: str(tmp_path / f"{name}.pem") for name in ("authority", "server")}
    authority.cert_pem.write_to_path(pem["authority"])
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem["server"])
    context = ssl.create_default_context(cafile=pem["authority"])
    authority.issue_cert("alice.example", common_name="alice").configure_cert(context)
    tls = ("--tls-cert-file", pem["server"], "--tls-client-ca-file", pem["authority"], "--workers", "1")
    key, text = made("bob")

    for environment, token, status, principal in (
        ({}, "", 200, "cert:alice"),
        ({"PROXY_KEYS": text}, "", 401, None),
        ({"PROXY_KEYS": text}, key, 200, "bob"),
    ):
        proxy = await start_process(*tls, VLLM_BASE=upstream.url, **environment)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        connector = aiohttp.TCPConnector(ssl=context)
        url = f"https://127.0.0.1:{proxy.port}/v1/models"
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session, session.get(url) as response:
            assert response.status == status
        assert (await proxy.log_line("request"))["principal"] == principal


async def test_a_file_of_keys_that_is_broken_stops_the_start(tmp_path):
    path = tmp_path / "keys.json"
    path.write_text("SECRET")

    process = await run_proxy("--keys-file", str(path))
    _, error = await process.communicate()

    assert process.returncode == 78
    assert error == b"devstral-proxy: keys_file: not a file that `devstral-proxy keys` has written\n"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["add", "alice"], 0),
        (["list", "--json"], 0),
        (["revoke", "bob"], 1),
        (["remove"], 2),
        (["list", "--keys-file", "/"], 78),
    ],
)
def test_the_command_is_part_of_the_program(arguments, code, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PROXY_KEYS_FILE", str(tmp_path / "keys.json"))
    try:
        found = main(["keys", *arguments])
    except SystemExit as exc:
        found = exc.code

    assert found == code
