"""One id names a request in the client's answer, the proxy's log and the model server's log (F38)."""

import re

import pytest

from tests.fakes import ScriptedUpstream, completion, text_stream, whole

MINTED = re.compile(r"req_[0-9a-f]{16}")


@pytest.mark.parametrize("offered", ["abc", "A.b_c-9", "x" * 128])
async def test_a_plain_id_is_kept_on_every_side(start_proxy, offered):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url)
        proxy.session.headers["X-Request-ID"] = offered
        async with proxy.chat() as response:
            assert response.headers["x-request-id"] == offered

        assert upstream.requests[0].header("x-request-id") == offered
        assert (await proxy.log.line())["request_id"] == offered


@pytest.mark.parametrize("offered", [None, "", "a b", "x" * 129, "é", 'a"b', "../x"])
async def test_any_other_id_is_replaced_on_every_side(start_proxy, offered):
    async with ScriptedUpstream([text_stream("Hello")]) as upstream:
        proxy = await start_proxy(upstream.url)
        if offered is not None:
            proxy.session.headers["X-Request-ID"] = offered
        async with proxy.chat(stream=True) as response:
            minted = response.headers["x-request-id"]

        assert MINTED.fullmatch(minted)
        assert upstream.requests[0].header("x-request-id") == minted
        assert (await proxy.log.line())["request_id"] == minted


async def test_errors_carry_the_id_too(start_proxy, unused_port):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}")
    async with proxy.session.get(f"{proxy.url}/nowhere", headers={"X-Request-ID": "abc"}) as response:
        assert (response.status, response.headers["x-request-id"]) == (404, "abc")
    async with proxy.chat() as response:
        assert (response.status, bool(MINTED.fullmatch(response.headers["x-request-id"]))) == (502, True)
