"""What is answered, and what is not."""

import asyncio

import pytest

from proxy.edge.routes import LIVE, READY
from tests.fakes import Do, ScriptedUpstream, head, whole

UP = whole({"ok": True})


async def test_a_path_outside_the_allow_list_is_404_in_openais_shape_and_reaches_no_upstream(start_proxy):
    paths = ["/pause", "/invocations", "/v1/load_lora_adapter", "/v1/completions", "/v1", "/health/x"]
    tricks = ["/v1//chat/completions", "/v1/chat/completions;x", "/v1/%63hat/completions", "/v1/x/%2e%2e/models"]
    async with ScriptedUpstream([UP]) as upstream:
        proxy = await start_proxy(upstream.url)
        for path in paths + tricks:
            for method in ("GET", "POST"):
                reader, writer = await proxy.raw(
                    f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
                )
                answer = await reader.read()
                writer.close()

                assert answer.startswith(b"HTTP/1.1 404 "), path
                assert b'"type":"not_found_error"' in answer, path
                assert path.encode() in answer, path

        assert upstream.requests == []


async def test_a_long_unknown_path_is_cut_in_the_answer_and_in_the_log(start_proxy, unused_port):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}")

    async with proxy.session.get(f"{proxy.url}/{'a' * 5000}") as response:
        message = (await response.json())["error"]["message"]

    assert len(message) < 250
    assert len((await proxy.log.line())["path"]) <= 201


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/chat/completions", "POST"),
        ("OPTIONS", "/v1/chat/completions", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("PUT", "/health", "GET, HEAD"),
        ("TRACE", "/", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_405_with_allow(start_proxy, unused_port, method, path, allow):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}")

    async with proxy.session.request(method, proxy.url + path) as response:
        assert (response.status, response.headers["Allow"]) == (405, allow)
        assert (await response.json())["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/", "/version", "/health", *LIVE, *READY])
async def test_own_pages_answer_get_and_head_and_ignore_a_trailing_slash(start_proxy, path):
    async with ScriptedUpstream([UP]) as upstream:
        proxy = await start_proxy(upstream.url)
        for url in (proxy.url + path, proxy.url + path + "/"):
            async with proxy.session.get(url) as response:
                assert response.status == 200
                assert isinstance(await response.json(), dict)
            async with proxy.session.head(url) as response:
                assert response.status == 200
                assert await response.read() == b""


async def test_models_are_passed_through_as_they_are(start_proxy):
    models = b'{"object":"list", "data":[{"id":"devstral","max_model_len":131072}]}'
    async with ScriptedUpstream([whole(models)]) as upstream:
        proxy = await start_proxy(upstream.url, vllm_api_key="key-of-the-upstream")
        async with proxy.session.get(f"{proxy.url}/v1/models/") as response:
            assert (response.status, await response.read()) == (200, models)

        assert upstream.requests[0].target == "/v1/models"
        assert upstream.requests[0].header("authorization") == "Bearer key-of-the-upstream"


async def test_the_upstreams_prefix_is_kept(start_proxy):
    async with ScriptedUpstream([UP]) as upstream:
        proxy = await start_proxy(upstream.url + "/tenant/a")
        async with proxy.session.get(f"{proxy.url}/v1/models"):
            pass

        assert [request.target for request in upstream.requests] == ["/tenant/a/health", "/tenant/a/v1/models"]


async def test_ready_follows_the_upstream_and_live_does_not(start_proxy, unused_port):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}")

    for path, status in [*((path, 503) for path in READY), *((path, 200) for path in LIVE)]:
        async with proxy.session.get(proxy.url + path) as response:
            assert (path, response.status) == (path, status)
    async with proxy.session.get(f"{proxy.url}/health") as response:
        summary = await response.json()
    assert summary["status"] == "no_upstream"
    assert [(replica["sight"], replica["breaker"]) for replica in summary["replicas"]] == [("unhealthy", "open")]


@pytest.mark.parametrize(("status", "ready"), [(200, 200), (404, 200), (401, 200), (500, 503), (503, 503)])
async def test_an_upstream_that_answers_health_with_anything_but_5xx_is_ready(start_proxy, status, ready):
    async with ScriptedUpstream(health=[head(status, content_length="0")]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.session.get(f"{proxy.url}/readyz") as response:
            assert response.status == ready


async def test_readiness_asks_the_upstream_nothing(start_proxy):
    async with ScriptedUpstream(health=[UP]) as upstream:
        proxy = await start_proxy(upstream.url)
        for _ in range(20):
            async with proxy.session.get(f"{proxy.url}/readyz") as response:
                assert response.status == 200

        assert (upstream.requests, upstream.health_checks) == ([], 1)


async def test_a_full_pool_is_still_ready(start_proxy):
    async with ScriptedUpstream([Do.WAIT_FOR_PEER], [UP]) as upstream:
        proxy = await start_proxy(upstream.url, max_connections=1)
        asked = asyncio.ensure_future(proxy.chat().__aenter__())
        await upstream.asked.wait()
        async with proxy.session.get(f"{proxy.url}/readyz") as response:
            assert response.status == 200
        asked.cancel()


async def test_live_answers_while_the_upstream_does_not(start_proxy):
    async with ScriptedUpstream([Do.WAIT_FOR_PEER]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.session.get(f"{proxy.url}/livez") as response:
            assert response.status == 200

        assert upstream.requests == []


@pytest.mark.parametrize(
    ("settings", "pages"),
    [
        ({}, {"ui": "/ui", "metrics": "/metrics"}),
        ({"ui": "off"}, {"metrics": "/metrics"}),
        ({"metrics_port": 9090}, {"ui": "/ui"}),
    ],
)
async def test_the_index_names_the_pages_that_there_are(start_proxy, unused_port, settings, pages):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}", **settings)

    async with proxy.session.get(f"{proxy.url}/") as response:
        links = (await response.json())["links"]
    assert {name: links[name] for name in ("ui", "metrics") if name in links} == pages
    for path in (links["docs"], *pages.values()):
        async with proxy.session.get(f"{proxy.url}{path}") as response:
            assert response.status == 200
