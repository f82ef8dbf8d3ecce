"""
F32: where a request goes is the configuration's business alone, and where an answer leads is nobody's.

BerriAI/litellm#24952, #37053; Portkey-AI/gateway#1718; mlflow/mlflow#25761. See test_f31_f37_secrets.py for the rest.
"""

import pytest

from tests.fakes import ScriptedUpstream, completion, whole

#: By what gateways let a request choose.
HEADERS = [
    *("x-upstream-host", "x-vllm-host", "x-custom-host", "x-portkey-custom-host", "x-forwarded-host", "x-host"),
    *("x-target-url", "x-original-url", "x-rewrite-url", "forwarded", "x-gateway-destination-endpoint"),
]
FIELDS = ["api_base", "base_url", "api_url", "endpoint", "custom_llm_provider", "provider", "custom_host", "proxies"]


@pytest.mark.parametrize("name", [*HEADERS, *FIELDS, "absolute target", "host"])
async def test_nothing_in_a_request_chooses_where_it_goes(start_proxy, name):
    async with ScriptedUpstream([whole(completion())]) as meant, ScriptedUpstream([whole(completion())]) as other:
        proxy = await start_proxy(meant.url)
        address = other.url.removeprefix("http://")
        body = b'{"model":"m","messages":[{"role":"user","content":"Hi"}]%b}' % (
            f',"{name}":"{other.url}"'.encode() if name in FIELDS else b""
        )
        target = other.url if name == "absolute target" else ""
        lines = [f"POST {target}/v1/chat/completions HTTP/1.1", f"Host: {address if name == 'host' else 'x'}"]
        lines += [f"{name}: {other.url}", f"{name}: {address}"] if name in HEADERS else []
        lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
        reader, writer = await proxy.raw("\r\n".join(lines).encode() + body)
        status = (await reader.read())[:12]
        writer.close()

        assert (status, len(meant.requests)) == (b"HTTP/1.1 200", 1)
        assert (other.requests, other.connections_made, other.health_checks) == ([], 0, 0)
        assert meant.requests[0].target == "/v1/chat/completions"
        assert meant.requests[0].header("host") == meant.url.removeprefix("http://")
        assert address not in meant.requests[0].raw.decode()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("path", ["chat", "models", "health"])
async def test_no_redirect_of_a_model_server_is_followed(start_proxy, status, path):
    async with ScriptedUpstream([whole(completion())]) as other:
        moved = [whole(b"", status, location=f"{other.url}/elsewhere")]
        async with ScriptedUpstream(moved, **({"health": moved} if path == "health" else {})) as upstream:
            proxy = await start_proxy(upstream.url)
            asked = proxy.chat() if path == "chat" else proxy.session.get(f"{proxy.url}/v1/models")
            async with asked as response:
                assert response.status == 502
                assert other.url not in str(response.headers) + await response.text()

        assert (other.requests, other.connections_made, other.health_checks) == ([], 0, 0)
