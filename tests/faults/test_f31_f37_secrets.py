"""
F31: no secret and no content in any log, whatever happens. F37: no credential of a client reaches the upstream.

F32: nothing in a request chooses where it goes. vllm-project/semantic-router#2132; sgl-project/sglang#3031;
Portkey-AI/gateway#1718.
"""

import base64

import msgspec
import pytest

from proxy.config import Backend
from tests.fakes import STREAM_HEAD, Do, ScriptedUpstream, completion, event, text_chunk, text_stream, whole

SECRET = "canary-secret-51d0c8e7"
SENT = {
    "Authorization": f"Bearer {SECRET}",
    "Proxy-Authorization": f"Basic {SECRET}",
    "Cookie": f"session={SECRET}",
    "X-Api-Key": SECRET,
    "Api-Key": SECRET,
    "X-Forwarded-For": "10.9.8.7",
    "X-Forwarded-Host": "canary.invalid",
    "Forwarded": "for=10.9.8.7",
    "X-Real-Ip": "10.9.8.7",
    "X-Custom": SECRET,
    "Connection": "X-Named",
    "X-Named": SECRET,
    "TE": "trailers",
    "Upgrade": "h2c",
    "X-Vllm-Host": "canary.invalid",
    "Referer": f"http://x/?{SECRET}",
}
FORMS = (SECRET, SECRET[:14], base64.b64encode(SECRET.encode()).decode()[:16], "canary")

CANARY_ERROR = {"error": {"message": SECRET, "type": "BadRequestError", "param": None, "code": 400}}
SCRIPTS = {
    "a whole answer": [whole(completion(SECRET))],
    "a stream": [text_stream(SECRET)],
    "an error": [whole(CANARY_ERROR, 400)],
    "401 with the key in it": [whole({"error": SECRET}, 401)],
    "an error event": [STREAM_HEAD, event(CANARY_ERROR), b"0\r\n\r\n"],
    "not JSON": [whole(SECRET.encode())],
    "not JSON in an event": [STREAM_HEAD, event(SECRET.encode()), b"0\r\n\r\n"],
    "HTML": [whole(SECRET.encode(), 500, content_type="text/html")],
    "not HTTP": [SECRET.encode() + b"\r\n\r\n"],
    "a bad header": [b"HTTP/1.1 200 OK\r\n" + SECRET.encode() + b"\r\n\r\n"],
    "a redirect": [whole(b"", 302, location=f"http://{SECRET}.invalid/")],
    "a reset inside a stream": [STREAM_HEAD, event(text_chunk(SECRET)), Do.RESET],
    "a cut answer": [whole(completion(SECRET))[:-9], Do.CLOSE],
    "no answer": [Do.CLOSE],
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
async def test_no_secret_and_no_content_is_logged(start_proxy, capfd, caplog, script, stream):
    async with ScriptedUpstream(script) as upstream:
        proxy = await start_proxy(upstream.url, vllm_api_key=SECRET + "-upstream")
        proxy.session.headers.update(SENT)
        async with proxy.chat(stream=stream, messages=[{"role": "user", "content": SECRET}], user=SECRET) as response:
            await response.read()
        await proxy.log.line()

        logged = proxy.log.text + caplog.text + "".join(capfd.readouterr())
        assert [form for form in FORMS if form in logged] == []


async def test_no_header_of_a_client_reaches_the_upstream(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url)
        proxy.session.headers.update(SENT)
        async with proxy.chat() as response:
            assert response.status == 200
        async with proxy.session.get(f"{proxy.url}/v1/models") as response:
            assert response.status == 200

        for request in upstream.requests:
            sent = request.raw.decode()
            assert [form for form in (*FORMS, "10.9.8.7", "trailers", "h2c") if form in sent] == []
            assert request.header("authorization") is None


async def test_no_field_of_a_request_chooses_the_upstream(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as meant, ScriptedUpstream([whole(completion())]) as other:
        proxy = await start_proxy(meant.url)
        proxy.session.headers.update({"X-Upstream": other.url, "Host": other.url.removeprefix("http://")})
        async with proxy.chat(api_base=other.url, base_url=other.url, custom_llm_provider=other.url) as response:
            assert response.status == 200

        assert (len(meant.requests), len(other.requests)) == (1, 0)
        assert meant.requests[0].header("host") == meant.url.removeprefix("http://")


async def test_a_redirect_of_the_upstream_leads_nowhere(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as other:
        async with ScriptedUpstream([whole(b"", 307, location=f"{other.url}/v1/chat/completions")]) as upstream:
            proxy = await start_proxy(upstream.url)
            async with proxy.chat() as response:
                assert response.status == 502

        assert other.requests == []


async def test_keys_of_backends_and_keys_that_came_by_a_reload_are_masked_too(start_proxy):
    """A replica that quotes its key in an error brings it into the log's reason."""
    keys = [f"canary-{number}-{'x' * 20}" for number in range(4)]
    async with ScriptedUpstream([whole({})]) as upstream:
        backends = (Backend(url=upstream.url, api_key=keys[0]),)
        proxy = await start_proxy("", backends=backends, batch_keys=f"{keys[1]},short", vllm_api_key=keys[2])
        new = (Backend(url=upstream.url, api_key=keys[3]),)
        await proxy.edge.reload(msgspec.structs.replace(proxy.edge.config, backends=new))
        proxy.edge.logger.info("test", texts=keys, other="short")

        assert proxy.log.lines("test")[0]["texts"] == ["***"] * 4
        assert proxy.log.lines("test")[0]["other"] == "short"
