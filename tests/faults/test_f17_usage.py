"""
F17: the model server is always asked for its count of tokens; a client sees it only if it asked.

BerriAI/litellm#8349; vllm-project/vllm#4967; Arthur-Ficial/apfel#100 (a chunk without choices crashes clients).
"""

import json

import pytest

from tests.fakes import DONE, STREAM_END, STREAM_HEAD, ScriptedUpstream, event, text_chunk

USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
SCRIPT = [
    STREAM_HEAD,
    event(text_chunk("Hi", role="assistant")),
    event(text_chunk("", finish="stop")),
    event({**text_chunk(), "choices": [], "usage": USAGE}),
    DONE,
    STREAM_END,
]


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, False),
        ({"stream_options": None}, False),
        ({"stream_options": {"include_usage": False}}, False),
        ({"stream_options": {"include_usage": True}}, True),
    ],
    ids=["not mentioned", "null", "false", "true"],
)
async def test_usage_is_asked_for_and_shown_only_to_who_asked(start_proxy, fields, wanted):
    async with ScriptedUpstream(SCRIPT) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(stream=True, **fields) as response:
            blocks = (await response.read()).split(b"\n\n")

        events = [json.loads(block[6:]) for block in blocks if block.startswith(b"data: {")]
        assert upstream.requests[0].json["stream_options"] == {"include_usage": True}
        assert [each["usage"] for each in events if each["choices"] == []] == [USAGE] * wanted
        assert all(each.get("usage") is None for each in events if each["choices"])
        line = await proxy.log.line()
        assert (line["tokens_in"], line["tokens_out"]) == (7, 2)
        async with proxy.session.get(f"{proxy.url}/metrics") as response:
            text = await response.text()
        assert 'devstral_proxy_tokens_total{direction="in"} 7.0' in text
        assert 'devstral_proxy_tokens_total{direction="out"} 2.0' in text
